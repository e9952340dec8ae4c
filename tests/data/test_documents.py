import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from splitlearn.data import read_documents


def write_jsonl(path: Path, rows: list[object]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read(*args: Any, cache: Path, **settings: Any) -> list[str]:
    # Arguments are given by place and by name, as each test likes.
    read_any: Callable[..., Any] = read_documents
    return list(read_any(*args, cache_dir=str(cache), **settings)["text"])


def test_text_files_by_paragraph_line_and_document(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("one\ntwo\n\nthree\n\n\n  \nfour")
    assert read(str(path), sample_by="line", cache=tmp_path) == ["one", "two", "three", "four"]
    assert [text.strip() for text in read(str(path), cache=tmp_path)] == ["one\ntwo", "three", "four"]
    assert len(read(str(path), sample_by="document", cache=tmp_path)) == 1


def test_jsonl_rows_in_order_from_several_files(tmp_path: Path) -> None:
    first = write_jsonl(tmp_path / "a.jsonl", [{"text": "one", "id": 1}, {"text": " ", "id": 2}])
    second = write_jsonl(tmp_path / "b.jsonl", [{"text": "two", "id": 3}])
    assert read([first, second], cache=tmp_path) == ["one", "two"]
    body = write_jsonl(tmp_path / "c.jsonl", [{"body": "three"}])
    assert read(body, text_field="body", cache=tmp_path) == ["three"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"text": "ok"}', "{broken"], "line 2 is not JSON"),
        (['{"text": "ok"}', '{"text": 3}'], "line 2 has 3 as 'text', which is no text"),
        (['{"text": "ok"}', '{"text": null}'], "line 2 has null as 'text', which is no text"),
        (['{"text": "ok"}', '{"other": "x"}'], "line 2 has no text field 'text'"),
        (['{"body": "x"}'], "line 1 has no text field 'text'; data.text_field names the field to use"),
        (["[1]"], "row 1 is 1 and no object with fields"),
        ([""], "no text in there"),
        (['{"text": "  "}'], "no text in there"),
    ],
)
def test_bad_jsonl_is_told_with_its_line(tmp_path: Path, lines: list[str], message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=message) as error:
        read(str(path), cache=tmp_path)
    assert str(path) in str(error.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"the data file .*absent\.txt does not exist"):
        read(str(tmp_path / "absent.txt"), cache=tmp_path)
    (tmp_path / "empty.txt").touch()
    with pytest.raises(ValueError, match="no text in there"):
        read(str(tmp_path / "empty.txt"), cache=tmp_path)
    (tmp_path / "a.txt").write_text("text")
    for name in ("latin.txt", "latin.jsonl"):
        (tmp_path / name).write_bytes('{"text": "caf\u00e9"}'.encode("latin-1"))
        with pytest.raises(ValueError, match=rf"{name} cannot be read as UTF-8"):
            read(str(tmp_path / name), cache=tmp_path)
    with pytest.raises(ValueError, match=r"data\.sample_by is 'word'"):
        read(str(tmp_path / "a.txt"), sample_by="word", cache=tmp_path)
    rows = write_jsonl(tmp_path / "a.jsonl", [{"text": "one"}])
    with pytest.raises(ValueError, match="mixes jsonl and text"):
        read([rows, str(tmp_path / "a.txt")], cache=tmp_path)
