"""Codecs are found by their names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from splitlearn.boundary import Codec, CodecContext, Columns, Exact, codec_class, codec_names
from splitlearn.boundary.codecs import registry
from splitlearn.boundary.codecs.codec import CLASSES


class Halving(Codec):
    """A codec of a package that is installed beside this one."""

    def encode(self, tensor: torch.Tensor, context: CodecContext) -> Columns:
        return {"values": tensor / 2}

    def decode(self, columns: Columns, dtype: torch.dtype, context: CodecContext) -> torch.Tensor:
        return columns["values"] * 2


@pytest.fixture(autouse=True)
def classes() -> Iterator[None]:
    """Forget the classes of a test afterwards."""
    codec_names()
    before = dict(CLASSES)
    yield
    CLASSES.clear()
    CLASSES.update(before)


def test_an_unknown_name_is_answered_with_those_that_there_are() -> None:
    with pytest.raises(ValueError, match=r"^there is no codec 'mp3'; there are .*bf16, .*exact, .*int8"):
        codec_class("mp3")


def test_a_class_with_a_name_is_found_by_it() -> None:
    named: Any = type("Named", (Halving,), {"name": "named"})
    assert codec_class("named") is named
    assert "named" in codec_names()


def test_a_name_belongs_to_one_class() -> None:
    with pytest.raises(ValueError, match=r"is named 'exact', as splitlearn.boundary.codecs.exact.Exact is"):
        type("Other", (Halving,), {"name": "exact"})
    assert codec_class("exact") is Exact


def test_installed_packages_bring_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    class EntryPoint:
        def load(self) -> Any:
            return type("Installed", (Halving,), {"name": "installed"})

    monkeypatch.setattr(registry, "entry_points", lambda group: [EntryPoint()] if group == "splitlearn.codecs" else [])
    assert issubclass(codec_class("installed"), Halving)
