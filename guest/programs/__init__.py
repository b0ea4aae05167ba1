"""The side of the programs: processes that attach to the memory, and only load and store."""
