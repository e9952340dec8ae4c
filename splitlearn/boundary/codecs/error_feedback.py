"""What encoding loses of an example is added to what is sent of it the next time.

Shapes: B rows, T tokens, D hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from splitlearn.boundary.calls import CallKind
from splitlearn.boundary.codecs.codec import Codec, CodecContext, Columns
from splitlearn.naming import named


class ErrorFeedback(Codec):
    """Carries the error of a codec from epoch to epoch, so that it averages out instead of being a bias.

    The unit is the example: for each example of the training data the sender keeps one error of shape (T, D), and adds it to
    the example's tensor in the next epoch. Errors stay on the tensor's device, in its dtype, and in checkpoints: examples x
    tokens x hidden size numbers for each direction at each cut. Evaluation, generation and recorded outputs pass without it.

    Args:
        codec: encodes.

    Raises:
        ValueError: the codec adds noise, which error feedback would take out again, or keeps state of its own.
    """

    name = ""
    needs_examples = True

    def __init__(self, codec: Codec) -> None:
        if not codec.takes_error_feedback:
            raise ValueError(
                f"{named('error_feedback')} is true, but {codec.name} takes none: it would undo noise and what the codec "
                "itself remembers"
            )
        self.codec = codec
        self.name = f"{codec.name} with error feedback"
        self.takes_error_feedback = False
        self.sizes_depend_on_data = codec.sizes_depend_on_data
        self._errors: dict[int, torch.Tensor] = {}

    def encode(self, tensor: torch.Tensor, context: CodecContext) -> Columns:
        """Return the columns of the tensor plus what was lost of these examples before.

        Raises:
            ValueError: the examples have no ids.
        """
        if context.kind is not CallKind.TRAIN or context.place:
            return self.codec.encode(tensor, context)
        if context.rows_B is None:
            raise ValueError(
                "error feedback needs examples with ids that are the same in every epoch; set error_feedback to false, or use "
                "data that are not streamed"
            )
        rows = context.rows_B.tolist()
        meant = tensor.clone()
        for place, row in enumerate(rows):
            if (error := self._errors.get(row)) is not None:
                # A batch may be padded to another length than the example's last one.
                length = min(len(error), tensor.shape[1])
                meant[place, :length] += error[:length].to(tensor.device)
        columns = self.codec.encode(meant, context)
        lost = meant - self.codec.decode(columns, tensor.dtype, context)
        if (mask := context.token_mask) is not None:
            lost = lost * mask.to(lost.device).unsqueeze(-1)
        # Copies: a view would keep the whole batch in memory.
        self._errors.update({row: error.clone() for row, error in zip(rows, lost, strict=True)})
        return columns

    def decode(self, columns: Columns, dtype: torch.dtype, context: CodecContext) -> torch.Tensor:
        """Return what the codec decodes; the receiver keeps nothing."""
        return self.codec.decode(columns, dtype, context)

    def next_width(self, width: int) -> int | None:
        """Return None: error feedback is of a whole composition."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """Return ``rows``, the examples' ids (N), and ``errors``, one of shape (T, D) for each."""
        if not self._errors:
            return {}
        return {"rows": torch.tensor(list(self._errors)), "errors": list(self._errors.values())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the errors that `state_dict` returned.

        Raises:
            ValueError: it is damaged, or of another codec.
        """
        rows, errors = state.get("rows"), state.get("errors", [])
        numbers = rows.tolist() if isinstance(rows, torch.Tensor) else []
        if not isinstance(errors, list) or len(numbers) != len(errors) or set(state) - {"rows", "errors"}:
            raise ValueError(f"the state of the codec {self.name} is damaged; go on from another checkpoint")
        self._errors = dict(zip(numbers, errors, strict=True))
