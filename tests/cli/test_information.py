from __future__ import annotations

import pytest

from splitlearn.cli import COMMANDS
from splitlearn.cli.arguments import prepare
from splitlearn.cli.information import help_text
from splitlearn.settings import conf_folder


def test_help_has_the_comments_that_explain_the_settings() -> None:
    text = " ".join(help_text("train", []).split())
    for line in (conf_folder() / "train.yaml").read_text().split("hydra:\n")[0].splitlines():
        setting, _, comment = line.partition("#")
        if setting and not setting.startswith((" ", "defaults")):
            assert setting.strip() in text and " ".join(comment.split()) in text
    assert "packing: joined joined: end to end; isolated: side by side" in text, "the chosen data's settings"
    assert "model=embedded embedded, gpt2, " in text, "the choices of a group"
    assert "window: 10 batches to average over" in text, "what a choice stands on"


def test_help_shows_the_choices_that_are_made() -> None:
    text = help_text("train", ["data=instructions", "+peft=lora"])
    assert "completion_only: true" in text and "lora_alpha: 16" in text
    assert "text_field" not in text


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_a_narrow_terminal(command: str) -> None:
    long = [line for line in help_text(command, [], columns=80).splitlines() if len(line) > 80]
    assert not long


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["rows=2", "--help"]])
def test_help_ends_well(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        prepare("plan", arguments)
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith("usage: python -m splitlearn plan [NAME=VALUE ...]")


def test_versions(capsys: pytest.CaptureFixture[str]) -> None:
    import torch
    import transformers

    with pytest.raises(SystemExit) as end:
        prepare("train", ["--version"])
    assert end.value.code == 0
    told = capsys.readouterr().out
    # The build of torch, such as +cpu, is told only where its package is called that.
    torch_version = torch.__version__.partition("+")[0]
    assert f"\ntorch {torch_version}" in told and f"\ntransformers {transformers.__version__}\n" in told
    assert told.startswith("splitlearn ")
