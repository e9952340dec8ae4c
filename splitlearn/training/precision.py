"""Mixed precision for parts on several kinds of device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Literal, get_args

import torch
from lightning.pytorch.plugins.precision import Precision

from splitlearn.naming import named

_Name = Literal["32-true", "bf16-mixed", "bf16-true"]
PRECISIONS: tuple[_Name, ...] = get_args(_Name)


class SplitPrecision(Precision):
    """The precision of the weights, or bfloat16 autocast on every kind of device that a part lives on.

    Lightning's own plugin autocasts on one kind of device only. Weights that are bfloat16 themselves are loaded so, by whoever
    asks for ``"bf16-true"``: that keeps rotary frequencies in fp32, which Lightning's plugin would convert too.

    Args:
        precision: ``"32-true"``, ``"bf16-mixed"`` or ``"bf16-true"``.
        devices: the device of each part by name.

    Raises:
        ValueError: another precision is asked for.
    """

    def __init__(self, precision: str, devices: Mapping[str, str]) -> None:
        super().__init__()
        if precision not in PRECISIONS:
            raise ValueError(f"{named('precision')} is {precision!r}; use one of {', '.join(PRECISIONS)}")
        self.precision = precision
        self._device_types = sorted({torch.device(device).type for device in devices.values()})

    @contextmanager
    def forward_context(self) -> Iterator[None]:
        """Autocast on the parts' devices while a step runs forward."""
        with ExitStack() as stack:
            if self.precision == "bf16-mixed":
                for device_type in self._device_types:
                    stack.enter_context(torch.autocast(device_type, dtype=torch.bfloat16))
            yield
