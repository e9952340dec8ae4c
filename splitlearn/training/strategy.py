"""Lightning with parts on several devices: whoever loaded the parts has placed them, and nobody moves them again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.strategies import SingleDeviceStrategy


class SplitStrategy(SingleDeviceStrategy):
    """One process whose model's parts live where the device map says.

    Lightning's own single-device strategy would move the whole model to one device at the start, back to the CPU at the end,
    and all optimizer state to one device on resume.

    Args:
        devices: the device of each part by name, the module's own; batches go to the bottom's.
        **kwargs: passed on to Lightning's `SingleDeviceStrategy`.
    """

    strategy_name = "split"

    def __init__(self, devices: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(device=devices["bottom"], **kwargs)
        self._devices = {name: torch.device(device) for name, device in devices.items()}

    def model_to_device(self) -> None:
        """Leave the parts where they were loaded."""

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Restore optimizer state; torch puts each parameter's state on the parameter's own device."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            optimizer.load_state_dict(state)

    def setup(self, trainer: Any) -> None:
        """Set up as Lightning does, without its moving of optimizer state to one device.

        Raises:
            ValueError: a part is on another device than this strategy was told; it would be trained there, if much slower.
        """
        self._refuse_parts_elsewhere()
        self._require_accelerator().setup(trainer)
        self.model: Any = self.precision_plugin.convert_module(self.model)
        self.model = self._setup_model(self.model)
        if trainer.state.fn == "fit":
            self.setup_optimizers(trainer)
        self.setup_precision_plugin()

    def _refuse_parts_elsewhere(self) -> None:
        for part in getattr(self.lightning_module, "parts_here", ()):
            meant = self._devices.get(part.spec.name, part.device)
            # Without a number it is the current one of its kind.
            indices = {part.device.index, meant.index} - {None}
            if part.device.type != meant.type or len(indices) > 1:
                raise ValueError(
                    f"the {part.spec.name} is on {part.device}, but SplitStrategy was given {meant} for it; give the module "
                    "and its strategy the same devices"
                )

    def teardown(self) -> None:
        """Release what Lightning holds; parts and optimizer state stay where they are."""
        self.precision_plugin.teardown()
        self._require_accelerator().teardown()
        self.checkpoint_io.teardown()

    def _require_accelerator(self) -> Accelerator:
        if self.accelerator is None:
            raise RuntimeError("SplitStrategy has no accelerator; the Trainer sets it before it calls setup")
        return self.accelerator


def root_device_arguments(devices: Mapping[str, str]) -> dict[str, Any]:
    """Return the Trainer's ``accelerator`` and ``devices`` for a bottom that lives on ``devices["bottom"]``."""
    root = torch.device(devices["bottom"])
    if root.type == "cpu":
        return {"accelerator": "cpu", "devices": 1}
    return {"accelerator": "gpu", "devices": [root.index or 0]}
