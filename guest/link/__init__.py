"""What joins kernels: memory that all of them map, laid out as rings and page slots, and doorbells."""
