import os
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from splitlearn.data import TextDataModule, read_documents
from splitlearn.data.resumable import ResumableLoader, StreamedBlocks
from splitlearn.embedded import resolve_model


def make(source: str = "embedded:python_docs", **settings: Any) -> TextDataModule:
    module = TextDataModule(resolve_model("embedded:qwen2_tiny"), source, **settings)
    module.setup("fit")
    return module


def column(module: TextDataModule, name: str, column_name: str) -> torch.Tensor:
    """Return a column of a set of blocks, (N, T)."""
    # The blocks' format is torch; their types know of lists only.
    rows: Any = module.blocks[name][column_name][:]
    assert isinstance(rows, torch.Tensor)
    return rows


def test_batches_and_held_out_text() -> None:
    module = make(block_size=64, batch_size=4)
    batch = next(iter(module.train_dataloader()))
    assert batch["input_ids"].shape == (4, 64) and batch["input_ids"].dtype == torch.int64
    assert torch.equal(batch["input_ids"], batch["labels"])
    train = {tuple(row) for row in torch.stack(list(module.blocks["train"]["input_ids"])).tolist()}
    held_out = {tuple(row) for row in torch.stack(list(module.blocks["val"]["input_ids"])).tolist()}
    assert len(held_out) > 50 and not train & held_out
    assert module.num_tokens("val") == len(module.blocks["val"]) * 64


def test_the_seed_decides_split_and_order() -> None:
    def first_rows(seed: int) -> list[list[int]]:
        module = make(seed=seed, max_train_blocks=40)
        return [next(iter(loader))["input_ids"][0].tolist() for loader in (module.train_dataloader(), module.val_dataloader())]

    assert first_rows(1) == first_rows(1)
    assert first_rows(1)[0] != first_rows(2)[0]
    assert first_rows(1)[1] != first_rows(2)[1]


def test_setup_twice_reads_once() -> None:
    module = make()
    blocks = module.blocks["train"]
    module.setup("fit")
    assert module.blocks["train"] is blocks


def test_limits() -> None:
    module = make(max_train_blocks=5, max_val_blocks=3)
    assert (len(module.blocks["train"]), len(module.blocks["val"])) == (5, 3)
    assert len(make(max_train_blocks=10**9).blocks["train"]) > 100


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"val_fraction": -0.1}, "data.val_fraction is -0.1"),
        ({"val_rows": -1}, "data.val_rows is -1"),
        ({"max_train_rows": 0}, "data.max_train_rows is 0"),
        ({"val_fraction": 1.0}, "data.val_fraction is 1.0"),
        ({"val_fraction": "half"}, "data.val_fraction is 'half'"),
        ({"max_val_blocks": 0}, "data.max_val_blocks is 0"),
        ({"batch_size": 0}, "data.batch_size is 0"),
        ({"batch_size": 2.0}, "data.batch_size is 2.0"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**settings)


def test_a_single_document_cannot_be_divided(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("only this\n")
    with pytest.raises(ValueError, match="holds a single row"):
        make(str(tmp_path / "one.txt"))


def test_a_model_folder_without_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no tokenizer in"):
        TextDataModule(str(tmp_path), "embedded:python_docs").setup("fit")


def test_isolated_documents_longer_than_a_block_go_on_in_the_next() -> None:
    joined, isolated = (make(packing=packing) for packing in ("joined", "isolated"))
    assert column(isolated, "train", "position_ids").max() == isolated.block_size - 1
    # Not one token of the text is lost, where the joined text loses the last.
    kept = int((column(isolated, "train", "labels") != -100).sum())
    assert kept + len(read_documents("embedded:python_docs")) > joined.num_tokens("train") * 0.99


def streamed(path: Path, **settings: Any) -> TextDataModule:
    return make(str(path), sample_by="line", streaming=True, val_rows=20, rows_at_once=30, **settings)


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "lines.txt"
    path.write_text("\n".join(f"This is the line with the number {number}, one of many." for number in range(200)))
    return path


@pytest.mark.parametrize("num_workers", [0, 2])
def test_streamed_rows_are_those_that_were_not_held_out_in_a_new_order_each_epoch(lines: Path, num_workers: int) -> None:
    module = streamed(lines, packing="isolated", block_size=32, batch_size=2, num_workers=num_workers)
    assert module.tokenizer is not None
    orders = []
    for epoch in range(2):
        loader = module.train_dataloader()
        assert isinstance(loader, ResumableLoader) and isinstance(loader.dataset, StreamedBlocks)
        loader.dataset.set_epoch(epoch)
        text = str(module.tokenizer.decode(torch.cat([batch["input_ids"].flatten() for batch in loader]).tolist()))
        orders.append([int(number) for number in re.findall(r"number (\d+),", text)])
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(20, 200))
    assert orders[0] != orders[1]
    held_out = str(module.tokenizer.decode(column(module, "val", "input_ids").flatten().tolist()))
    assert {int(number) for number in re.findall(r"number (\d+),", held_out)} == set(range(20))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_stream_is_taken_up_where_it_was_left(lines: Path, num_workers: int) -> None:
    def batches(skipped: int) -> list[torch.Tensor]:
        module = streamed(lines, block_size=32, batch_size=2, num_workers=num_workers, max_train_blocks=60)
        loader = module.train_dataloader()
        assert isinstance(loader, ResumableLoader)
        loader.load_state_dict({"num_batches": skipped})
        return [batch["input_ids"] for batch in loader]

    whole, rest = batches(0), batches(3)
    assert len(whole) > 10
    assert [each.tolist() for each in rest] == [each.tolist() for each in whole[3:]]


def test_a_stream_can_be_handed_to_a_process_that_is_not_forked(lines: Path) -> None:
    loader = streamed(lines, block_size=32, batch_size=2, max_train_blocks=8).train_dataloader()
    assert isinstance(loader, ResumableLoader) and isinstance(loader.dataset, StreamedBlocks)
    dataset = loader.dataset
    handed_over = pickle.loads(pickle.dumps(dataset))
    assert [row["input_ids"].tolist() for row in handed_over] == [row["input_ids"].tolist() for row in dataset]


def added_padding(folder: Path) -> str:
    """Return a copy of the embedded tokenizer that pads on the left with a token that the model has not got."""
    tokenizer = AutoTokenizer.from_pretrained(resolve_model("embedded:qwen2_tiny"), padding_side="left")
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("packing", ["none", "isolated"])
def test_padding_is_on_the_right_and_of_an_id_that_every_model_has(tmp_path: Path, packing: str) -> None:
    (tmp_path / "a.txt").write_text("\n".join("word " * (1 + number % 9) for number in range(40)))
    settings: dict[str, Any] = {"sample_by": "line", "packing": packing, "block_size": 16, "batch_size": 4}
    module = TextDataModule(added_padding(tmp_path / "tokenizer"), str(tmp_path / "a.txt"), **settings)
    module.setup()
    module.check_token_ids(2048)
    batch = next(iter(module.train_dataloader()))
    assert int(batch["input_ids"].max()) < 2048
    assert packing == "isolated" or torch.equal(batch["labels"] == -100, batch["attention_mask"] == 0)
    assert (batch["labels"][:, 1] != -100).all()


@pytest.mark.parametrize("streaming", [False, True])
def test_ids_that_the_model_has_not_got_are_refused(tmp_path: Path, streaming: bool) -> None:
    lines = [f"line {number}" for number in range(60)]
    (tmp_path / "a.txt").write_text("\n".join([*lines[:50], "a literal [PAD] stands here", *lines[50:]]))
    settings: dict[str, Any] = {"sample_by": "line", "packing": "none", "streaming": streaming, "val_rows": 9}
    module = TextDataModule(added_padding(tmp_path / "tokenizer"), str(tmp_path / "a.txt"), **settings)
    module.setup()
    with pytest.raises(ValueError, match="the data hold the token id 2048, but the model knows only 2048 ids"):
        module.check_token_ids(2048)
        list(module.train_dataloader())


def test_an_edited_file_is_read_anew_though_its_time_is_the_old_one(lines: Path) -> None:
    times = lines.stat()
    before = make(str(lines), sample_by="line", block_size=16)
    lines.write_text(lines.read_text().replace("one of many", "not of many"))
    os.utime(lines, ns=(times.st_atime_ns, times.st_mtime_ns))
    after = make(str(lines), sample_by="line", block_size=16)
    assert after.tokenizer is not None
    assert "not of many" in after.tokenizer.decode(column(after, "train", "input_ids").flatten().tolist())
    assert before.order_settings["content"] != after.order_settings["content"]


def test_the_content_of_data_depends_on_the_rows_and_not_on_their_place(lines: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.txt"
    copy.write_text(lines.read_text())
    for make_one in (streamed, lambda path, **settings: make(str(path), sample_by="line", block_size=32, **settings)):
        contents = [make_one(path).order_settings["content"] for path in (lines, copy)]
        assert contents[0] == contents[1]
        copy.write_text(lines.read_text().replace("number 150,", "number 151,"))
        assert make_one(copy).order_settings["content"] != contents[0]
        copy.write_text(lines.read_text())


def test_held_out_rows_of_another_file_or_none(lines: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("".join(f"Quite another line, {number}.\n" for number in range(30)))
    without_any: list[dict[str, Any]] = [{"val_fraction": 0}, {"streaming": True, "val_rows": 0}]
    for settings in without_any:
        without = make(str(lines), sample_by="line", block_size=16, **settings)
        assert not without.has_held_out and without.val_dataloader() == []
    for settings in ({}, {"streaming": True}):
        module = make(str(lines), sample_by="line", block_size=16, packing="none", val_source=str(other), **settings)
        assert module.num_rows("val") >= 30 and module.counts["rows"] == 200
        assert module.tokenizer is not None
        assert "Quite another" in module.tokenizer.decode(module.blocks["val"][0]["input_ids"])
    with pytest.raises(FileNotFoundError, match="absent"):
        make(str(lines), val_source=str(tmp_path / "absent.txt"))


def test_rows_are_limited_before_they_are_tokenised(lines: Path) -> None:
    module = make(str(lines), sample_by="line", block_size=64, packing="none", max_train_rows=7, max_val_rows=3)
    assert (module.counts["train_rows"], module.counts["val_rows"]) == (7, 3)
    stream = streamed(lines, packing="none", block_size=64, batch_size=1, max_train_rows=40, max_val_rows=5)
    assert len(list(stream.train_dataloader())) == 40 and stream.num_rows("val") == 5


def test_a_stretch_of_a_stream_that_fills_no_block_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "rows.txt"
    path.write_text("This is a line of the usual length\n" * 60 + "a\n" * 30 + "this is a longer line again\n" * 61)
    module = streamed(path, block_size=64, batch_size=1)
    assert len(list(module.train_dataloader())) > 0
    with pytest.raises(ValueError, match=r"nowhere do data\.rows_at_once=30 rows of .* fill a block"):
        make(str(path), sample_by="line", streaming=True, val_rows=0, rows_at_once=30, block_size=2048)


def test_a_bad_row_of_a_stream_is_told_before_training(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,n\n" + "None,1\n" * 100 + ",2\n")
    with pytest.raises(ValueError, match=r"rows\.csv row 101 has null as 'text', which is no text"):
        make(str(path), streaming=True, val_rows=10, block_size=8)


def test_the_hubs_cache_is_not_used_for_files(lines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    make(str(lines), sample_by="line", block_size=16)
    # What lies there is temporary.
    assert {path.name.startswith("splitlearn-rows-") for path in (tmp_path / "cache").iterdir()} == {True}
