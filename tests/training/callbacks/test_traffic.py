"""What crosses the cuts in training, against arithmetic done from shapes."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

from splitlearn.boundary import COUNTS
from splitlearn.cut import Placement
from splitlearn.training import SplitCausalLM
from splitlearn.training.callbacks import Traffic

ROWS, TOKENS, HIDDEN, STEPS = 2, 8, 64, 3
HIDDEN_BYTES = ROWS * TOKENS * HIDDEN * 4
MASK_BYTES = LABEL_BYTES = ROWS * TOKENS * 8
PARTIES = {
    "u_shaped": {"client": ["bottom", "top"], "server": ["trunk"]},
    "vanilla": {"client": ["bottom"], "server": ["trunk", "top"]},
    "linear": {"client": ["bottom"], "middle": ["trunk"], "server": ["top"]},
    "one_party": {"client": ["bottom", "trunk", "top"]},
}


def place(choice: str) -> Placement:
    labels = next(name for name, parts in PARTIES[choice].items() if "top" in parts)
    return Placement.resolve({name: {"parts": parts} for name, parts in PARTIES[choice].items()}, "client", labels, num_gpus=0)


def loader(num_batches: int = STEPS) -> DataLoader[Any]:
    ids_NT = torch.randint(3, 50, (ROWS * num_batches, TOKENS), generator=torch.Generator().manual_seed(0))
    mask_T = torch.ones(TOKENS, dtype=torch.int64)
    return DataLoader(
        [{"input_ids": ids_T, "labels": ids_T, "attention_mask": mask_T} for ids_T in ids_NT],  # type: ignore[arg-type]
        batch_size=ROWS,
    )


def fit(checkpoint: Path, folder: Path, choice: str = "u_shaped", *, num_batches: int = STEPS, **settings: Any) -> Traffic:
    traffic = Traffic()
    trainer = Trainer(
        accelerator="cpu",
        callbacks=[traffic],
        logger=CSVLogger(folder, name="", version=""),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        log_every_n_steps=1,
        max_epochs=1,
        accumulate_grad_batches=settings.pop("accumulate", 1),
        limit_train_batches=settings.pop("limit", 1.0),
    )
    module = SplitCausalLM(str(checkpoint), 2, 4, placement=place(choice), **settings)
    trainer.fit(module, loader(num_batches), ckpt_path=settings.get("ckpt_path"))
    trainer.save_checkpoint(folder / "last.ckpt")
    return traffic


def per_step(traffic: Traffic) -> dict[str, list[float]]:
    """Return for each cut activations up and down, then gradients up and down."""
    summary = traffic.summary()
    return {cut: [summary[cut][f"{name}_per_step"] for name in COUNTS] for cut in ("cut_1", "cut_2")}


@pytest.mark.parametrize(
    ("choice", "cut_1", "cut_2"),
    [
        ("u_shaped", [HIDDEN_BYTES + MASK_BYTES, 0, 0, HIDDEN_BYTES], [0, HIDDEN_BYTES, HIDDEN_BYTES, 0]),
        ("vanilla", [HIDDEN_BYTES + MASK_BYTES + LABEL_BYTES, 0, 0, HIDDEN_BYTES], [0, 0, 0, 0]),
        (
            "linear",
            [HIDDEN_BYTES + MASK_BYTES, 0, 0, HIDDEN_BYTES],
            # The client relays between the two servers.
            [HIDDEN_BYTES + MASK_BYTES + LABEL_BYTES, HIDDEN_BYTES, HIDDEN_BYTES, HIDDEN_BYTES],
        ),
        ("one_party", [0, 0, 0, 0], [0, 0, 0, 0]),
    ],
)
def test_a_steps_bytes_are_those_of_its_shapes(
    choice: str, cut_1: list[int], cut_2: list[int], tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    # The head is tied to the embedding, which two parties could not share.
    traffic = fit(tiny_checkpoint("llama", tie_word_embeddings=False), tmp_path, choice)
    assert per_step(traffic) == {"cut_1": cut_1, "cut_2": cut_2}
    summary = traffic.summary()
    assert [summary["cut_1"][name] for name in COUNTS] == [STEPS * count for count in cut_1]
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    column = "cut_1/activation_uplink_bytes"
    logged = [float(row[column]) for row in rows if row.get(column)]
    assert logged == ([] if choice == "one_party" else [cut_1[0]] * STEPS)


def test_accumulated_batches_count_in_one_step(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    traffic = fit(tiny_checkpoint("llama"), tmp_path, num_batches=4, accumulate=2)
    assert per_step(traffic)["cut_2"] == [0, 2 * HIDDEN_BYTES, 2 * HIDDEN_BYTES, 0]


@pytest.mark.parametrize(
    ("frozen", "gradients"),
    [(("bottom",), (0, HIDDEN_BYTES)), (("bottom", "trunk"), (0, 0)), ((), (HIDDEN_BYTES, HIDDEN_BYTES))],
)
def test_no_gradient_crosses_below_the_lowest_trained_part(
    frozen: tuple[str, ...], gradients: tuple[int, int], tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    optimizer = {"parts": {name: {"train": False} for name in frozen}}
    traffic = fit(tiny_checkpoint("llama", tie_word_embeddings=False), tmp_path, optimizer=optimizer)
    found = per_step(traffic)
    assert (found["cut_1"][3], found["cut_2"][2]) == gradients


def test_a_resumed_run_counts_on(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    whole = fit(tiny_checkpoint("llama"), tmp_path / "whole")
    fit(tiny_checkpoint("llama"), tmp_path / "first", limit=1)
    traffic, module = Traffic(), SplitCausalLM(str(tiny_checkpoint("llama")), 2, 4)
    trainer = Trainer(
        accelerator="cpu",
        callbacks=[traffic],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        max_epochs=2,
        limit_train_batches=STEPS - 1,
    )
    trainer.fit(module, loader(), ckpt_path=tmp_path / "first" / "last.ckpt", weights_only=True)
    assert trainer.global_step == STEPS
    assert traffic.summary() == whole.summary()


def test_another_module_is_refused() -> None:
    with pytest.raises(TypeError, match="traffic is counted of a SplitCausalLM, not of a LightningModule"):
        Traffic().on_fit_start(Trainer(logger=False), LightningModule())
