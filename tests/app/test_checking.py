from __future__ import annotations

from pathlib import Path

import pytest

from splitlearn.app import compose, train
from splitlearn.runs import LOCK_FILE


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["gradient_checkpointing=maybe"], "gradient_checkpointing is maybe; give true or false"),
        (["save_parts=oui"], "save_parts is oui; give true or false"),
        (["data=python_questions", "data.completion_only=non"], "data.completion_only is non; give true or false"),
        (["seed=abc"], "seed is 'abc'; give a whole number of at least 0"),
        (["trainer.accumulate_grad_batches=0"], "trainer.accumulate_grad_batches is 0; give a whole number of at least 1"),
        (["trainer.accumulate_grad_batches=1.5"], "trainer.accumulate_grad_batches is 1.5"),
        (["trainer.max_epochs=two"], "trainer.max_epochs is 'two'"),
        (["trainer.gradient_clip_val=-1"], "trainer.gradient_clip_val is -1; give a positive number, or null"),
        (["max_logits_mib=0"], "max_logits_mib is 0; give a positive number, or null"),
        (["+trainer.limit_val_batches=0"], "trainer.limit_val_batches is 0, but a run is judged by its held-out loss"),
        (["callbacks=early_stopping", "callbacks.early_stopping.patience=one"], "callbacks.early_stopping.patience is 'one'"),
        (
            ["callbacks=early_stopping", "callbacks.early_stopping.monitor=val_los"],
            "monitor is 'val_los'; a run logs",
        ),
        (["callbacks.checkpoint.monitor=loss"], "callbacks.checkpoint.monitor is 'loss'; a run logs"),
        (["callbacks.last_checkpoint.every_n_train_steps=0"], "every_n_train_steps is 0; give a whole number, or null"),
        (
            ["callbacks=find_learning_rate", "callbacks.learning_rate_finder.min_lr=1"],
            "searches from min_lr=1 to max_lr=0.1; give two positive numbers, the smaller first",
        ),
        (["callbacks=find_batch_size", "callbacks.batch_size_finder.max_val=0"], "callbacks.batch_size_finder.max_val is 0"),
        (
            ["callbacks=find_batch_size", "callbacks.batch_size_finder.init_val=512"],
            "begins with init_val=512, more than max_val=256",
        ),
        (["optimizer.parts.trunk.learning_rate=abc"], "optimizer.parts.trunk.learning_rate is 'abc'"),
        (["data.num_workers=lots"], "data.num_workers is 'lots'; give a whole number of at least 0"),
        (["optimizer.warmup_fraction=lots"], "optimizer.warmup_fraction is 'lots'; give a number"),
        (["callbacks.throughput.window=0"], "callbacks.throughput.window is 0; give a whole number of at least 2"),
        (["ckpt_path=3"], "ckpt_path is 3, which does not exist"),
        (["peft=custom"], "Missing mandatory value"),
        (["device=cuda:7"], "device is 'cuda:7', but this machine has"),
    ],
)
def test_what_cannot_be_meant_is_told_before_anything_is_done(settings: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(Exception) as error:
        train(compose(*settings, "verbose=false"), folder=tmp_path)
    assert message in str(error.value)
    assert {path.name for path in tmp_path.iterdir()} <= {"summary.json", LOCK_FILE}
