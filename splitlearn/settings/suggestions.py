"""Which setting was probably meant by a name that is none."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher, get_close_matches

# What other libraries call it, above all the arguments of transformers' trainer.
_ELSEWHERE = {
    "lr": "optimizer.learning_rate",
    "lr_scheduler_type": "optimizer.schedule",
    "warmup_ratio": "optimizer.warmup_fraction",
    "epochs": "trainer.max_epochs",
    "num_epochs": "trainer.max_epochs",
    "num_train_epochs": "trainer.max_epochs",
    "steps": "trainer.max_steps",
    "gradient_accumulation_steps": "trainer.accumulate_grad_batches",
    "max_grad_norm": "trainer.gradient_clip_val",
    "logging_steps": "trainer.log_every_n_steps",
    "eval_steps": "trainer.val_check_interval",
    "bf16": "trainer.precision",
    "fp16": "trainer.precision",
    "per_device_train_batch_size": "data.batch_size",
    "max_length": "data.block_size",
    "max_seq_length": "data.block_size",
    "dataset": "data.source",
    "model_name_or_path": "model.name_or_path",
    "torch_dtype": "model.dtype",
    "resume_from_checkpoint": "ckpt_path",
    "torch_compile": "compile",
}
# How alike two names must be, from 0 to 1.
_ALIKE = 0.75


def suggestion(name: str, names: Sequence[str]) -> str | None:
    """Return the setting of ``names`` that was probably meant by the dotted name ``name``; None if none is like it."""
    leaf = name.rpartition(".")[2]
    if _ELSEWHERE.get(leaf) in names:
        return _ELSEWHERE[leaf]
    same = [each for each in names if each.rpartition(".")[2] == leaf]
    if same:
        return min(same, key=lambda each: each.count("."))
    if "." in name:
        group = name.rpartition(".")[0]
        beside = [each for each in names if each.rpartition(".")[0] == group]
        if beside:
            return _closest(name.rpartition(".")[2], beside)
        return next(iter(get_close_matches(name, names, n=1, cutoff=_ALIKE)), None)
    return _closest(leaf, names)


def _closest(leaf: str, names: Sequence[str]) -> str | None:
    """Return the name whose last component is most like ``leaf``, the first of those with the fewest dots."""
    score = {each: SequenceMatcher(None, leaf, each.rpartition(".")[2]).ratio() for each in names}
    best = max(score, key=lambda each: (score[each], -each.count(".")), default=None)
    return best if best is not None and score[best] >= _ALIKE else None
