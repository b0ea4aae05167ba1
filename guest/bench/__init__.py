"""What `testbed bench` runs in guests."""
