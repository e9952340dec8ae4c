"""The privacy of the examples that a run has sent."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from splitlearn.boundary import CallKind, describe_privacy
from splitlearn.training.module import SplitCausalLM

# The examples of different kinds of call are different ones.
_EXAMPLES = {"train": CallKind.TRAIN, "held_out": CallKind.EVALUATE}


class PrivacyLoss(Callback):
    """Logs the epsilon of the training examples at the end of each epoch, where everything that is sent of them is clipped.

    Metric: ``privacy_epsilon``, of one example over all that was sent of it since the run began.
    """

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log what is known by now."""
        epsilon = (privacy_of(pl_module) or {}).get("train", {}).get("epsilon")
        if epsilon is not None:
            pl_module.log("privacy_epsilon", epsilon)


def privacy_of(module: LightningModule) -> dict[str, Any] | None:
    """Return the privacy of training and of held-out examples, as `describe_privacy` has it; None if no codec clips.

    Args:
        module: the module; its parts are loaded.
    """
    if not isinstance(module, SplitCausalLM):
        return None
    described = {
        name: describe_privacy(module.composed.boundaries, kind, module.settings.privacy.accountant)
        for name, kind in _EXAMPLES.items()
    }
    known = {name: privacy for name, privacy in described.items() if privacy is not None}
    return known or None
