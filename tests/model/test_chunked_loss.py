"""The loss without all logits at once is the loss with them, for models whose head is one linear map."""

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from splitlearn.loading import ModelFactory
from splitlearn.model.chunked_loss import chunked_loss, has_linear_head
from tests.architectures.catalogue import VOCAB_SIZE, tiny_model

# Tied and untied heads, a head with a bias; and heads that scale or cap their logits.
LINEAR = ["llama", "qwen2", "gpt2", "phi", "mixtral"]
OTHER = ["gemma2", "cohere", "granite"]


def loaded(architecture: str, folder: Path, dtype: torch.dtype = torch.float32) -> tuple[Any, ...]:
    tiny_model(architecture).save_pretrained(folder)
    bottom, trunk, top = ModelFactory.create_split_models(None, folder, 2, 4, low_memory=True, dtype=dtype)
    ids_BT = torch.randint(3, VOCAB_SIZE, (3, 11))
    with torch.no_grad():
        smashed_BTD = trunk(bottom(ids_BT))
    labels_BT = ids_BT.clone()
    labels_BT[0, :4] = -100
    return top, smashed_BTD, labels_BT


@pytest.mark.parametrize("architecture", OTHER)
def test_heads_that_do_more_are_told(architecture: str, tmp_path: Path) -> None:
    top, smashed_BTD, _ = loaded(architecture, tmp_path)
    assert not has_linear_head(top, smashed_BTD)


@pytest.mark.parametrize("chunk_tokens", [1, 4, 7, 64])
@pytest.mark.parametrize("architecture", LINEAR)
def test_loss_and_gradients_are_those_with_all_logits(architecture: str, chunk_tokens: int, tmp_path: Path) -> None:
    top, smashed_BTD, labels_BT = loaded(architecture, tmp_path)
    assert has_linear_head(top, smashed_BTD)
    found = {}
    for is_chunked in (False, True):
        top.zero_grad()
        entering_BTD = smashed_BTD.clone().requires_grad_()
        if is_chunked:
            hidden_BTD = top(entering_BTD, skips_head=True)[0]
            loss = chunked_loss(top.model.get_output_embeddings(), hidden_BTD, labels_BT, 25, chunk_tokens)
        else:
            loss = top.loss(top(entering_BTD).logits, labels_BT, 25)
        loss.backward()
        gradients = {name: parameter.grad.clone() for name, parameter in top.named_parameters()}
        found[is_chunked] = {"loss": loss.detach(), "smashed": entering_BTD.grad, **gradients}
    for name, expected in found[False].items():
        assert torch.allclose(found[True][name], expected, rtol=1e-4, atol=1e-6), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_it_is_as_near_in_bfloat16_and_without_torchs_own(
    dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # By module: the package exports a function of that name.
    monkeypatch.setattr(import_module("splitlearn.model.chunked_loss"), "_linear_cross_entropy", None)
    top, smashed_BTD, labels_BT = loaded("llama", tmp_path, dtype)
    assert has_linear_head(top, smashed_BTD)
    head, found = top.model.get_output_embeddings(), []
    for chunk_tokens in (None, 4):
        top.zero_grad()
        if chunk_tokens is None:
            loss = top.loss(top(smashed_BTD).logits, labels_BT, 25)
        else:
            loss = chunked_loss(head, top(smashed_BTD, skips_head=True)[0], labels_BT, 25, chunk_tokens)
        loss.backward()
        found.append((float(loss.detach()), head.weight.grad.float().clone()))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-6)
    # Sums over chunks of gradients that have few digits.
    tolerance = 4 * torch.finfo(dtype).eps * float(found[0][1].abs().max())
    assert (found[1][1] - found[0][1]).abs().max() <= tolerance


@pytest.mark.parametrize("architecture", ["llama", "phi"])
@pytest.mark.parametrize("is_frozen", [True, False], ids=["frozen", "trained"])
def test_under_autocast_it_computes_what_autocast_does(is_frozen: bool, architecture: str, tmp_path: Path) -> None:
    top, smashed_BTD, labels_BT = loaded(architecture, tmp_path)
    head, found = top.model.get_output_embeddings(), []
    head.requires_grad_(not is_frozen)
    for chunk_tokens in (None, 30, 4):
        top.zero_grad()
        entering_BTD = smashed_BTD.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            assert has_linear_head(top, smashed_BTD)
            if chunk_tokens is None:
                loss = top.loss(top(entering_BTD).logits, labels_BT, 25)
            else:
                loss = chunked_loss(head, top(entering_BTD, skips_head=True)[0], labels_BT, 25, chunk_tokens)
        loss.backward()
        found.append((float(loss.detach()), entering_BTD.grad, *(own.grad for own in head.parameters() if not is_frozen)))
    expected, *gradients = found[0]
    for loss, *own in found[1:]:
        assert loss == pytest.approx(expected, rel=1e-6)
        for gradient, other in zip(gradients, own, strict=True):
            # Each chunk's is rounded alone, as the whole is.
            assert gradient.dtype == other.dtype
            assert (gradient - other).abs().max() <= 2 * torch.finfo(torch.bfloat16).eps * gradient.abs().max()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_its_gradients_are_those_of_autograd(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64 nothing is rounded; the loss is scaled after, as it is with accumulated batches. Many pieces add up."""
    monkeypatch.setattr(import_module("splitlearn.model.chunked_loss"), "_linear_cross_entropy", None)
    torch.manual_seed(0)
    head = torch.nn.Linear(8, 11).to(dtype)
    hidden_BTD = torch.randn(3, 200, 8, dtype=dtype, requires_grad=True)
    labels_BT = torch.randint(0, 11, (3, 200)).masked_fill(torch.rand(3, 200) < 0.3, -100)
    (3 * chunked_loss(head, hidden_BTD, labels_BT, torch.tensor(5), 4)).backward()
    found = [hidden_BTD.grad, head.weight.grad, head.bias.grad]
    inputs = [hidden_BTD, head.weight, head.bias]
    exact = [own.detach().double().requires_grad_() for own in inputs]
    logits_NV = torch.nn.functional.linear(exact[0][:, :-1].flatten(0, 1), *exact[1:])
    loss = torch.nn.functional.cross_entropy(logits_NV, labels_BT[:, 1:].flatten(), reduction="sum") * 3 / 5
    for own, expected in zip(found, torch.autograd.grad(loss, exact), strict=True):
        assert own is not None and own.dtype == dtype
        assert (own.double() - expected).abs().max() <= 2 * torch.finfo(dtype).eps * expected.abs().max()


def test_without_gradients_none_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module("splitlearn.model.chunked_loss"), "_gradient_of_logits", None)
    head, hidden_BTD = torch.nn.Linear(8, 11).bfloat16(), torch.randn(3, 7, 8).bfloat16()
    with torch.no_grad():
        assert chunked_loss(head, hidden_BTD, torch.ones(3, 7, dtype=torch.int64), 5, 4) > 0


def test_under_autocast_a_head_that_does_more_is_told(tmp_path: Path) -> None:
    top, smashed_BTD, _ = loaded("gemma2", tmp_path)
    top.requires_grad_(False)
    with torch.autocast("cpu", torch.bfloat16):
        assert not has_linear_head(top, smashed_BTD)
