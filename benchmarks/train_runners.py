"""The runners of train.py: each trains once, in the process that calls it, and returns seconds and bytes."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

LEARNING_RATE = 1e-4
NUM_EPOCHS = 3


@dataclass(frozen=True)
class Setting:
    """What every runner trains, and where.

    Attributes:
        model: a name that `resolve_model` knows, a folder or a hub id.
        cut: both split points.
        blocks: rows of tokens in an epoch.
        batch: rows of a step.
        length: tokens of a row.
        device: ``"cpu"`` or ``"cuda"``.
        precision: Lightning's name of it: ``"32-true"``, ``"bf16-mixed"`` or ``"bf16-true"``.
    """

    model: str
    cut: tuple[int, int]
    blocks: int
    batch: int
    length: int
    device: str
    precision: str

    @property
    def dtype(self) -> str:
        """The dtype of the weights."""
        return "bfloat16" if self.precision == "bf16-true" else "float32"

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch."""
        return self.blocks // self.batch

    def as_arguments(self) -> list[str]:
        """Return the command line's arguments that make this setting."""
        settings = {"model": self.model, "blocks": self.blocks, "batch": self.batch, "length": self.length}
        named = {**settings, "device": self.device, "precision": self.precision}
        return ["--cut", *map(str, self.cut), *(text for name, value in named.items() for text in (f"--{name}", str(value)))]


class StepClock:
    """Notes when each step ended, and counts the tensors of the last step.

    Args:
        num_steps: how many steps there will be.
        device: where the model trains.
    """

    def __init__(self, num_steps: int, device: str) -> None:
        self.ends_s: list[float] = []
        self.peak_tensor_bytes = 0
        self.peak_gpu_bytes = 0
        self._num_steps = num_steps
        self._on_gpu = device == "cuda"
        self._profiler: Any = None

    def tick(self, parameters: Iterable[Any]) -> None:
        """Note the end of a step of a model with these parameters."""
        import torch
        from torch.profiler import ProfilerActivity, profile

        if self._on_gpu:
            torch.cuda.synchronize()
        self.ends_s.append(time.perf_counter())
        if self._on_gpu:
            self._count_on_gpu()
            return
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

    def _count_on_gpu(self) -> None:
        """Note the GPU's peak, and that of the last step above what the model and the optimizer hold between steps."""
        import torch

        self.peak_gpu_bytes = max(self.peak_gpu_bytes, torch.cuda.max_memory_allocated())
        if len(self.ends_s) == self._num_steps - 1:
            self._held_bytes = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
        elif len(self.ends_s) == self._num_steps:
            self.peak_tensor_bytes = torch.cuda.max_memory_allocated() - self._held_bytes


def lora(layers: list[int] | None = None) -> Any:
    """Return PEFT's configuration of the adapters, on some layers or all."""
    from peft import LoraConfig

    some = rf".*\.layers\.({'|'.join(map(str, layers or []))})\..*_proj"
    return LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules="all-linear" if layers is None else some)


def make_data(setting: Setting) -> Any:
    """Return the text as a data module, the same for every runner."""
    from splitlearn.data import TextDataModule

    sizes = {"block_size": setting.length, "batch_size": setting.batch, "max_train_blocks": setting.blocks}
    data = TextDataModule(setting.model, "embedded:python_docs", **sizes, max_val_blocks=setting.batch)
    data.setup()
    found = len(data.blocks["train"])
    if found < setting.blocks:
        raise SystemExit(f"the text gives {found} blocks of {setting.length} tokens, fewer than --blocks {setting.blocks}")
    return data


def unsplit(setting: Setting, layers: list[int] | None) -> Any:
    """Return the unsplit model with adapters."""
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    dtype = getattr(torch, setting.dtype)
    return get_peft_model(AutoModelForCausalLM.from_pretrained(setting.model, dtype=dtype), lora(layers))


def run_trainer(setting: Setting, data: Any, layers: list[int] | None, folder: Path, clock: StepClock) -> None:
    """Train under transformers' Trainer."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Clock(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            clock.tick(kwargs["model"].parameters())

    settings = TrainingArguments(
        str(folder),
        per_device_train_batch_size=setting.batch,
        num_train_epochs=NUM_EPOCHS,
        learning_rate=LEARNING_RATE,
        weight_decay=0.01,
        use_cpu=setting.device == "cpu",
        bf16=setting.precision == "bf16-mixed",
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        logging_strategy="no",
    )
    rows = data.blocks["train"].remove_columns("row")
    Trainer(unsplit(setting, layers), settings, train_dataset=rows, callbacks=[Clock()]).train()


def run_lightning(setting: Setting, module: Any, data: Any, folder: Path, clock: StepClock, strategy: Any = None) -> None:
    """Train under Lightning; a strategy brings its own precision."""
    from lightning.pytorch import Callback, Trainer

    class Clock(Callback):
        def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
            clock.tick(module.parameters())

    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    settings: dict[str, Any] = {**quiet, "limit_val_batches": 0, "num_sanity_val_steps": 0, "gradient_clip_val": 1.0}
    settings |= {"precision": setting.precision} if strategy is None else {"strategy": strategy}
    settings |= {"accelerator": setting.device, "devices": 1, "max_epochs": NUM_EPOCHS}
    trainer = Trainer(default_root_dir=folder, callbacks=[Clock()], **settings)
    trainer.fit(module, datamodule=data)


def unsplit_module(setting: Setting, layers: list[int] | None) -> Any:
    """Return the unsplit model with adapters as a LightningModule, as one would write it."""
    import torch
    from lightning.pytorch import LightningModule

    class Unsplit(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = unsplit(setting, layers)
            self.model.train()

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = self.model(input_ids=batch["input_ids"], labels=batch["labels"], use_cache=False).loss
            self.log("train_loss", loss)
            return loss

        def configure_optimizers(self) -> Any:
            trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
            return torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.01)

    return Unsplit()


def split_module(setting: Setting, runner: str) -> tuple[Any, Any]:
    """Return the cut model with adapters and its strategy."""
    from splitlearn.training import SplitCausalLM, SplitPrecision, SplitStrategy

    parts = {} if runner in ("splitlearn", "splitlearn_compiled") else {"bottom": False, "trunk": False}
    settings = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear"}
    device = "cpu" if setting.device == "cpu" else "cuda:0"
    module = SplitCausalLM(
        setting.model,
        *setting.cut,
        device=device,
        dtype=setting.dtype,
        peft={"method": "lora", "settings": settings, "parts": parts},
        optimizer={"learning_rate": LEARNING_RATE, "weight_decay": 0.01},
        activation_cache={"keep": "memory" if runner == "splitlearn_cached" else "none"},
        compile_layers=runner == "splitlearn_compiled",
    )
    devices = dict.fromkeys(("bottom", "trunk", "top"), device)
    return module, SplitStrategy(devices, precision_plugin=SplitPrecision(setting.precision, devices))


def measure(runner: str, setting: Setting, folder: Path) -> dict[str, float]:
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
    data = make_data(setting)
    num_layers = AutoConfig.from_pretrained(setting.model).num_hidden_layers
    layers = list(range(setting.cut[1], num_layers)) if runner.endswith("top") else None
    clock = StepClock(setting.steps_per_epoch * NUM_EPOCHS, setting.device)
    # What a runner makes of its first batch of work, such as compiled kernels, counts for it.
    del peft
    with MemoryTracker(sample_interval_s=0.005) as tracker:
        start = tracker.snapshot("imports and data done")
        if runner.startswith("trainer"):
            run_trainer(setting, data, layers, folder, clock)
        elif runner.startswith("lightning"):
            run_lightning(setting, unsplit_module(setting, layers), data, folder, clock)
        else:
            module, strategy = split_module(setting, runner)
            run_lightning(setting, module, data, folder, clock, strategy)
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
        "peak_gpu_bytes": clock.peak_gpu_bytes,
    }
