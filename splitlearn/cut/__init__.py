"""Arithmetic of a cut, without any tensor: where the parts begin and end, which names belong to them, where they live and
who holds them.
"""

from splitlearn.cut.devices import DeviceMapError, resolve_device_map
from splitlearn.cut.names import ParamMapper
from splitlearn.cut.part_training import PartTraining
from splitlearn.cut.placement import CUTS, Party, Placement, PlacementError, refuse_both
from splitlearn.cut.plan import PART_NAMES, CutError, PartSpec, SplitPlan, check_part_names

__all__ = [
    "CUTS",
    "PART_NAMES",
    "CutError",
    "DeviceMapError",
    "ParamMapper",
    "PartSpec",
    "PartTraining",
    "Party",
    "Placement",
    "PlacementError",
    "SplitPlan",
    "check_part_names",
    "refuse_both",
    "resolve_device_map",
]
