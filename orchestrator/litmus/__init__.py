"""Litmus tests of the memory that kernels share: very short programs, run many times, whose outcomes are judged.

Shapes are data, guests run them, and `orchestrator.histories` says which outcomes sequential consistency allows.
"""
