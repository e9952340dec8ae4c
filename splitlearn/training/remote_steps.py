"""The steps of parts that other parties hold, ordered by the party that owns the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from splitlearn.boundary import sent_by
from splitlearn.training.checkpoint_content import CODECS_KEY, GENERATORS_KEY
from splitlearn.training.part_owner import PartOwner, StepOrder

# How many steps each part elsewhere has taken, by its name.
_STEPS_KEY = "steps_elsewhere"


class RemoteSteps:
    """Has parts that are held elsewhere take the same steps as those that are here.

    In the optimizer that is here, each parameter group of a part elsewhere stands without parameters, so that the schedule sets
    its learning rate too.

    Args:
        owners: who holds each part that is elsewhere, by the part's name.
    """

    def __init__(self, owners: Mapping[str, PartOwner]) -> None:
        # A party that holds several parts takes one step with all of them.
        self._owners = list({id(owner): owner for owner in owners.values()}.values())
        self._parts = [{part for part, owner in owners.items() if owner is held} for held in self._owners]
        self._scale = 1.0
        self._clip_coefficient: torch.Tensor | None = None

    def __bool__(self) -> bool:
        """Whether any part is elsewhere."""
        return bool(self._owners)

    def group_settings(self) -> list[dict[str, Any]]:
        """Return ``name``, ``lr`` and ``weight_decay`` of each parameter group of the parts elsewhere."""
        return [group for owner in self._owners for group in owner.group_settings()]

    def scale_gradients(self, scale: float) -> None:
        """Note what gradients are multiplied by in the coming step, before they are clipped."""
        self._scale, self._clip_coefficient = scale, None

    def expect_norms(self, scale: float | None) -> None:
        """Have the norms of gradients elsewhere on their way as soon as the coming backward pass, a step's last, is over.

        Args:
            scale: what gradients are multiplied by in this step; None takes an earlier announcement back.
        """
        for owner in self._owners:
            owner.expect_norms(scale)

    def gradient_norms(self) -> dict[str, list[torch.Tensor]]:
        """Return the norm of each gradient elsewhere after scaling, as scalars, by the name of its parameter group."""
        return {
            group: list(norms.values()) for owner in self._owners for group, norms in owner.gradient_norms(self._scale).items()
        }

    def clip(self, coefficient: torch.Tensor) -> None:
        """Note what gradients are multiplied by in the coming step, a scalar, after they are scaled."""
        self._clip_coefficient = coefficient

    def step(self, optimizer: torch.optim.Optimizer, number: int) -> None:
        """Have the parts elsewhere take the step that the optimizer takes here.

        Args:
            optimizer: it holds the learning rates.
            number: how many steps were taken before this one.
        """
        rates = {str(group["name"]): float(group["lr"]) for group in optimizer.param_groups}
        for owner in self._owners:
            owner.apply(StepOrder(number, rates, self._scale, self._clip_coefficient))

    def zero_gradients(self) -> None:
        """Have the parts elsewhere forget their gradients."""
        for owner in self._owners:
            owner.zero_gradients()

    def trained_names(self) -> set[str]:
        """Return the names of the tensors that are trained elsewhere."""
        return {name for owner in self._owners for name in owner.trained_names()}

    def gradients(self) -> dict[str, torch.Tensor]:
        """Return the gradients that the parts elsewhere have of a step that is under way, by name."""
        return {name: gradient for owner in self._owners for name, gradient in owner.gradients().items()}

    def load_gradients(self, gradients: Mapping[str, torch.Tensor]) -> None:
        """Have the parts elsewhere go on with a step whose gradients a checkpoint holds."""
        for owner in self._owners:
            owner.load_gradients(gradients)

    def add_state(self, checkpoint: dict[str, Any]) -> None:
        """Put the state of the parts elsewhere into a checkpoint, as if they were here."""
        for parts, owner in zip(self._parts, self._owners, strict=True):
            state = owner.state()
            drawn = state[GENERATORS_KEY] or {"states": {}}
            drawn_there = parts | sent_by(parts)
            checkpoint[GENERATORS_KEY]["states"] |= {
                name: value for name, value in drawn["states"].items() if name in drawn_there
            }
            # With several clients a part takes more steps than each of them.
            checkpoint.setdefault(_STEPS_KEY, {}).update(dict.fromkeys(parts, state["num_steps"]))
            if state[CODECS_KEY]:
                checkpoint.setdefault(CODECS_KEY, {}).update(state[CODECS_KEY])
            checkpoint["state_dict"] |= state["state_dict"]
            own = {group["name"]: group["params"] for group in state["optimizer"]["param_groups"]}
            for optimizer in checkpoint.get("optimizer_states", ()):
                optimizer["state"] |= state["optimizer"]["state"]
                for group in optimizer["param_groups"]:
                    group["params"] = own.get(group["name"], group["params"])

    def take_state(self, checkpoint: dict[str, Any]) -> None:
        """Give the parts elsewhere their share of a checkpoint, and leave the rest in it."""
        for parts, owner in zip(self._parts, self._owners, strict=True):
            generators = checkpoint[GENERATORS_KEY]
            # Elsewhere the parts draw, and the codecs of what is sent from there.
            drawn_there = parts | sent_by(parts)
            drawn = {name: generators["states"].pop(name) for name in drawn_there & generators["states"].keys()}
            names = owner.trained_names()
            groups = {group["name"] for group in owner.group_settings()}
            (optimizer,) = checkpoint["optimizer_states"]
            own = [dict(group) for group in optimizer["param_groups"] if group["name"] in groups]
            state = {name: value for name, value in optimizer["state"].items() if name in names}
            tensors = {name: tensor for name, tensor in checkpoint["state_dict"].items() if name in names}
            counts = [checkpoint.get(_STEPS_KEY, {}).get(part) for part in parts]
            num_steps = next((count for count in counts if count is not None), checkpoint["global_step"])
            owner.load_state(
                {
                    "num_steps": num_steps,
                    "state_dict": tensors,
                    "optimizer": {**optimizer, "state": state, "param_groups": own},
                    GENERATORS_KEY: {**generators, "states": drawn},
                    CODECS_KEY: checkpoint.get(CODECS_KEY) or {},
                }
            )
            for group in optimizer["param_groups"]:
                if group["name"] in groups:
                    group["params"] = []
            for name in names:
                del checkpoint["state_dict"][name]
                optimizer["state"].pop(name, None)
