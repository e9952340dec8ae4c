"""Parts are prepared for training in the same way whether all of them are here or some."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from splitlearn.cut import PART_NAMES
from splitlearn.loading import ModelRequest
from splitlearn.model import SplitModel
from splitlearn.training import PreparedParts, TrainingSettings, prepare_parts

LORA = {"method": "lora", "settings": {"r": 4, "target_modules": ["q_proj"]}}


def load(folder: Path, names: tuple[str, ...] = PART_NAMES) -> list[SplitModel]:
    return list(ModelRequest(folder, 2, 4).open(names).load(trained=names).parts.values())


def prepare(folder: Path, names: tuple[str, ...] = PART_NAMES, **settings: Any) -> PreparedParts:
    return prepare_parts(load(folder, names), TrainingSettings.from_plain(**settings))


def trained_names(part: SplitModel) -> set[str]:
    return {name for name, parameter in part.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"peft": LORA},
        {"peft": {**LORA, "parts": {"trunk": False}}},
        {"optimizer": {"parts": {"trunk": {"train": "norms"}}}},
        {"optimizer": {"parts": {"trunk": {"train": False}}}},
    ],
    ids=["weights", "adapters", "adapters elsewhere", "norms", "frozen"],
)
def test_a_trunk_alone_is_prepared_as_beside_the_others(settings: dict[str, Any], tiny_checkpoint: Callable[..., Path]) -> None:
    folder = tiny_checkpoint("llama")
    whole, alone = prepare(folder, **settings), prepare(folder, ("trunk",), **settings)
    assert [part.spec.name for part in alone.parts] == ["trunk"]
    assert alone.trained == {"trunk": whole.trained["trunk"]}
    assert alone.base_weights.get("trunk") == whole.base_weights.get("trunk")
    assert trained_names(alone.parts[0]) == trained_names(whole.parts[1])
    assert bool(trained_names(alone.parts[0])) is alone.trained["trunk"].trains_anything


def test_a_part_without_the_named_modules_is_frozen(tiny_checkpoint: Callable[..., Path]) -> None:
    layer = "model.layers.0.self_attn.q_proj"
    settings: dict[str, Any] = {"peft": {"method": "lora", "settings": {"r": 4, "target_modules": [layer]}}}
    folder = tiny_checkpoint("llama")
    assert prepare(folder, **settings).trained == {"bottom": "adapters", "trunk": "frozen", "top": "frozen"}
    alone = prepare(folder, ("trunk",), **settings)
    assert alone.trained == {"trunk": "frozen"} and not trained_names(alone.parts[0])
    settings["peft"]["settings"]["target_modules"] = ["absent"]
    with pytest.raises(ValueError, match="which no part has"):
        prepare(folder, **settings)


def runs_of_first_layer(part: SplitModel, inputs: torch.Tensor) -> int:
    calls: list[int] = []
    layer: Any = part.layers[0]
    layer.mlp.register_forward_pre_hook(lambda *args: calls.append(1))
    part.train()(inputs).square().mean().backward()
    return len(calls)


@pytest.mark.parametrize(("bottom_is_trained", "runs"), [(True, 2), (False, 1)])
def test_a_frozen_part_is_checkpointed_where_gradients_pass_it(
    bottom_is_trained: bool, runs: int, tiny_checkpoint: Callable[..., Path]
) -> None:
    """Whether they do depends on a part that is not here."""
    parts = {"bottom": {"train": bottom_is_trained}, "trunk": {"train": False}}
    trunk = prepare(tiny_checkpoint("llama"), ("trunk",), optimizer={"parts": parts}, gradient_checkpointing=True).parts[0]
    assert runs_of_first_layer(trunk, torch.randn(1, 5, 64, requires_grad=True)) == runs


def test_ends_of_a_tie_that_are_two_tensors_are_told(tiny_checkpoint: Callable[..., Path]) -> None:
    folder = tiny_checkpoint("qwen2", tie_word_embeddings=True)
    assert not prepare(folder).ties, "on one device they are one tensor"
    apart = [*load(folder, ("bottom",)), *load(folder, ("top",))]
    assert len(prepare_parts(apart, TrainingSettings()).ties) == 1
    frozen = {"parts": {"bottom": {"train": False}, "top": {"train": False}}}
    apart = [*load(folder, ("bottom",)), *load(folder, ("top",))]
    assert not prepare_parts(apart, TrainingSettings.from_plain(optimizer=frozen)).ties
