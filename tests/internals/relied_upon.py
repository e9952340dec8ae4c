"""What of other libraries is not their public interface and this library uses all the same: one table a library.

A new release that moves or changes one of them fails here, with the files that rely on it, instead of somewhere in a run.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from pkgutil import resolve_name
from platform import python_version
from typing import Any

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "splitlearn"


@dataclass(frozen=True)
class Internal:
    """A name that this library uses and another does not document.

    Args:
        owner: where it is: ``module`` or ``module:Class``, or a function that makes an object which has it.
        name: its name there.
        purpose: what it gives this library.
        parameters: the names of parameters that it is called with; of those given by place the names they had when written.
    """

    owner: str | Callable[[], object]
    name: str
    purpose: str
    parameters: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        owner = self.owner if isinstance(self.owner, str) else self.owner.__name__.replace("_", " ").strip()
        return f"{owner}.{self.name}".replace(":", ".")

    def __str__(self) -> str:
        return self.name


@cache
def sources() -> dict[str, str]:
    # Generated modules use protobuf's internals as its own generator likes.
    paths = [path for path in sorted(PACKAGE.rglob("*.py")) if not path.stem.endswith("_pb2")]
    return {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in paths}


def files_using(name: str) -> list[str]:
    return [path for path, text in sources().items() if re.search(rf"\b{re.escape(name)}\b", text)]


def check(library: str, internal: Internal) -> None:
    """Fail if the library has it no longer, or this library no longer uses it."""
    users = files_using(internal.name)
    assert users, f"nothing in splitlearn/ uses {internal.name} any more; take it off the list"
    number = python_version() if library == "Python" else version(library)
    change = (
        f"{library} {number} has moved or changed {internal.place}, which gives us {internal.purpose}; "
        f"{', '.join(users)} rely on it"
    )
    try:
        owner: Any = resolve_name(internal.owner) if isinstance(internal.owner, str) else internal.owner()
        value = getattr(owner, internal.name)
    except (ImportError, AttributeError) as error:
        raise AssertionError(change) from error
    if internal.parameters:
        assert set(internal.parameters) <= set(inspect.signature(value).parameters), change


# Modules whose names without an underscore are public: documented as such by their library.
PUBLIC_MODULES = {
    *("flwr.app", "flwr.clientapp", "flwr.serverapp", "flwr.serverapp.strategy"),
    *("datasets", "huggingface_hub", "huggingface_hub.errors", "huggingface_hub.constants"),
    *("hydra", "hydra.core.hydra_config", "hydra.errors", "hydra.utils", "omegaconf", "omegaconf.errors"),
    *("lightning.pytorch", "lightning.pytorch.accelerators", "lightning.pytorch.callbacks", "lightning.pytorch.loggers"),
    *("lightning.pytorch.plugins.io", "lightning.pytorch.plugins.precision", "lightning.pytorch.strategies"),
    *("peft", "safetensors", "safetensors.numpy", "safetensors.torch", "torchao.quantization"),
    *("torch", "torch.nn", "torch.nn.functional", "torch.nn.utils.rnn", "torch.utils.checkpoint", "torch.utils.data"),
    *("torch.utils.flop_counter", "torch.optim", "torch.autograd.function"),
    *("transformers", "transformers.modeling_outputs", "transformers.utils"),
}
LIBRARIES = {module.split(".")[0] for module in PUBLIC_MODULES} | {"bitsandbytes"}


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _imported_internals(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in LIBRARIES:
            for alias in node.names:
                if _is_private(alias.name) or node.module not in PUBLIC_MODULES:
                    yield alias.name


def _private_attributes(tree: ast.AST, own_here: set[str], own: set[str]) -> Iterator[str]:
    """Private attributes that are another library's: of ``self`` if no class here has them, of others if none in this file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _is_private(node.attr):
            is_self = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            if node.attr not in (own if is_self else own_here):
                yield node.attr
        elif (
            isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr", "setattr")
        ):
            named = node.args[1] if len(node.args) > 1 else None
            if isinstance(named, ast.Constant) and _is_private(str(named.value)):
                yield str(named.value)


def _own_names(tree: ast.AST) -> Iterator[str]:
    """Names that this library's own classes and modules define, so that attributes of that name are its own."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if isinstance(node.value, ast.Name) and node.value.id == "self":
                yield node.attr
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def internals_used() -> dict[str, list[str]]:
    """Return every private or undocumented name of another library that the package uses, with the files that do."""
    trees = {path: ast.parse(text) for path, text in sources().items()}
    own_by_file = {path: set(_own_names(tree)) for path, tree in trees.items()}
    own = set().union(*own_by_file.values())
    used: dict[str, list[str]] = {}
    for path, tree in trees.items():
        for name in {*_imported_internals(tree), *_private_attributes(tree, own_by_file[path], own)}:
            used.setdefault(name, []).append(path)
    return used
