"""Arithmetic of a cut, without any tensor: where the parts begin and end, which names belong to them, where they live."""

from splitlearn.cut.devices import DeviceMapError, resolve_device_map
from splitlearn.cut.names import ParamMapper
from splitlearn.cut.plan import PART_NAMES, CutError, PartSpec, SplitPlan

__all__ = ["PART_NAMES", "CutError", "DeviceMapError", "ParamMapper", "PartSpec", "SplitPlan", "resolve_device_map"]
