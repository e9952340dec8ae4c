"""Whether a run's checkpoint holds what is read of it, each of its kind, before anything is done with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from splitlearn.checkpoint import CheckpointError, check_plain
from splitlearn.cut import PART_NAMES, PartTraining
from splitlearn.runs import BASE_FORM, misfit

# Written by Lightning and by the module in every checkpoint of a run.
_KINDS: dict[str, type] = {
    "epoch": int,
    "global_step": int,
    "state_dict": dict,
    "hyper_parameters": dict,
    "trained": dict,
    "base": dict,
    "callbacks": dict,
    "loops": dict,
    "optimizer_states": list,
    "lr_schedulers": list,
}
# What else is read, where it is there: of the run, and of callbacks by their names.
_FORMS: dict[str, Any] = {
    "base": BASE_FORM,
    "codecs": dict[str, dict[str, Any]],
    "clients": dict[str, dict[str, Any]],
    "run": {"id": str, "earlier_starts": list[str]},
    "callbacks": {
        "Attacks": {"results": list[dict[str, Any]]},
        "Evaluation": {"last_step": int, "last_figures": dict[str, float]},
        "RunFigures": {"before": dict[str, float], "tokenizer": str},
        "TokenThroughput": {"tokens": int},
    },
}
_CALLBACK_FORM = {"monitor": str, "best_model_path": str, "wait_count": int}
_NAMES = {int: "whole number", dict: "table", list: "list", bool: "truth value", str: "text"}


def check_schema(content: Mapping[str, Any], where: str) -> None:
    """Refuse a checkpoint that lacks something that every run writes, or has it in another form.

    Args:
        content: its content.
        where: its file, for messages.

    Raises:
        CheckpointError: it does; the message names what.
    """
    for name, kind in _KINDS.items():
        _check_kind(content.get(name), kind, name, where)
    for name, form in _FORMS.items():
        _check_form(content.get(name), form, name, where)
    tensors = check_plain(content["state_dict"], where)
    for name in ("split_point_1", "split_point_2"):
        _check_kind(content["hyper_parameters"].get(name), int, f"hyper_parameters.{name}", where)
    known = {member.value for member in PartTraining}
    if set(content["trained"]) != set(PART_NAMES) or not all(
        isinstance(what, str) and what in known for what in content["trained"].values()
    ):
        raise CheckpointError(f"{where} is damaged: trained does not say for each part what was trained")
    for name, state in content["callbacks"].items():
        _check_kind(state, dict, f"callbacks.{name}", where)
        _check_form(state, _CALLBACK_FORM, f"callbacks.{name}", where)
    for number, state in enumerate(content["optimizer_states"]):
        _check_optimizer(state, tensors, f"optimizer_states.{number}", where)
    current: Any = content["loops"]
    for name in ("fit_loop", "epoch_progress", "current"):
        current = current.get(name)
        _check_kind(current, dict, f"loops.{name}", where)
    _check_kind(current.get("processed"), int, "loops.fit_loop.epoch_progress.current.processed", where)


def check_progress(saved: Any, written: Any, where: str, path: str = "loops.fit_loop") -> None:
    """Refuse progress that lacks something that Lightning writes: it would begin anew there, and nobody would know.

    Args:
        saved: the progress in a checkpoint.
        written: the same of a trainer that has done nothing yet.
        where: the checkpoint's file, for messages.
        path: where in the checkpoint ``saved`` stands.

    Raises:
        CheckpointError: something is missing or has another form; the message names it.
    """
    _check_kind(saved, type(written), path, where)
    for name, value in written.items() if isinstance(written, dict) else ():
        check_progress(saved.get(name), value, where, f"{path}.{name}")


def _check_optimizer(state: Any, tensors: Mapping[str, Any], path: str, where: str) -> None:
    _check_kind(state, dict, path, where)
    _check_kind(state.get("param_groups"), list, f"{path}.param_groups", where)
    _check_kind(state.get("state"), dict, f"{path}.state", where)
    for number, group in enumerate(state["param_groups"]):
        _check_kind(group, dict, f"{path}.param_groups.{number}", where)
        _check_kind(group.get("params"), list, f"{path}.param_groups.{number}.params", where)
    for name, values in state["state"].items():
        _check_kind(values, dict, f"{path}.state.{name}", where)
        for kind, value in values.items():
            # A step is one number; averages have their parameter's shape.
            shape = value.shape if isinstance(value, torch.Tensor) else ()
            if len(shape) and name in tensors and str(kind).startswith("exp_avg") and shape != tensors[name].shape:
                raise CheckpointError(f"{where} is damaged: {kind} of {name} has the shape {tuple(shape)}")


def _check_form(value: Any, form: Any, path: str, where: str) -> None:
    if (words := misfit(value, form, path)) is not None:
        raise CheckpointError(f"{where} is damaged: {words}; go on from another checkpoint")


def _check_kind(value: Any, kind: type, path: str, where: str) -> None:
    is_number = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if not isinstance(value, kind) or (kind is int and not is_number):
        found = "is missing" if value is None else f"is no {_NAMES.get(kind, kind.__name__)}"
        raise CheckpointError(f"{where} is damaged: {path} {found}; go on from another checkpoint")
