from __future__ import annotations

import random

import pytest
from omegaconf import OmegaConf

from splitlearn.settings import compose
from splitlearn.settings.typed import parse_override, quoted, with_literal_text


@pytest.mark.parametrize(
    "text",
    [
        "It's a test, isn't it?",
        "f(x) = {a: [1, 2]} # no comment",
        'She said "no", and left.',
        "two\nlines\tand a tab",
        "costs ${5} or \\${5}",
        "C:\\temp\\'new'\\",
        "5",
        "true",
        "-1e3",
        "  spaces around  ",
        "Ünïcödé, 漢字: 100% ~ @home",
        "range(1,3)",
        "a,b",
    ],
)
def test_a_prompt_is_what_was_typed(text: str) -> None:
    assert compose("run=a", f"prompt={text}", config_name="generate").prompt == text


def test_any_characters_survive() -> None:
    draw = random.Random(0)
    for _ in range(300):
        text = "".join(draw.choice("ab \\'\"${}[](),:=\n") for _ in range(draw.randint(1, 9)))
        read = parse_override(f"prompt={quoted(text)}")
        assert OmegaConf.create({"prompt": read.value()}).prompt == text, repr(text)


@pytest.mark.parametrize(
    ("command", "override", "value"),
    [
        ("generate", "prompt='quoted, as Hydra has it'", "quoted, as Hydra has it"),
        ("generate", 'prompt="What is x = 5?"', "What is x = 5?"),
        ("generate", "run=/a b/it's (1), [2]", "/a b/it's (1), [2]"),
        ("generate", "run=2024", "2024"),
        ("train", "data.source=/a b/set[1].jsonl", "/a b/set[1].jsonl"),
        ("train", "data.source=a,b.jsonl", "a,b.jsonl"),
        ("train", "data.source=[a.jsonl,b.jsonl]", ["a.jsonl", "b.jsonl"]),
        ("train", "model.name_or_path=my model (new)", "my model (new)"),
        ("train", "model.revision=1e10", "1e10"),
        ("train", "ckpt_path=runs/epoch=3-val=0.5.ckpt", "runs/epoch=3-val=0.5.ckpt"),
        ("train", "model.name_or_path=${oc.env:NOT_THERE,fallback}", "fallback"),
        ("train", "ckpt_path=null", None),
        ("train", "optimizer.betas=[0.8,0.9]", [0.8, 0.9]),
    ],
)
def test_text_stands_for_itself_and_the_rest_stays_hydras(command: str, override: str, value: object) -> None:
    assert OmegaConf.select(compose(override, config_name=command), override.partition("=")[0]) == value


def test_commas_are_sweeps_where_a_sweep_is_asked_for() -> None:
    assert with_literal_text("model.revision=a,b", "train", sweeps=True) == "model.revision=a,b"
    assert with_literal_text("model.revision=a,b", "train") == "model.revision='a,b'"
    assert with_literal_text("split.point_1=1,2", "train") == "split.point_1=1,2"
