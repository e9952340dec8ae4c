"""Training rows are divided among clients: each row goes to one, in the same way at all of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from splitlearn.data import InstructionDataModule, TextDataModule
from splitlearn.data.partition import Partition
from splitlearn.embedded import resolve_model

ROWS = Dataset.from_dict({"text": [f"row {number}" for number in range(100)]})


def make(source: Path, kind: Any = TextDataModule, **settings: Any) -> Any:
    module = kind(resolve_model("embedded:qwen2_tiny"), str(source), block_size=8, batch_size=2, **settings)
    module.setup("fit")
    return module


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    lines = [{"text": f"the text of row {number}, which is long enough", "ward": f"w{number % 5 % 3}"} for number in range(60)]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


@pytest.mark.parametrize("by", ["iid", "dirichlet"])
def test_each_row_goes_to_one_client(by: str) -> None:
    partition = Partition(by, 3, concentration=2.0)
    shares = [share["text"][:] for share in partition.divide(ROWS, 4)]
    assert sorted(text for share in shares for text in share) == sorted(ROWS["text"][:])
    assert [share["text"][:] for share in partition.divide(ROWS, 4)] == shares
    assert [share["text"][:] for share in partition.divide(ROWS, 5)] != shares
    sizes = sorted(map(len, shares))
    assert (sizes == [33, 33, 34]) == (by == "iid")


def test_rows_of_one_value_stay_together(rows: Path) -> None:
    partition = {"partition": "ward", "num_shares": 2, "val_fraction": 0}
    whole = make(rows, **partition)
    parts = [make(rows, **partition, share=number) for number in (1, 2)]
    # 24 rows of w0 and w1 each, 12 of w2: the rarest goes to the second client, since both have as many.
    assert [part.counts["train_rows"] for part in parts] == [36, 24] and whole.counts["train_rows"] == 60
    assert [blocks["input_ids"][:].tolist() for blocks in whole.shares] == [
        part.blocks["train"]["input_ids"][:].tolist() for part in parts
    ]
    assert len(whole.blocks["train"]) == sum(len(part.blocks["train"]) for part in parts)
    assert whole.blocks["train"]["input_ids"][:].shape == (len(whole.blocks["train"]), 8)


def test_what_is_held_out_is_the_same_for_all(rows: Path) -> None:
    held_out = [
        make(rows, partition="iid", num_shares=3, share=number).blocks["val"]["input_ids"][:].tolist() for number in (1, 3)
    ]
    assert held_out[0] == held_out[1] == make(rows).blocks["val"]["input_ids"][:].tolist()


def test_instructions_are_divided(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    lines = [{"prompt": f"{number}?", "completion": "yes", "site": number % 2} for number in range(10)]
    path.write_text("\n".join(map(json.dumps, lines)))
    module = make(path, InstructionDataModule, partition="site", num_shares=2, val_fraction=0)
    assert module.counts["train_rows"] == 10 and len(module.shares) == 2


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"partition": "iid"}, "data.num_shares is 0; with data.partition=iid it is the number of clients, 2 or more"),
        ({"share": 1}, "data.share is 1; set data.partition to say how rows are divided, or leave it null"),
        ({"partition": "iid", "num_shares": 2, "share": 3}, "data.share is 3; there are 1 to 2"),
        ({"partition": "dirichlet", "num_shares": 2, "concentration": 0}, "data.concentration is 0; it must be above 0"),
        (
            {"partition": "site", "num_shares": 2},
            "but .* has no such column but text, ward; name one",
        ),
        (
            {"partition": "ward", "num_shares": 4},
            "'ward', which has 3 values .* too few for data.num_shares=4",
        ),
        ({"partition": "iid", "num_shares": 61, "val_fraction": 0}, "data.num_shares is 61, but there are 60 rows to train on"),
        (
            {"partition": "dirichlet", "num_shares": 20, "concentration": 0.01},
            r"leaves client \d+ of 20 no rows; raise data.concentration from 0.01, or another data.seed",
        ),
        ({"partition": "iid", "num_shares": 2, "streaming": True}, "data.partition is 'iid', which needs all rows; leave"),
    ],
)
def test_what_cannot_be_divided_is_refused(settings: dict[str, Any], sentence: str, rows: Path) -> None:
    with pytest.raises(ValueError, match=sentence):
        make(rows, **settings)


def test_a_row_without_the_column_is_named(rows: Path) -> None:
    rows.write_text(f'{rows.read_text()}\n{{"text": "another text", "ward": null}}')
    with pytest.raises(ValueError, match=r"rows.jsonl line 61: there is no 'ward', by which data.partition divides rows"):
        make(rows, partition="ward", num_shares=2)
