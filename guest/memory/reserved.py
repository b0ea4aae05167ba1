"""The pages of a process's memory that it needs for itself: for the numbers of its threads, and for their ends."""

from guest.link.segment import PAGE_BYTES

THREADS_MAX = 256
"""Threads that a process may start in its life."""
ENTRY_BYTES = 256
"""What the memory keeps of each thread: whether it has ended, how, and its result."""
RESERVED_PAGES = 1 + THREADS_MAX * ENTRY_BYTES // PAGE_BYTES
"""Behind those that threads may use."""
