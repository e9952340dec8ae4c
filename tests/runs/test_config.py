"""A run's configuration is read as plain values, just as they were when it was written."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from splitlearn.runs import CONFIG_FILE, read_run_config


def test_what_is_written_is_read(tmp_path: Path) -> None:
    values = {
        "text": "It costs ${price}, or ${oc.env:HOME}, or ${",
        "missing": "???",
        "like numbers": ["1e-3", "1_000", "1:30", "0x1f", "1.0", "null", "yes", "2024-01-01", "", "~"],
        "numbers": [1e-5, 1e20, -0.0, float("inf"), 3, None, True],
        "lines": "a\n  b ü\n",
    }
    escaped = {**values, "text": values["text"].replace("${", "\\${")}  # type: ignore[attr-defined]
    # As a run writes it.
    (tmp_path / CONFIG_FILE).write_text(OmegaConf.to_yaml(OmegaConf.create(escaped), resolve=True), encoding="utf-8")
    assert read_run_config(tmp_path) == values


def test_a_folder_without_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no config.yaml; name the folder of a run"):
        read_run_config(tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it holds no settings"),
        (b"- 1", "it holds no settings"),
        (b"a: [1", "expected ',' or ']'"),
        (b"[" * 1_000_000, "more than 100 deep"),
        (b"a: !!python/object/apply:os.system ['touch pwned']", "could not determine a constructor"),
        (b"\xff\xfe\x00", "decode"),
    ],
)
def test_a_damaged_one_is_told_in_one_sentence(
    content: bytes, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / CONFIG_FILE).write_bytes(content)
    with pytest.raises(ValueError, match=reason) as told:
        read_run_config(tmp_path)
    assert str(tmp_path / CONFIG_FILE) in str(told.value) and "\n" not in str(told.value)
    assert not (tmp_path / "pwned").exists()
