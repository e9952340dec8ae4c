"""Configurations as plain values, and back."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from splitlearn.app.configuration import literal, plain


@pytest.mark.parametrize("text", ["${price}", "a \\${b} \\\\${c", "${", "$", "\\", "???x", "plain"])
def test_texts_stand_for_themselves(text: str) -> None:
    cfg = literal({"inner": {"text": text, "texts": [text, 1]}, "number": 2.5, "none": None})
    assert OmegaConf.is_dict(cfg) and cfg.inner.text == text and cfg.inner.texts[0] == text
    assert plain(cfg) == {"inner": {"text": text, "texts": [text, 1]}, "number": 2.5, "none": None}
    assert literal(text) == text
