"""The privacy of the examples that a run has sent."""

from __future__ import annotations

import math
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

    Of several clients it is the one whose examples are protected least.

    Args:
        module: the module; its parts are loaded.
    """
    if not isinstance(module, SplitCausalLM):
        return None
    accountant = module.settings.privacy.accountant
    known = {}
    for name, kind in _EXAMPLES.items():
        described = [describe_privacy(model.boundaries, kind, accountant) for model in module.models]
        of_clients = [privacy for privacy in described if privacy is not None]
        if of_clients:
            known[name] = max(of_clients, key=lambda privacy: math.inf if privacy["epsilon"] is None else privacy["epsilon"])
    return known or None
