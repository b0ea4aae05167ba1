"""Experiment files: reading them, what they may say, and the points that they amount to."""
