"""What a run's steps took, by part: memory beside the plan's figure for it, and time by phase; and loggers get it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Trainer
from omegaconf import DictConfig

from splitlearn.app.configuration import plain
from splitlearn.boundary import Link
from splitlearn.loading import OpenedModel
from splitlearn.memory import GIB
from splitlearn.planning import planned_by_party
from splitlearn.training import SplitCausalLM, bytes_by_party
from splitlearn.training.callbacks import PartBytes, StepPhases, Traffic, find_callback


def measured_memory(trainer: Trainer, module: SplitCausalLM, opened: OpenedModel) -> dict[str, Any] | None:
    """Return the bytes of parts and parties as in ``summary.json``; None if they were not measured.

    The plan is asked about the batch that kept most for the backward pass.

    Args:
        trainer: the run's trainer, after training.
        module: the trained module.
        opened: the model, cut, from which the module was loaded.
    """
    measured = find_callback(trainer, PartBytes)
    if measured is None or not measured.parts or measured.batch_shape is None:
        return None
    adapters = module.adapters
    with_lora = [part for part in module.trained if adapters.method == "lora" and adapters.adapts(part)]
    return {
        "parts": measured.parts,
        "parties": bytes_by_party(measured.parts, module.placement),
        "planned_parties": planned_by_party(
            opened,
            module.placement,
            module.trained,
            {part: int(adapters.config_of(part).r) for part in with_lora},
            *measured.batch_shape,
            recomputes_layers=module.settings.gradient_checkpointing,
            chunk_tokens=module.chunk_tokens(math.prod(measured.batch_shape)),
        ),
    }


def measured_phases(trainer: Trainer) -> dict[str, Any] | None:
    """Return the seconds of a step by phase as in ``summary.json``; None if they were not measured."""
    phases = find_callback(trainer, StepPhases)
    return None if phases is None else phases.summary()


def predicted_step(cfg: DictConfig, trainer: Trainer) -> dict[str, Any] | None:
    """Return what a step would take over the network of ``cfg.link`` as in ``summary.json``; None if none is described.

    Args:
        cfg: the run's configuration.
        trainer: the run's trainer, after training.
    """
    link, traffic = Link(**(plain(cfg.get("link")) or {})), find_callback(trainer, Traffic)
    if not link.is_reckoned or traffic is None:
        return None
    step = (measured_phases(trainer) or {}).get("step", {})
    return link.predict(traffic.per_step(), step.get("median_s"), trainer.accumulate_grad_batches)


def log_figures(
    trainer: Trainer, metrics: Mapping[str, Any], memory: Mapping[str, Any] | None, link: Mapping[str, Any] | None = None
) -> None:
    """Give loggers the figures of the whole run that ``summary.json`` has and training has not logged.

    Args:
        trainer: the run's trainer, after training.
        metrics: the run's figures; they are logged as ``run/val_loss_after`` and so on.
        memory: from `measured_memory`; the plan's figures are logged as ``memory/client_planned_gib`` and so on.
        link: from `predicted_step`; its figures are logged as ``link/step_s`` and so on.
    """
    figures = {f"run/{name}": float(value) for name, value in metrics.items() if value is not None}
    planned = (memory or {}).get("planned_parties") or {}
    figures |= {f"memory/{party}_planned_gib": size / GIB for party, size in planned.items()}
    figures |= {f"link/{name}": float(value) for name, value in (link or {}).items() if value is not None}
    for logger in trainer.loggers:
        logger.log_metrics(figures, step=trainer.global_step)
        logger.save()
