"""Arithmetic of a cut, without any tensor: split points, tensor names, devices, and who holds which part."""

from splitlearn.cut.devices import DeviceMapError, resolve_device_map
from splitlearn.cut.names import ParamMapper
from splitlearn.cut.part_training import PartTraining
from splitlearn.cut.party import Party, PlacementError, parse_party
from splitlearn.cut.placement import CUTS, Placement, refuse_both
from splitlearn.cut.plan import PART_NAMES, CutError, PartSpec, SplitPlan, check_part_names
from splitlearn.cut.threat_model import HONEST_BUT_CURIOUS, Exposure, describe_threats, find_exposures

__all__ = [
    "CUTS",
    "HONEST_BUT_CURIOUS",
    "PART_NAMES",
    "CutError",
    "DeviceMapError",
    "Exposure",
    "ParamMapper",
    "PartSpec",
    "PartTraining",
    "Party",
    "Placement",
    "PlacementError",
    "SplitPlan",
    "check_part_names",
    "describe_threats",
    "find_exposures",
    "parse_party",
    "refuse_both",
    "resolve_device_map",
]
