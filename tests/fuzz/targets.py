"""Everything of other people that is read, each file with all that reads it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from unittest import mock

import torch

from splitlearn.adapters import copy_adapter
from splitlearn.app.checkpoints import find_checkpoint, is_checkpoint, read_checkpoint
from splitlearn.app.opening_runs import open_run, request_of_base
from splitlearn.checkpoint import CheckpointError, CheckpointSource
from splitlearn.data import PromptFormat, with_learned_ends
from splitlearn.export import RunRecord, export_run, load_base_part
from splitlearn.loading import ModelRequest
from splitlearn.model import SplitModel
from splitlearn.runs.lock import find_holder
from splitlearn.silence import silent_transformers
from splitlearn.verification import verify_saved_files
from tests.fuzz.seeds import FOLDER, PLACE, write_other_forms
from tests.fuzz.watch import keep_promises

KEPT = Path(__file__).parent / "kept"
_BASE = "model"


@dataclass(frozen=True)
class Target:
    """A file that somebody else may have made.

    Attributes:
        name: of the target.
        file: the file, in a folder with all seeds.
        form: how it is written: ``json``, ``yaml``, ``safetensors`` or ``torch``.
        readers: what reads it; each gets the folder with all seeds, which is the working directory.
    """

    name: str
    file: str
    form: str
    readers: tuple[Callable[[Path], object], ...]

    @property
    def kept(self) -> list[Path]:
        """The inputs that have broken a promise once."""
        return sorted((KEPT / self.name).glob("*"))


def _read_model(folder: Path) -> None:
    opened = ModelRequest(folder, 1, 2).open()
    opened.check()
    for part in opened.plan.parts:
        load_base_part(opened, part)


def _read_headers(folder: Path) -> None:
    source = CheckpointSource(folder)
    source.refuse_adapter()
    source.stored_dtype()
    source.stored(source.weight_map)
    shards = source.open_shards(set(source.weight_map.values()))
    for name, file in source.weight_map.items():
        shard = shards[file]
        assert shard.read(name).nbytes == shard.num_bytes(name) and shard.dtype(name) and shard.shape(name) is not None


def _in(folder: str, read: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda place: read(place / folder)


def _export(run: Path, ckpt: str | None) -> None:
    """Read a run as `export` does, which merges its adapters."""
    record, opened = open_run(str(run), ckpt)
    with tempfile.TemporaryDirectory(dir=run.parent) as temporary:
        export_run(record, opened, Path(temporary) / "out")


def _export_of_base(run: Path) -> None:
    """Read a run as `export` does, unless its configuration names another base model, which may lie anywhere."""
    if str(request_of_base(RunRecord.read(run)).name_or_path) == _BASE:
        _export(run, None)


def _read_record(run: Path) -> None:
    record = RunRecord.read(run, read_checkpoint(run / "checkpoints/last.ckpt"))
    request_of_base(record)
    assert record.metrics and record.trained and record.adapters


def _copy_adapter(run: Path) -> None:
    with tempfile.TemporaryDirectory(dir=run.parent) as temporary:
        copy_adapter(run / "adapters", Path(temporary), stands_alone=False)


def _refuse_adapter(folder: Path) -> None:
    try:
        CheckpointSource(folder).refuse_adapter()
    except CheckpointError as error:
        # An adapter is never taken for a model; the sentence quotes the file.
        if f"name the base model, {PLACE}" not in str(error):
            raise


def _read_prompt_format(run: Path) -> None:
    with_learned_ends(None, PromptFormat.read(run))


_END_OF_RUN = _in("run", lambda run: _export(run, None))
_CHECKPOINT = _in("run", lambda run: _export(run, "last"))
_RECORD = _in("run", _read_record)
_FILES = _in("run", verify_saved_files)

TARGETS = {
    target.name: target
    for target in (
        Target("header", "single/model.safetensors", "safetensors", (_in("single", _read_headers), _in("single", _read_model))),
        Target("weights", "older/pytorch_model.bin", "torch", (_in("older", _read_headers), _in("older", _read_model))),
        Target("index", "model/model.safetensors.index.json", "json", (_in("model", _read_headers), _in("model", _read_model))),
        Target("model_config", "model/config.json", "json", (_in("model", _read_headers), _in("model", _read_model))),
        Target("generation_config", "model/generation_config.json", "json", (_in("model", _read_model),)),
        Target(
            "part",
            "run/parts/top.pt",
            "torch",
            (_in("run", lambda run: SplitModel.load(run / "parts/top.pt")), _END_OF_RUN, _FILES),
        ),
        Target(
            "checkpoint",
            "run/checkpoints/last.ckpt",
            "torch",
            (
                _in("run", lambda run: is_checkpoint(run / "checkpoints/last.ckpt")),
                _in("run", lambda run: find_checkpoint("best", run)),
                _CHECKPOINT,
                _FILES,
            ),
        ),
        Target("summary", "run/summary.json", "json", (_END_OF_RUN, _RECORD)),
        Target("run_config", "run/config.yaml", "yaml", (_in("run", _export_of_base), _RECORD)),
        Target("prompt_format", "run/prompt_format.json", "json", (_in("run", _read_prompt_format),)),
        Target("holder", "run/.run.json", "json", (_in("run", find_holder),)),
        Target(
            "adapter_config",
            "run/adapters/adapter_config.json",
            "json",
            (_in("run", _copy_adapter), _in("run/adapters", _refuse_adapter)),
        ),
        Target("adapter", "run/adapters/adapter_model.safetensors", "safetensors", (_END_OF_RUN, _FILES)),
    )
}


@dataclass
class Workshop:
    """A folder with all seeds, of which one file at a time is replaced.

    Attributes:
        folder: the folder.
        seeds: the content of each target's file, by the target's name.
    """

    folder: Path
    seeds: dict[str, bytes] = field(default_factory=dict)

    def attempt(self, target: Target, content: bytes) -> list[str | None]:
        """Have everything read an input.

        Returns:
            For each reader the sentence with which it refused the input, or None.

        Raises:
            BrokenPromiseError: a promise was not kept.
        """
        path = self.folder / target.file
        path.unlink()
        path.write_bytes(content)
        try:
            return [keep_promises(partial(read, self.folder), self.folder, target.file) for read in target.readers]
        finally:
            path.unlink()
            path.write_bytes(self.seeds[target.name])


@contextlib.contextmanager
def workshop(folder: Path) -> Iterator[Workshop]:
    """Put all seeds into an empty folder, read each of them once, and make it the working directory for the block."""
    made = Workshop(folder.resolve())
    shutil.copytree(FOLDER, made.folder, dirs_exist_ok=True)
    for _ in write_other_forms(made.folder / _BASE):
        pass
    last = made.folder / "run/checkpoints/last.ckpt"
    for state in torch.load(last, weights_only=True)["callbacks"].values():
        if best := state.get("best_model_path"):
            shutil.copyfile(last, last.with_name(Path(best).name))
    (made.folder / "run/.run.json").write_text(json.dumps({"process": 1, "host": socket.gethostname(), "started_s": 1.5}))
    made.seeds = {name: (made.folder / target.file).read_bytes() for name, target in TARGETS.items()}
    with contextlib.chdir(made.folder), silent_transformers(), mock.patch.object(os, "fsync"):
        # What is imported on first use is not an input's memory or time.
        for target in TARGETS.values():
            for read in target.readers:
                read(made.folder)
        yield made
