"""The tools users import by hand, under the path they know them by."""

from splitlearn.checkpoint import ShardLoader
from splitlearn.cut import ParamMapper
from splitlearn.memory import MemoryTracker

__all__ = ["MemoryTracker", "ParamMapper", "ShardLoader"]
