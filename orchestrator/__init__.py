"""Experiments: what to run, running it, and what came of it; and the `testbed` command.

An experiment's life is one function, `orchestrator.run.run`: plan, provision, deploy, run, collect, judge, report.
It runs on a stage (`orchestrator.stages.stage`): real guests, or the same daemons as processes on this host.
"""
