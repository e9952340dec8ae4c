import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from splitlearn.data.file_rows import Row, columns_of, kind_of, rows_of


def read(path: Path, content: str | bytes, **settings: Any) -> list[Row]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return [row for _, row in rows_of(path, **settings)]


def test_kinds_are_told_by_the_last_suffix_before_a_compression() -> None:
    names = {"a.jsonl": "jsonl", "a.json.csv": "csv", "a.b.JSON.gz": "jsonl", "a.tsv": "tsv", "a.md": "text", "csv": "text"}
    assert {name: kind_of(Path(name)) for name in names} == names


def test_words_and_numbers_in_csv_are_texts_and_only_a_cell_without_quotes_is_missing(tmp_path: Path) -> None:
    rows = read(tmp_path / "a.csv", '\ufeffword,day,n\r\nNone,2024-01-05,007\r\nNA,"",true\r\n\r\nnull,,"a, ""b""\nc"\r\n')
    assert rows == [
        {"word": "None", "day": "2024-01-05", "n": "007"},
        {"word": "NA", "day": "", "n": "true"},
        {"word": "null", "day": None, "n": 'a, "b"\nc'},
    ]
    assert read(tmp_path / "a.tsv", "a\tb,c\n1\t2,3\n") == [{"a": "1", "b,c": "2,3"}]
    assert columns_of(tmp_path / "a.csv") == ["word", "day", "n"]


@pytest.mark.parametrize(
    "text",
    [
        '{"a": "2024-01-05"}\n\n{"a": "x", "b": 1}\n',
        '[{"a": "2024-01-05"},\n {"a": "x", "b": 1}]',
        '{\n "data": [{"a": "2024-01-05"},\n {"a": "x", "b": 1}]}',
        '{"data": [{"a": "2024-01-05"}, {"a": "x", "b": 1}]}',
    ],
)
def test_json_by_line_as_an_array_or_under_data(tmp_path: Path, text: str) -> None:
    expected = [{"a": "2024-01-05"}, {"a": "x", "b": 1}]
    assert read(tmp_path / "a.json", text) == expected
    assert read(tmp_path / "b.json", "\ufeff" + text.replace("\n", "\r\n")) == expected
    assert read(tmp_path / "c.json.gz", gzip.compress(text.encode())) == expected
    assert read(tmp_path / "d.json.zst", pa.Codec("zstd").compress(text.encode(), asbytes=True)) == expected


def test_only_the_wanted_columns_of_parquet_are_read(tmp_path: Path) -> None:
    table = pa.table({"text": ["one", "two"], "day": pa.array([0, 1], pa.timestamp("s")), "nested": [[{"x": 1}], None]})
    parquet.write_table(table, tmp_path / "a.parquet")
    assert list(rows_of(tmp_path / "a.parquet", columns=["text", "absent"])) == [
        ("row 1", {"text": "one"}),
        ("row 2", {"text": "two"}),
    ]


def test_places_are_lines_where_files_have_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one\ntwo\n\n \nthree\n")
    assert list(rows_of(path)) == [("line 1", {"text": "one\ntwo"}), ("line 5", {"text": "three"})]
    (tmp_path / "a.jsonl").write_text('\n{"a": 1}\n\n{"a": "\u2028"}')
    assert [place for place, _ in rows_of(tmp_path / "a.jsonl")] == ["line 2", "line 4"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "a,b\n1,2\n3\n", r"a\.csv cannot be read as csv: .*Row #3: Expected 2 columns, got 1"),
        ("a.csv", "a,b\n1,2,3\n", r"Row #2: Expected 2 columns, got 3"),
        ("a.csv", "a\ncaf\u00e9\n".encode("latin-1"), r"a\.csv cannot be read as UTF-8"),
        ("a.csv", "a,b\n1,2\n".encode("utf-16"), r"a\.csv is UTF-16"),
        ("a.jsonl", '{"a": 1}'.encode("utf-16"), r"a\.jsonl is UTF-16"),
        ("a.txt", "caf\u00e9".encode("latin-1"), r"a\.txt cannot be read as UTF-8"),
        ("a.jsonl", '{"a": 1}\n{"a"', r"a\.jsonl line 2 is not JSON"),
        ("a.json", '\n[{"a": 1},\n{"a"}]', r"a\.json line 3 is not JSON"),
        ("a.json", '["x"]', r'a\.json row 1 is "x" and no object'),
        ("a.jsonl", '"x"', r'a\.jsonl line 1 is "x" and no object'),
        ("a.parquet", "nothing of the kind", r"a\.parquet cannot be read as parquet"),
        ("a.jsonl.gz", "nothing of the kind", r"a\.jsonl\.gz cannot be read"),
    ],
)
def test_files_that_cannot_be_read_are_named(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(tmp_path / name, content)


def test_a_large_file_is_read_row_by_row(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"n": number, "text": "x" * 1000}) + "\n" for number in range(1000)) + "broken")
    rows = rows_of(path)
    assert next(rows)[1]["n"] == 0
