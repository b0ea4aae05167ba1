"""`python -m orchestrator` is `testbed`."""

from orchestrator.cli import main

main()
