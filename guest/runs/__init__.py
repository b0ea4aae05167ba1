"""Runs of workloads on one kernel: the processes that the daemon serves, and what came of them."""
