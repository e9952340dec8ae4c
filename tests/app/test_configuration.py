"""Configurations as plain values, and back."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from omegaconf import DictConfig, ListConfig, OmegaConf

from splitlearn.app import compose
from splitlearn.app.configuration import literal, make, plain


@pytest.mark.parametrize("text", ["${price}", "a \\${b} \\\\${c", "${", "$", "\\", "???x", "plain"])
def test_texts_stand_for_themselves(text: str) -> None:
    cfg = literal({"inner": {"text": text, "texts": [text, 1]}, "number": 2.5, "none": None})
    assert OmegaConf.is_dict(cfg) and cfg.inner.text == text and cfg.inner.texts[0] == text
    assert plain(cfg) == {"inner": {"text": text, "texts": [text, 1]}, "number": 2.5, "none": None}
    assert literal(text) == text


class Keeper:
    """Keeps what it was made from."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args, self.kwargs = args, kwargs


KEEPER = f"{__name__}.Keeper"


@pytest.mark.parametrize("text", ["${oc.env:SECRET}", "a \\${b} \\\\${c}", "\\${oc.env:SECRET}", "${oc.env:ABSENT}", "\\"])
def test_an_object_gets_texts_as_they_are(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hidden")
    settings = literal({"_target_": KEEPER, "text": text, "inner": {"text": text}, "texts": [text]})
    made = make(settings, further=text)
    assert made.kwargs["text"] == made.kwargs["further"] == made.kwargs["inner"].text == made.kwargs["texts"][0] == text
    assert isinstance(made.kwargs["inner"], DictConfig) and isinstance(made.kwargs["texts"], ListConfig)
    made = make(settings, _convert_="all")
    assert made.kwargs == {"text": text, "inner": {"text": text}, "texts": [text]}
    assert type(made.kwargs["inner"]) is dict


def test_interpolation_in_a_users_settings_is_resolved_once() -> None:
    made = make(OmegaConf.create({"_target_": KEEPER, "a": 3, "b": "${.a}", "c": "\\${.a}"}))
    assert made.kwargs == {"a": 3, "b": 3, "c": "${.a}"}


def test_an_escaped_interpolation_of_the_command_line_arrives_as_text() -> None:
    cfg = compose("data=instructions", "data.source=rows.jsonl", "data.prompt_template=\\${price} of {item}")
    assert make(cfg.data, tokenizer_name_or_path="absent").format_settings.prompt_template == "${price} of {item}"


def test_objects_within_are_made_as_hydra_makes_them() -> None:
    inner = {"_target_": KEEPER, "x": {"y": 1}}
    made = make({"_target_": KEEPER, "one": inner, "several": [inner, 2], "by_name": {"a": inner}, "_args_": [inner, "b"]})
    assert [type(made.kwargs[name]).__name__ for name in ("one", "several", "by_name")] == ["Keeper", "list", "dict"]
    assert made.kwargs["several"][0].kwargs["x"].y == made.args[0].kwargs["x"]["y"] == 1 and made.args[1] == "b"
    assert make({"_target_": KEEPER, "one": inner, "_recursive_": False}).kwargs["one"] == inner
    assert make({"_target_": KEEPER, "a": 1, "_partial_": True})(b=2).kwargs == {"a": 1, "b": 2}
    assert make({"_target_": "collections.Counter", "a": 2}) == Counter("aa")


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"_target_": "absent.package.Thing"}, ImportError, "absent"),
        ({"_target_": "collections.Absent"}, (ValueError, ImportError), "Absent"),
        ({"_target_": "builtins.int", "_args_": ["x"]}, ValueError, "invalid literal"),
        ({"_target_": "collections.OrderedDict", "_args_": [1]}, ValueError, "OrderedDict cannot be made from its settings"),
    ],
)
def test_what_cannot_be_made_is_one_sentence(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make(settings)
