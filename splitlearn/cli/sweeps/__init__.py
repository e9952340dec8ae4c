"""Sweeps: each run in a process of its own, one line for each, and a folder that can be gone on with."""

from splitlearn.cli.sweeps.launching import launch

__all__ = ["launch"]
