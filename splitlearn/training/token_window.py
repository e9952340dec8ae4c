"""Loss per supervised token over a whole optimizer step, however many micro-batches it is accumulated from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from splitlearn.data import IGNORED_LABEL


class TokenWindow:
    """Counts the supervised tokens of one optimizer step.

    How many tokens a step will have is not known at its first micro-batch. So every micro-batch's summed loss is divided by the
    first one's count, and the gradients are scaled once at the end to the count of all. With one micro-batch a step nothing is
    scaled, and the gradients are exactly those of the mean.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self, counts: Sequence[int] = (0, 0)) -> None:
        """Forget what was counted, or go on from what `counts` returned."""
        self._first, self._total = counts

    def counts(self) -> list[int]:
        """Return what was counted since the last step; zeros if nothing was."""
        return [self._first, self._total]

    def add(self, num_tokens: int) -> int:
        """Count a micro-batch's supervised tokens and return what to divide its summed loss by (at least 1)."""
        if self._first == 0:
            self._first = max(num_tokens, 1)
        self._total += num_tokens
        return self._first

    def factor(self) -> float:
        """Return what the gradients of the tokens counted so far have to be multiplied by for their mean."""
        return self._first / max(self._total, 1)

    def close(self, parameters: Iterable[torch.nn.Parameter]) -> float:
        """Scale the gradients to the mean over all tokens since the last call, begin anew, and return the factor."""
        factor = self.factor()
        self.reset()
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if factor != 1.0 and gradients:
            torch._foreach_mul_(gradients, factor)
        return factor


def count_supervised(labels_BT: torch.Tensor) -> int:
    """Return how many tokens of ``labels_BT`` (B, T) the loss counts: each row's first token has nothing to predict it."""
    return int((labels_BT[:, 1:] != IGNORED_LABEL).sum())
