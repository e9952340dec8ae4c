"""Crossing a cut: parcels, the boundaries that they pass, and the bytes that are sent."""

from splitlearn.boundary.boundary import Boundary, Ticket, pass_directly
from splitlearn.boundary.calls import CallKind
from splitlearn.boundary.codecs import CODECS, Codec
from splitlearn.boundary.meter import COUNTS, CUT_NAMES, PAYLOADS, TrafficMeter
from splitlearn.boundary.observer import BoundaryObserver
from splitlearn.boundary.parcel import Handover, LayerOutputs, Parcel, tensors_of, to_device
from splitlearn.boundary.routes import U_SHAPED, Direction, Route, find_routes

__all__ = [
    "CODECS",
    "COUNTS",
    "CUT_NAMES",
    "PAYLOADS",
    "U_SHAPED",
    "Boundary",
    "BoundaryObserver",
    "CallKind",
    "Codec",
    "Direction",
    "Handover",
    "LayerOutputs",
    "Parcel",
    "Route",
    "Ticket",
    "TrafficMeter",
    "find_routes",
    "pass_directly",
    "tensors_of",
    "to_device",
]
