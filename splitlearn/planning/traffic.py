"""The bytes over each cut in a step, counted before there is a model."""

from __future__ import annotations

import torch

from splitlearn.boundary import Boundary, BoundaryCodecs, CallKind, Parcel, TrafficMeter, find_routes
from splitlearn.cut import Placement


def traffic_of_step(
    placement: Placement,
    num_rows: int,
    num_tokens: int,
    hidden_size: int,
    dtype: torch.dtype,
    codecs: BoundaryCodecs | None = None,
) -> dict[str, dict[str, int]]:
    """Count the bytes that one training step sends if all parts are trained, by the boundaries' own meter.

    Mask, positions and recorded outputs are not counted: whether there are any depends on the batch and on the settings.

    Args:
        placement: who holds which part.
        num_rows: rows of a batch (B).
        num_tokens: tokens of a row (T).
        hidden_size: numbers for each token at a cut (D).
        dtype: their dtype.
        codecs: how what crosses the cuts is sent; None sends everything as it is. A codec whose bytes depend on the data is
            counted as for zeros in the first epoch.

    Returns:
        Bytes by cut, then by payload and direction, as `TrafficMeter.totals` returns them.
    """
    meter, codecs = TrafficMeter(), codecs or BoundaryCodecs()
    # Tensors on the meta device have sizes and no memory.
    labels_BT = torch.zeros(num_rows, num_tokens, dtype=torch.int64, device="meta")
    rows_B = torch.arange(num_rows)
    for route in find_routes(placement):
        boundary = Boundary(route, meter, *codecs.make(route.cut))
        if boundary.passes_directly(CallKind.TRAIN):
            continue
        needs_values = boundary.codec.sizes_depend_on_data or boundary.gradient_codec.sizes_depend_on_data
        device = "cpu" if needs_values else "meta"
        hidden_BTD = torch.zeros(num_rows, num_tokens, hidden_size, dtype=dtype, device=device, requires_grad=True)
        # Noise of a codec is drawn from the process's own generators here, which a run goes on with.
        with torch.random.fork_rng(devices=[]):
            ticket = boundary.send(Parcel(hidden_BTD), CallKind.TRAIN, labels_BT=labels_BT, rows_B=rows_B)
            parcel, _ = boundary.receive(ticket, hidden_BTD.device)
            parcel.hidden_BTD.sum().backward()
    return meter.totals(CallKind.TRAIN)
