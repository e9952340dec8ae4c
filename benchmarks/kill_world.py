"""What the rounds of kill.py work with: a model, a text, completed runs, and what runs that were never struck ended with."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from kill_children import Ended, run_command

TINY = ["data=text_files", "data.block_size=16", "data.batch_size=2", "data.max_train_blocks=4", "data.max_val_blocks=2"]
TINY += ["trainer.enable_progress_bar=false", "trainer.log_every_n_steps=1", "verbose=false", "eval_steps=1", "save_steps=1"]
TINY += ["optimizer.learning_rate=1e-2"]
_BASE_STEPS, _NEW_STEPS, _LATER_STEPS = 2, 3, 4
NEW, GOES_ON, REPLACES = "new", "goes on", "replaces"
_REMEDY = "run it again"


@dataclass(frozen=True)
class Kind:
    """What a round does.

    Attributes:
        command: ``train``, ``export`` or ``prepare``.
        folder: of a run: in a `NEW` folder, or in one of a completed run that it `GOES_ON` or `REPLACES`.
        has_lora: whether adapters are trained.
        num_workers: processes that prepare batches.
    """

    command: str
    folder: str = NEW
    has_lora: bool = False
    num_workers: int = 0

    @property
    def same_end(self) -> Kind:
        """The kind without what must not change what a run ends with."""
        return Kind(self.command, NEW if self.folder == REPLACES else self.folder, self.has_lora)

    def __str__(self) -> str:
        if self.command == "prepare":
            return self.command
        words = [self.command, "with LoRA" if self.has_lora else "without LoRA"]
        return ", ".join([*words, f"{self.num_workers} workers", self.folder] if self.command == "train" else words)


@dataclass(frozen=True)
class Whole:
    """What a command ended with that was never struck.

    Attributes:
        ended: its phases with their times.
        end: a digest of all tensors that it wrote in the end.
        steps: of a run, a digest of its state after each step.
    """

    ended: Ended
    end: str
    steps: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class World:
    """The folders of one process that runs rounds.

    Attributes:
        root: everything that its commands may write.
        shared: what they only read.
    """

    root: Path
    shared: Path

    @property
    def work(self) -> Path:
        """Where the results of commands go."""
        return self.root / "work"

    @property
    def output(self) -> Path:
        """Where the output of a command goes, outside the folders that are looked through for leftovers."""
        return self.root.parent / f"{self.root.name}.txt"

    @classmethod
    @contextmanager
    def temporary(cls) -> Iterator[World]:
        """Make a world that lasts as long as the block."""
        # Not a TemporaryDirectory, which is removed when a process that was forked from this one ends.
        folder = Path(tempfile.mkdtemp(prefix="world_")).resolve()
        try:
            yield cls(folder / "world", folder / "shared")
        finally:
            os.chdir("/")
            shutil.rmtree(folder)

    def enter(self) -> None:
        """Have this process and those forked from it use these folders for everything temporary or kept."""
        import datasets

        for name in ("tmp", "datasets", "cache", "work"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        os.environ |= {"TMPDIR": str(self.root / "tmp"), "SPLITLEARN_CACHE": str(self.root / "cache")}
        tempfile.tempdir = str(self.root / "tmp")
        datasets.config.HF_DATASETS_CACHE = self.root / "datasets"
        os.chdir(self.work)

    def paths(self) -> set[Path]:
        """Return everything that is there."""
        return set(self.root.rglob("*"))

    def base(self, has_lora: bool) -> Path:
        """Return the folder of a completed run."""
        return self.shared / ("base_lora" if has_lora else "base")

    def settings(self, kind: Kind, out: Path) -> list[str]:
        """Return the arguments of a round's command that writes to ``out``."""
        if kind.command == "prepare":
            return ["prepare", f"source={self.shared / 'single'}", f"out={out}", "max_shard_size=1MB"]
        if kind.command == "export":
            return ["export", f"run={self.base(kind.has_lora)}", f"out={out}", "max_shard_size=1MB"]
        steps, seed = (_LATER_STEPS, 0) if kind.folder == GOES_ON else (_NEW_STEPS, 1)
        also = {GOES_ON: ["ckpt_path=last"], REPLACES: ["overwrite=true"], NEW: []}[kind.folder]
        return [*self._train(out, kind, steps, seed), *also]

    def settings_again(self, kind: Kind, out: Path) -> list[str]:
        """Return the arguments of the command that follows a struck one."""
        settings = self.settings(kind, out)
        if kind.command != "train" or kind.folder == REPLACES:
            return settings
        return [*(setting for setting in settings if not setting.startswith("ckpt_path=")), "ckpt_path=auto"]

    def _train(self, folder: Path, kind: Kind, steps: int, seed: int) -> list[str]:
        settings = [*TINY, f"data.source={self.shared / 'notes.txt'}", f"data.num_workers={kind.num_workers}", f"seed={seed}"]
        settings += ["peft=lora"] if kind.has_lora else []
        return ["train", *settings, f"trainer.max_steps={steps}", f"hydra.run.dir={folder}"]

    def build(self) -> None:
        """Make the model, the text, and a checkpoint to prepare."""
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        from splitlearn.embedded import resolve_model

        logging.disable_progress_bar()
        model = Path(resolve_model("embedded:qwen2_tiny"))
        self.enter()
        shutil.copytree(model, self.root / "cache" / model.name)
        self.shared.mkdir(exist_ok=True)
        sentences = [f"Note {number}: {number * number % 97} is the rest of {number} squared by 97." for number in range(80)]
        (self.shared / "notes.txt").write_text("\n\n".join(sentences), encoding="utf-8")
        AutoModelForCausalLM.from_pretrained(model).save_pretrained(self.shared / "single")
        for path in model.glob("tokenizer*"):
            shutil.copy(path, self.shared / "single")

    def complete_bases(self, kinds: Iterable[Kind]) -> None:
        """Make the completed runs that rounds go on from, replace or export."""
        for has_lora in {kind.has_lora for kind in kinds if kind.command == "export" or kind.folder != NEW}:
            kind = Kind("train", has_lora=has_lora)
            run_whole(self._train(self.base(has_lora), kind, _BASE_STEPS, seed=0), self.output)

    def measure(self, kinds: Iterable[Kind]) -> dict[Kind, Whole]:
        """Run each kind's command without striking it.

        Raises:
            SystemExit: workers change what a run ends with.
        """
        wholes: dict[Kind, Whole] = {}
        for kind in sorted(set(kinds), key=str):
            out = self.work / "whole"
            if kind.command == "train" and kind.folder != NEW:
                shutil.copytree(self.base(kind.has_lora), out)
            keeps_all = ["keep_steps=1"] if kind.command == "train" else []
            ended = run_whole([*self.settings(kind, out), *keeps_all], self.output)
            wholes[kind] = Whole(ended, digest_of_end(out), digests_of_steps(out))
            shutil.rmtree(out)
        for kind, whole in wholes.items():
            if any(whole.end != other.end for like, other in wholes.items() if like.same_end == kind.same_end):
                raise SystemExit(f"{kind}: the number of workers, or an earlier run, changes what it ends with")
        return wholes


def run_whole(settings: list[str], output: Path) -> Ended:
    """Run a command that must succeed."""
    ended = run_command(settings, output)
    if ended.status != 0:
        raise SystemExit(f"{' '.join(settings)}\nended with {ended.status}:\n{ended.text[-3000:]}")
    return ended


def digest_of_end(folder: Path) -> str:
    """Return a digest of all tensors of a run's saved parts and adapters, or of all files of another folder."""
    from splitlearn.checkpoint import read_part_file, read_tensor_file

    tensors: dict[str, Any] = {path.name: read_part_file(path)[1] for path in folder.glob("parts/*.pt")}
    tensors |= {path.name: read_tensor_file(path, _REMEDY) for path in folder.glob("adapters/*.safetensors")}
    if tensors:
        return digest_of(tensors)
    return digest_of({str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()})


def digests_of_steps(folder: Path) -> dict[int, str]:
    """Return for each step of which a run's folder holds checkpoints a digest of its trained tensors and optimizer.

    Raises:
        ValueError: a checkpoint is damaged, or two of one step differ.
    """
    from splitlearn.app.checkpoints import read_checkpoint

    digests: dict[int, str] = {}
    for path in sorted(folder.glob("checkpoints/*.ckpt")):
        content = read_checkpoint(path)
        state = {name: content[name] for name in ("state_dict", "optimizer_states", "lr_schedulers")}
        if digests.setdefault(content["global_step"], digest_of(state)) != digest_of(state):
            raise ValueError(f"{path} differs from another checkpoint of its step")
    return digests


def digest_of(value: Any) -> str:
    """Return a digest of nested values with tensors in them, to the bit."""
    found = hashlib.sha256()
    _digest_into(found, value)
    return found.hexdigest()


def _digest_into(found: Any, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        found.update(f"{value.dtype} {tuple(value.shape)}".encode())
        found.update(value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(value, Mapping):
        for key in sorted(value, key=repr):
            found.update(repr(key).encode())
            _digest_into(found, value[key])
    elif isinstance(value, (list, tuple)):
        found.update(f"{len(value)} of".encode())
        for item in value:
            _digest_into(found, item)
    else:
        found.update(value if isinstance(value, bytes) else repr(value).encode())
