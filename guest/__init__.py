"""All that runs inside a guest, on the standard library alone: engine, userfaultfd, ivshmem, daemon, workloads.

Nothing here imports anything of the host's side. The host imports the protocol and the segment layout from here.
"""
