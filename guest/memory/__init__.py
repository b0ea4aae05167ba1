"""The shared region on one kernel: its pages, who may touch them, and the faults of those who do."""
