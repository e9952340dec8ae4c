"""Crossing a cut: parcels, the boundaries that they pass, and the bytes that are sent."""

from splitlearn.boundary.boundary import Boundary, Ticket, codec_states, pass_directly
from splitlearn.boundary.calls import CallKind
from splitlearn.boundary.codecs import (
    Chain,
    Codec,
    CodecContext,
    Columns,
    Exact,
    Gaussian,
    Reuse,
    codec_class,
    codec_names,
)
from splitlearn.boundary.freight import (
    Freight,
    add_own_outputs,
    load,
    load_gradients,
    unload,
    unload_gradients,
    without_graph,
)
from splitlearn.boundary.link import Link
from splitlearn.boundary.meter import COUNTS, CUT_NAMES, PAYLOADS, TrafficMeter
from splitlearn.boundary.observer import BoundaryObserver
from splitlearn.boundary.parcel import Handover, LayerOutputs, Parcel, tensors_of, to_device
from splitlearn.boundary.privacy import PrivacySettings, describe_privacy, noise_with_epsilon
from splitlearn.boundary.routes import U_SHAPED, Direction, Route, find_routes
from splitlearn.boundary.settings import BoundaryCodecs, CodecSettings
from splitlearn.boundary.shares import received_by, sent_by

__all__ = [
    "COUNTS",
    "CUT_NAMES",
    "PAYLOADS",
    "U_SHAPED",
    "Boundary",
    "BoundaryCodecs",
    "BoundaryObserver",
    "CallKind",
    "Chain",
    "Codec",
    "CodecContext",
    "CodecSettings",
    "Columns",
    "Direction",
    "Exact",
    "Freight",
    "Gaussian",
    "Handover",
    "LayerOutputs",
    "Link",
    "Parcel",
    "PrivacySettings",
    "Reuse",
    "Route",
    "Ticket",
    "TrafficMeter",
    "add_own_outputs",
    "codec_class",
    "codec_names",
    "codec_states",
    "describe_privacy",
    "find_routes",
    "load",
    "load_gradients",
    "noise_with_epsilon",
    "pass_directly",
    "received_by",
    "sent_by",
    "tensors_of",
    "to_device",
    "unload",
    "unload_gradients",
    "without_graph",
]
