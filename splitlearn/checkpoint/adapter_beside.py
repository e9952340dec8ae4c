"""Refusing checkpoints with a PEFT adapter beside the weights, which transformers would apply silently."""

from __future__ import annotations

from pathlib import Path

from splitlearn.checkpoint.errors import CheckpointError
from splitlearn.checkpoint.main_file import CONFIG_FILE, Files
from splitlearn.json_text import read_json_object

ADAPTER_FILE = "adapter_config.json"


def refuse_adapter(files: Files) -> None:
    """Refuse a checkpoint that is an adapter, or has one beside its weights.

    Args:
        files: the checkpoint's files.

    Raises:
        CheckpointError: there is an adapter.
        FileNotFoundError: the hub has no such repository, or does not give it out.
    """
    try:
        path = files.fetch(ADAPTER_FILE)
    except FileNotFoundError:
        # While the hub cannot be reached, transformers too assumes that there is none.
        return
    if not files.exists(CONFIG_FILE):
        raise CheckpointError(only_adapter(files.name, path))
    raise CheckpointError(
        f"{files.name} holds a PEFT adapter beside its weights ({ADAPTER_FILE}): merge it into them first (PEFT's "
        "merge_and_unload, or `python -m splitlearn export` with adapters=merge), or delete that file to take the weights alone"
    )


def only_adapter(name: str, path: Path) -> str:
    """Return the error message for a folder or repository that holds an adapter and no model.

    Args:
        name: the folder or repository.
        path: its adapter's configuration.
    """
    try:
        base = read_json_object(path).get("base_model_name_or_path")
    except (OSError, ValueError):
        base = None
    return (
        f"{name} holds a PEFT adapter and no model: merge it into its base model first (PEFT's merge_and_unload, or "
        f"`python -m splitlearn export` with adapters=merge), or name the base model{f', {base}' if base else ''}"
    )
