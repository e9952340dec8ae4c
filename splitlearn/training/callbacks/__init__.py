"""Callbacks, one a file."""

from splitlearn.training.callbacks.exact_resume import ExactResume
from splitlearn.training.callbacks.memory_report import MemoryReport
from splitlearn.training.callbacks.token_throughput import TokenThroughput

__all__ = ["ExactResume", "MemoryReport", "TokenThroughput"]
