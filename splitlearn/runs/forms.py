"""The forms of values in files of a run, which somebody else may have written: which kind each is of, however deep it lies."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

# What a record and a checkpoint say of the model that a run began from.
BASE_FORM: dict[str, Any] = {
    "model": str,
    "commit": str,
    "dtype": str,
    "adapters": dict[str, Any],
    "part_dtypes": dict[str, str],
    "base_weights": dict[str, str],
    "config": dict[str, Any],
    "tokenizer": str,
}
# The figures that are read again from a record.
METRICS_FORM: dict[str, Any] = {
    "val_loss_before": float,
    "val_loss_after": float,
    "val_perplexity_before": float,
    "val_perplexity_after": float,
    "train_steps": int,
    "train_tokens": int,
}
_MOST_SHOWN = 40


def misfit(value: Any, form: Any, path: str) -> str | None:
    """Return in words which value is not of its form; None if all are.

    Args:
        value: plain values. None, which stands for what is not known, is of every form.
        form: a type hint, such as ``dict[str, int]``; or forms by name, for a table that may have other names too.
        path: where the value stands, for the words.
    """
    if value is None or form is Any:
        return None
    if isinstance(form, dict):
        inner = [(name, form[name]) for name in value if name in form] if isinstance(value, dict) else None
    elif get_origin(form) in (Union, UnionType):
        kinds = [kind for kind in get_args(form) if kind is not NoneType]
        misfits = [misfit(value, kind, path) for kind in kinds]
        return None if None in misfits else misfits[0]
    elif get_origin(form) is dict:
        inner = [(name, get_args(form)[1]) for name in value] if _has_keys(value, get_args(form)[0]) else None
    elif get_origin(form) is list:
        inner = [(number, get_args(form)[0]) for number in range(len(value))] if isinstance(value, list) else None
    else:
        return None if _is_of(value, form) else _words(value, path)
    if inner is None:
        return _words(value, path)
    return next((words for key, kind in inner if (words := misfit(value[key], kind, f"{path}.{key}"))), None)


def _has_keys(value: Any, kind: type) -> bool:
    return isinstance(value, dict) and all(isinstance(name, kind) for name in value)


def _is_of(value: Any, kind: type) -> bool:
    # JSON has one kind of number, and in Python bool is an int.
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def _words(value: Any, path: str) -> str:
    shown = f"'{value}'" if isinstance(value, str) else str(value) if isinstance(value, (bool, int, float)) else ""
    kind = "a table" if isinstance(value, dict) else "a list" if isinstance(value, list) else type(value).__name__
    return f"{path} is {shown[:_MOST_SHOWN] or kind}"
