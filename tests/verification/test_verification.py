from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from splitlearn.cut import CutError, DeviceMapError
from splitlearn.loading import LoadedParts, ModelFactory, ModelRequest, OpenedModel
from splitlearn.verification import Outcome, print_outcomes, verify_streamed, verify_whole
from splitlearn.verification.outcome import largest_difference
from tests.architectures.catalogue import tiny_model


def opened(folder: str | Path) -> OpenedModel:
    return ModelRequest(folder, 2, 4).open()


@pytest.mark.parametrize("model_type", ["gpt2", "gemma3_text", "mixtral"])
def test_a_checkpoint_equals_its_parts(model_type: str, tiny_checkpoint: Callable[..., Path]) -> None:
    folder = str(tiny_checkpoint(model_type, tie_word_embeddings=True))
    outcomes = verify_whole(opened(folder), num_new_tokens=4)
    assert [each.subject for each in outcomes] == [
        *("logits, no padding", "logits, left padding", "logits, right padding"),
        *("training loss, left padding", "all gradients", "4 generated tokens"),
    ]
    assert all(each.is_equal(0.0) for each in outcomes)
    gradients = next(each for each in outcomes if each.subject == "all gradients")
    parts = ModelFactory.create_split_models(None, folder, 2, 4, low_memory=True)
    shared = {id(parameter): parameter.numel() for part in parts for parameter in part.parameters()}
    assert gradients.compared == sum(shared.values()), "every parameter is compared, a shared one once"


@pytest.mark.parametrize("model_type", ["gpt2", "gemma3_text", "mixtral"])
@pytest.mark.parametrize("cut", [(2, 4), (0, 3), (1, 6)])
def test_layers_streamed_one_by_one_equal_the_parts(
    model_type: str, cut: tuple[int, int], tiny_checkpoint: Callable[..., Path]
) -> None:
    folder = str(tiny_checkpoint(model_type, tie_word_embeddings=True))
    outcomes = verify_streamed(ModelRequest(folder, *cut).open())
    assert [each.subject for each in outcomes] == ["smashed data after bottom", "smashed data after trunk", "logits"]
    assert all(each.is_equal(0.0) for each in outcomes)


def test_a_wrong_part_is_noticed(tiny_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    load = OpenedModel.load

    def spoiled(*args: Any, **kwargs: Any) -> LoadedParts:
        loaded = load(*args, **kwargs)
        with torch.no_grad():
            next(loaded["trunk"].parameters()).add_(0.1)
        return loaded

    monkeypatch.setattr(OpenedModel, "load", spoiled)
    folder = str(tiny_checkpoint("llama"))
    outcomes = verify_whole(opened(folder), num_new_tokens=0)
    assert all(each.difference > 0 for each in outcomes)


def test_what_cannot_be_compared_is_refused(tiny_checkpoint: Callable[..., Path]) -> None:
    folder = str(tiny_checkpoint("llama"))
    with pytest.raises(ValueError, match="exceed the model's 128 positions"):
        verify_whole(opened(folder), num_tokens=121)
    with pytest.raises(ValueError, match="0 or more new ones"):
        verify_whole(opened(folder), num_new_tokens=-1)
    with pytest.raises(ValueError, match="give at least 1 row"):
        verify_streamed(opened(folder), num_rows=0)
    with pytest.raises(ValueError, match="on many rows of 32 tokens"):
        verify_streamed(opened(folder), num_rows="many")  # type: ignore[arg-type]
    with pytest.raises(DeviceMapError):
        verify_whole(opened(folder), device="cuda:7")


def test_an_outcome_with_nothing_compared_is_not_equal(capsys: pytest.CaptureFixture[str]) -> None:
    outcomes = [Outcome("logits", 10, 0.0), Outcome("gradients", 0, 0.0), Outcome("tokens", 3, 1e-3)]
    assert [each.is_equal(1e-4) for each in outcomes] == [True, False, False]
    print_outcomes("title", outcomes, 1e-4)
    assert capsys.readouterr().out.count("DIFFERENT") == 2


@pytest.mark.parametrize("architecture", ["ctrl", "modernbert-decoder", "bert"])
def test_layers_are_streamed_for_unusual_architectures(architecture: str, tmp_path: Path) -> None:
    tiny_model(architecture).save_pretrained(tmp_path)
    assert all(each.is_equal(0.0) for each in verify_streamed(opened(tmp_path)))


def test_equal_infinities_are_equal_and_doubles_are_not_rounded() -> None:
    infinite = torch.tensor([float("-inf"), 1.0])
    assert largest_difference(infinite, infinite.clone()) == 0.0
    assert largest_difference(infinite, torch.tensor([0.0, 1.0])) == float("inf")
    assert largest_difference(torch.tensor([float("nan")]), torch.tensor([float("nan")])) == float("inf")
    double = torch.tensor([1.0], dtype=torch.float64)
    assert largest_difference(double, double + 1e-12) > 0.0


def test_a_cut_without_a_layer_on_top_is_refused_where_the_head_follows_directly(tmp_path: Path) -> None:
    tiny_model("nanochat").save_pretrained(tmp_path)
    with pytest.raises(CutError, match="the top needs a layer: choose at most 5"):
        ModelFactory.create_split_models(None, tmp_path, 2, 6, low_memory=True)


def test_what_transformers_changes_after_loading_is_named(tmp_path: Path) -> None:
    tiny_model("youtu").save_pretrained(tmp_path)
    remarks, *outcomes = verify_whole(opened(tmp_path), num_new_tokens=0)
    assert remarks.is_remark
    assert remarks.subject.startswith("model.embed_tokens.weight")
    assert remarks.difference > 0.0
    assert all(outcome.is_equal(0.0) and not outcome.is_remark for outcome in outcomes)
