import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from splitlearn.data import InstructionDataModule
from splitlearn.data.examples import IGNORED_LABEL
from splitlearn.embedded import resolve_model
from tests.data.test_examples import TEMPLATE, TURNS

ROWS = [{"prompt": f"What is {number} and one? ", "completion": f"It is {number + 1}."} for number in range(40)]


@pytest.fixture(scope="module")
def tokenizer_folder() -> str:
    return resolve_model("embedded:qwen2_tiny")


@pytest.fixture
def template(tmp_path: Path) -> str:
    path = tmp_path / "template.jinja"
    path.write_text(TEMPLATE)
    return str(path)


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def data(folder: str, source: Any, **settings: Any) -> InstructionDataModule:
    module = InstructionDataModule(folder, source, block_size=64, batch_size=4, **settings)
    module.setup()
    return module


def learned(module: InstructionDataModule, name: str = "train") -> str:
    assert module.tokenizer is not None
    labels = [label for row in module.blocks[name]["labels"] for label in row if label != IGNORED_LABEL]
    return str(module.tokenizer.decode(labels))


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_the_kinds_of_files_say_the_same(tmp_path: Path, tokenizer_folder: str, kind: str) -> None:
    path = tmp_path / f"rows.{kind}"
    rows = Dataset.from_list(ROWS)
    writers: dict[str, Callable[[str], int]] = {"jsonl": rows.to_json, "csv": rows.to_csv, "parquet": rows.to_parquet}
    writers[kind](str(path))
    module = data(tokenizer_folder, str(path))
    text = learned(module) + learned(module, "val")
    assert all(row["completion"] in text for row in ROWS)
    assert "What" not in text


def test_with_a_template_a_prompt_is_the_users_message(tmp_path: Path, tokenizer_folder: str, template: str) -> None:
    module = data(tokenizer_folder, write(tmp_path / "a.jsonl", ROWS), chat_template=template, system="Count.")
    assert "It is 5.|\n" in learned(module) + learned(module, "val")
    sample = module.sample()
    assert sample.startswith("<system>Count.|\n<user>What is ")
    assert "<assistant>»It is " in sample


def test_conversations(tmp_path: Path, tokenizer_folder: str, template: str) -> None:
    source = write(tmp_path / "a.jsonl", [{"messages": TURNS}] * 4)
    module = data(tokenizer_folder, source, messages_field="messages", chat_template=template, val_fraction=0.25)
    assert learned(module) == "Four.|\nSeven, of course.|\n" * 3
    everything = data(
        tokenizer_folder, source, messages_field="messages", chat_template=template, completion_only=False, val_fraction=0.25
    )
    assert "And three?" in learned(everything)


def test_batches_of_unpacked_rows_are_padded_to_their_longest(tmp_path: Path, tokenizer_folder: str) -> None:
    module = data(tokenizer_folder, write(tmp_path / "a.jsonl", ROWS), packing="none")
    for batch in module.train_dataloader():
        lengths = batch["attention_mask"].sum(1)
        assert batch["input_ids"].shape[1] == lengths.max()
        assert (batch["labels"][batch["attention_mask"] == 0] == IGNORED_LABEL).all()
        assert "position_ids" not in batch


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        ([*ROWS, {"prompt": "Why?"}], {}, "line 41 has no text or list field 'completion'; data.completion_field names"),
        (ROWS, {"completion_field": "answer"}, "line 1 has no text or list field 'answer'; data.completion_field names"),
        (ROWS, {"messages_field": "messages"}, "line 1 has no list field 'messages'"),
        ([*ROWS, {"prompt": "Why? " * 99, "completion": "So."}], {}, "1 of .* rows are longer than data.block_size=64"),
        ([{"prompt": "Why? " * 99, "completion": "So."}] * 9, {"too_long": "cut"}, "has no supervised token within"),
        (
            [{"prompt": "Why? " * 99, "completion": "So."}] * 9,
            {"too_long": "drop"},
            "the training text: all 8 rows are longer than",
        ),
        ([{"messages": TURNS}] * 9, {"messages_field": "messages"}, r"a.jsonl line \d: the tokenizer has no chat template"),
    ],
)
def test_rows_that_cannot_be_used(
    tmp_path: Path, tokenizer_folder: str, rows: list[Any], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        data(tokenizer_folder, write(tmp_path / "a.jsonl", rows), **settings)


def test_a_template_that_is_not_there(tokenizer_folder: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"data\.chat_template is nowhere\.jinja, which does not exist"):
        data(tokenizer_folder, "embedded:python_questions", chat_template="nowhere.jinja")


def test_questions_that_python_carries(tokenizer_folder: str) -> None:
    module = data(tokenizer_folder, "embedded:python_questions", too_long="drop")
    assert len(module.blocks["train"]) > 300
    assert "What does the" in module.sample()
    assert module.largest_token_id() < 10_000


def test_rows_that_are_too_long_are_counted(tmp_path: Path, tokenizer_folder: str) -> None:
    long = {"prompt": "Why? " * 99, "completion": "So."}
    module = data(tokenizer_folder, write(tmp_path / "a.jsonl", [*ROWS, *[long] * 10]), too_long="drop")
    counts = module.counts
    assert counts["rows"] == 50 and counts["train_rows"] + counts["val_rows"] == 40
    assert counts["train_rows_dropped_as_too_long"] + counts["val_rows_dropped_as_too_long"] == 10
    assert "train rows dropped as too long: " in module.describe()
    with pytest.raises(ValueError, match=r"the held-out text \(data\.val_source=.*\): all 3 rows are longer"):
        data(
            tokenizer_folder,
            write(tmp_path / "a.jsonl", ROWS),
            val_source=write(tmp_path / "b.jsonl", [long] * 3),
            too_long="drop",
        )


def test_columns_that_are_not_used_do_not_matter(tmp_path: Path, tokenizer_folder: str) -> None:
    others: list[dict[str, Any]] = [{"x": None}, {"x": "2024-01-05"}, {"x": [{"y": 1}]}, {}, {"z": 1}]
    rows = [row | others[number % 5] for number, row in enumerate(ROWS)]
    module = data(tokenizer_folder, [write(tmp_path / "a.jsonl", rows[:20]), write(tmp_path / "b.jsonl", rows[20:])])
    assert "not used: x, z" in module.describe()
    assert all(row["completion"] in learned(module) + learned(module, "val") for row in ROWS)


def test_half_a_surrogate_pair_is_told_with_its_line(tmp_path: Path, tokenizer_folder: str) -> None:
    with pytest.raises(ValueError, match=r"a\.jsonl line 41: holds half of a surrogate pair"):
        data(tokenizer_folder, write(tmp_path / "a.jsonl", [*ROWS, {"prompt": "Why?", "completion": "\ud800"}]))


def test_exchanged_fields_are_other_data(tmp_path: Path, tokenizer_folder: str) -> None:
    source = write(tmp_path / "a.jsonl", ROWS)
    exchanged = {"prompt_field": "completion", "completion_field": "prompt"}
    for streaming in ({}, {"streaming": True, "val_rows": 5}):
        contents = {data(tokenizer_folder, source, **each, **streaming).order_settings["content"] for each in ({}, exchanged)}
        assert len(contents) == 2


def test_the_sample_shows_no_padding(tmp_path: Path, tokenizer_folder: str) -> None:
    module = data(tokenizer_folder, write(tmp_path / "a.jsonl", ROWS[:3]))
    row = module.blocks["train"][0]
    assert row["num_tokens"] < 64
    ends = [module.sample(max_tokens) for max_tokens in (int(row["num_tokens"]), 64)]
    assert ends[0] == ends[1] and ends[0].endswith("«")
