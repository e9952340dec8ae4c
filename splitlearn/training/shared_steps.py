"""The steps of a part that several clients train: their gradients are kept apart until a step is taken with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch

from splitlearn.training.optimization import Optimization
from splitlearn.training.part_owner import LocalOwner, StepOrder

# One step with each client in turn, or one with all of them.
SEQUENTIAL, CONCURRENT = ORDERS = ("sequential", "concurrent")


class SharedSteps:
    """Takes the steps of a part that several clients train. It counts them itself, and has a schedule of its own.

    Args:
        owner: holds the part.
        optimization: learning rates, decay and schedule.
        num_steps: how many steps the part will take, for the schedule.

    Attributes:
        num_steps: how many steps the part has taken.
    """

    def __init__(self, owner: LocalOwner, optimization: Optimization, num_steps: int) -> None:
        self.num_steps = 0
        self._owner = owner
        self._schedule = owner.make_schedule(optimization, num_steps)
        self._shares: dict[str, dict[str, torch.Tensor]] = {}

    def go_on_from(self, num_steps: int) -> None:
        """Count on, and go on with the schedule, from a number of steps that the part has taken in an earlier run."""
        self.num_steps = num_steps
        if self._schedule is not None:
            self._schedule.last_epoch = num_steps
            rates = self._schedule.lr_lambdas
            for group, base, factor in zip(self._schedule.optimizer.param_groups, self._schedule.base_lrs, rates, strict=True):
                group["lr"] = base * factor(num_steps)

    @contextmanager
    def accumulating(self, client: str) -> Iterator[None]:
        """Have the part's gradients be those of one client while the block runs."""
        self._owner.put_gradients(self._shares.get(client, {}))
        try:
            yield
        finally:
            self._shares[client] = self._owner.take_gradients()

    def zero(self, client: str) -> None:
        """Forget a client's gradients."""
        self._shares.pop(client, None)

    def scale(self, client: str, factor: float) -> None:
        """Multiply a client's gradients by a factor, once a step: its tokens are counted at the client."""
        gradients = list(self._shares.get(client, {}).values())
        if factor != 1.0 and gradients:
            torch._foreach_mul_(gradients, factor)

    def join(self, clients: Sequence[str]) -> None:
        """Make the mean of some clients' gradients those of the part.

        Args:
            clients: in the order in which their gradients are added, on which the last bits depend.
        """
        self._owner.put_gradients(mean_gradients([self._shares.pop(client, {}) for client in clients]), is_scaled=True)

    def step(self, clip_coefficient: torch.Tensor | None) -> None:
        """Take a step with the gradients that were joined.

        Args:
            clip_coefficient: what they are multiplied by first, a scalar; None for nothing.
        """
        rates = {group["name"]: group["lr"] for group in self._owner.group_settings()}
        self._owner.apply(StepOrder(self.num_steps, rates, clip_coefficient=clip_coefficient))
        if self._schedule is not None:
            self._schedule.step()
        self.num_steps += 1


def mean_gradients(shares: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Return the mean of clients' gradients; a tensor of which a client has none counts as zero there.

    Args:
        shares: each client's gradients by name, in the order in which they are added. They are changed.
    """
    if len(shares) == 1:
        return dict(shares[0])
    means: dict[str, torch.Tensor] = {}
    for share in shares:
        for name, gradient in share.items():
            part = gradient.div_(len(shares))
            means[name] = means[name].add_(part) if name in means else part
    return means
