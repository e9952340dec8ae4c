"""The trials of one model, each run once.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

from functools import cached_property

import torch

from splitlearn.model import ComposedCausalLM, has_linear_head
from splitlearn.training.trials.flops import count_flops
from splitlearn.training.trials.isolation import keeps_rows_apart
from splitlearn.training.trials.one_part import run_one_part

# Enough to tell whether a head does more than one linear map.
_HEAD_TOKENS = 4


class Trials:
    """Properties of a model, found by running it on made-up tokens. Each trial runs once, when its answer is first needed.

    Trials call one part after another and never the whole model, so nothing of them passes a cut.

    Args:
        composed: the model, with what is trained marked.
        num_frozen: how many parts from the bottom run without gradients.
    """

    def __init__(self, composed: ComposedCausalLM, num_frozen: int) -> None:
        self._composed = composed
        self._num_frozen = num_frozen
        self._flops: tuple[list[int] | None, int] | None = None

    @cached_property
    def keeps_rows_apart(self) -> bool:
        """Whether rows that lie side by side in a block do not see each other."""
        with self._composed.evaluating():
            return keeps_rows_apart(self._composed.parts)

    @cached_property
    def has_linear_head(self) -> bool:
        """Whether the logits are one linear map of what the head is given, and the loss is the usual one."""
        ids_BT = torch.arange(_HEAD_TOKENS)[None]
        with self._composed.evaluating(), torch.no_grad():
            # Any smashed data will do, so the trunk is left out: the bottom's have the right shape.
            smashed_BTD = run_one_part(self._composed.bottom, ids_BT)
            return has_linear_head(self._composed.top, smashed_BTD.to(self._composed.top.blueprint.dtype))

    def flops(self, num_rows: int, num_tokens: int, share_frozen: float = 1.0) -> int | None:
        """Return the operations of a training step on a batch; None if they are not known.

        They are counted for the first batch that is asked for, which takes a second or two. Others are taken to have as many
        for each token, though attention has more in longer rows.

        Args:
            num_rows: rows of the batch (B).
            num_tokens: tokens of each row (T).
            share_frozen: the share of the batch's rows that the frozen parts are run on.
        """
        if any(part.is_elsewhere for part in self._composed.parts):
            return None
        if self._flops is None:
            counts = count_flops(self._composed.parts, self._num_frozen, num_rows, num_tokens)
            self._flops = counts, num_rows * num_tokens
        counts, counted_tokens = self._flops
        if counts is None:
            return None
        frozen, rest = sum(counts[: self._num_frozen]), sum(counts[self._num_frozen :])
        return round((frozen * share_frozen + rest) * num_rows * num_tokens / counted_tokens)
