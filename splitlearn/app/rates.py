"""Which learning rates a configuration means."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

from splitlearn.adapters import AdapterSettings
from splitlearn.app.configuration import plain
from splitlearn.cut import PART_NAMES
from splitlearn.naming import naming_group
from splitlearn.training import Optimization, SplitCausalLM


def optimizer_settings(cfg: DictConfig) -> dict[str, Any]:
    """Return the optimizer's plain settings, with the learning rate of adapters if the configuration names no other."""
    with naming_group("optimizer"):
        chosen = Optimization.from_plain(plain(cfg.optimizer))
    # conf/optimizer refers to the model's rate; whoever sets optimizer.learning_rate puts a number in its place.
    if OmegaConf.is_interpolation(cfg.optimizer, "learning_rate"):
        with naming_group("peft"):
            adapters = AdapterSettings.from_plain(plain(cfg.peft))
        adapted = [name for name in PART_NAMES if adapters.adapts(name)]
        chosen = chosen.with_adapters(adapters.learning_rate, adapted, least=chosen.learning_rate)
    return chosen.to_plain()


def rate_of_adapters(module: SplitCausalLM) -> float:
    """Return the peak learning rate of the lowest part with adapters."""
    name = next(name for name in PART_NAMES if module.adapters.adapts(name))
    own = module.optimization.of(name).learning_rate
    return module.learning_rate if own is None else own
