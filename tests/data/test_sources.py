from pathlib import Path

import pytest

from splitlearn.data import Source


def names(source: str | list[str]) -> list[str]:
    return [path.name for path in Source(source).paths]


@pytest.mark.parametrize(
    "name",
    [
        "set[1].jsonl",
        "a*.jsonl",
        "a?.jsonl",
        "{a,b}.jsonl",
        "~a.jsonl",
        "a b, c.jsonl",
        "a::b.jsonl",
        "ü.jsonl",
        "x.json.jsonl",
    ],
)
def test_a_name_is_a_name_and_no_pattern(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for each in (name, "set1.jsonl", "ab.jsonl", "a.jsonl", "b.jsonl"):
        (tmp_path / each).write_text("{}")
    assert names(str(tmp_path / name)) == [name]
    monkeypatch.chdir(tmp_path)
    assert names(name) == [name]
    assert names([name, "b.jsonl"]) == [name, "b.jsonl"]


def test_brackets_never_match_another_file(tmp_path: Path) -> None:
    (tmp_path / "set1.jsonl").write_text("{}")
    for name in ("set[1].jsonl", "set?.jsonl", "{set1}.jsonl", "~nobody/set1.jsonl", "hf://set1.jsonl"):
        with pytest.raises(FileNotFoundError, match="does not exist"):
            names(str(tmp_path / name))


def test_a_folder_or_a_star_stands_for_its_files_in_order_without_hidden_ones(tmp_path: Path) -> None:
    folder = tmp_path / "rows [v2]"
    for name in ("b.jsonl", "a.jsonl", ".c.jsonl", "d/e.jsonl", ".git/f.jsonl", "README.md", ".cache/x/g.jsonl"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    assert names(str(folder)) == ["a.jsonl", "b.jsonl", "e.jsonl"]
    assert names(f"{folder}/*.jsonl") == ["a.jsonl", "b.jsonl"]
    assert names(f"{folder}/**/*.jsonl") == ["a.jsonl", "b.jsonl", "e.jsonl"]
    assert names(f"{folder}/*.md") == ["README.md"]


def test_a_star_in_a_relative_name_within_a_hidden_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".data").mkdir()
    (tmp_path / ".data" / "a.csv").write_text("text\nx\n")
    monkeypatch.chdir(tmp_path)
    assert names(".data/*.csv") == ["a.csv"]


def test_folders_and_stars_without_files(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("x")
    with pytest.raises(FileNotFoundError, match=r"holds no \.jsonl"):
        names(str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"no file matches .*\*\.csv"):
        names(f"{tmp_path}/*.csv")
    with pytest.raises(ValueError, match="names no file"):
        names([])
    (tmp_path / "a.csv").write_text("x")
    (tmp_path / "a.tsv").write_text("x")
    with pytest.raises(ValueError, match="mixes csv and tsv files"):
        names(str(tmp_path))
