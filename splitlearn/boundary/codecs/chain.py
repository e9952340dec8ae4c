"""Several codecs, one after the other.

Shapes: D numbers of one token, in the last dimension.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch

from splitlearn.boundary.codecs.codec import Codec, CodecContext, Columns


class Chain(Codec):
    """Encodes with the first codec, then the column ``values`` that it sends with the next, and so on.

    Args:
        codecs: in the order in which they encode.

    Raises:
        ValueError: there is none, or one that another follows sends no numbers that can be encoded again.
    """

    name = ""

    def __init__(self, codecs: Sequence[Codec]) -> None:
        if not codecs:
            raise ValueError("a composition needs at least one codec")
        for codec, following in pairwise(codecs):
            if codec.next_width(1) is None:
                raise ValueError(
                    f"{following.name} cannot follow {codec.name}, which sends no numbers that can be encoded again"
                )
        self.codecs = tuple(codecs)
        self.is_exact = all(codec.is_exact for codec in codecs)
        self.sizes_depend_on_data = any(codec.sizes_depend_on_data for codec in codecs)
        self.needs_examples = any(codec.needs_examples for codec in codecs)
        self.takes_error_feedback = all(codec.takes_error_feedback for codec in codecs)
        self.name = self.name or ", then ".join(codec.name for codec in codecs)

    def encode(self, tensor: torch.Tensor, context: CodecContext) -> Columns:
        """Return the columns of all codecs; the last one's ``values`` stand for those of the others."""
        columns: Columns = {}
        values = tensor
        for number, codec in enumerate(self.codecs):
            own = codec.encode(values, replace(context, shape=values.shape))
            values = own.pop("values")
            columns |= {f"{number}.{name}": column for name, column in own.items()}
        return {"values": values, **columns}

    def decode(self, columns: Columns, dtype: torch.dtype, context: CodecContext) -> torch.Tensor:
        """Return what the first codec makes of what the others have decoded."""
        values = columns["values"]
        for (number, codec), width in reversed(list(self._stages(context.shape[-1]))):
            prefix = f"{number}."
            own = {name.removeprefix(prefix): column for name, column in columns.items() if name.startswith(prefix)}
            own_context = replace(context, shape=torch.Size((*context.shape[:-1], width)))
            values = codec.decode({"values": values, **own}, dtype, own_context)
        return values

    def next_width(self, width: int) -> int | None:
        """Return the width of the last codec's ``values``; None if no other may follow."""
        current: int | None = width
        for codec in self.codecs:
            current = None if current is None else codec.next_width(current)
        return current

    def state_dict(self) -> dict[str, Any]:
        """Return the states of those codecs that have one, by their numbers."""
        states = {str(number): codec.state_dict() for number, codec in enumerate(self.codecs)}
        return {number: state for number, state in states.items() if state}

    def receiver_state(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the receiver remembers, too, of each codec's state."""
        states = {str(number): codec.receiver_state(state.get(str(number), {})) for number, codec in enumerate(self.codecs)}
        return {number: own for number, own in states.items() if own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Give each codec the state that it had.

        Raises:
            ValueError: it is of another composition.
        """
        strange = set(state) - {str(number) for number in range(len(self.codecs))}
        if strange:
            raise ValueError(f"the codec {self.name} has no place for the state of {min(strange)}")
        for number, codec in enumerate(self.codecs):
            codec.load_state_dict(state.get(str(number), {}))

    def _stages(self, width: int) -> Iterator[tuple[tuple[int, Codec], int]]:
        """Yield each codec with its number and the width of what it encodes."""
        for number, codec in enumerate(self.codecs):
            yield (number, codec), width
            width = codec.next_width(width) or 0
