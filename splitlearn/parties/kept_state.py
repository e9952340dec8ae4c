"""The file in which a server keeps its part between two starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from splitlearn.checkpoint import CheckpointError, read_torch_file
from splitlearn.parties.plan import title_of
from splitlearn.training import CODECS_KEY, GENERATORS_KEY, LocalOwner

_FIELDS = {"num_steps": int, "state_dict": dict, "optimizer": dict, GENERATORS_KEY: dict, "run_id": str, "part": str}
_REMEDY = "give the file that a server has kept in its folder, or start without state"


def kept_state_file(folder: Path, parts: Sequence[str]) -> Path:
    """Return the file of a folder in which a server keeps the state of its parts.

    Args:
        folder: the server's.
        parts: their names, in the order in which data pass them.
    """
    return folder / f"{'_'.join(parts)}.ckpt"


def read_kept_state(path: Path, parts: Sequence[str]) -> dict[str, Any]:
    """Return the state of a part as `PartServer.save` has written it.

    Args:
        path: the file.
        parts: the names of the parts that this server holds.

    Raises:
        CheckpointError: it is damaged, something else, or of another part.
        FileNotFoundError: there is no such file.
    """
    content = read_torch_file(path, "state of a server's part", _REMEDY)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is no state of a server's part; {_REMEDY}")
    for name, kind in _FIELDS.items():
        if not isinstance(content.get(name), kind):
            raise CheckpointError(f"{path} is no state of a server's part: {name} is missing or damaged; {_REMEDY}")
    part = title_of(parts)
    if content["part"] != part:
        raise CheckpointError(f"{path} is of the {content['part'][:80]}, but this server holds the {part}; {_REMEDY}")
    if not all(isinstance(tensor, torch.Tensor) for tensor in content["state_dict"].values()):
        raise CheckpointError(f"{path} holds something else than tensors in state_dict; {_REMEDY}")
    return content


def load_kept_state(owner: LocalOwner, content: Mapping[str, Any], base: str) -> None:
    """Have a part go on from its state.

    Args:
        owner: takes the part's steps.
        content: from `read_kept_state`.
        base: the digest of the part's base weights.

    Raises:
        CheckpointError: it is of other weights, or of another choice of what is trained.
    """
    if content.get("base", base) != base:
        raise CheckpointError("the state is of a part with other base weights; set model, split and peft as they were")
    try:
        owner.load_state({**content, CODECS_KEY: content.get(CODECS_KEY) or {}})
    except (TypeError, KeyError, AttributeError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"the state does not fit this part: {' '.join(str(error).split())}") from error
