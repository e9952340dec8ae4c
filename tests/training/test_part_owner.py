"""The holder of a part takes the steps that it is told to take, as one optimizer over all parts would."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from splitlearn.loading import ModelFactory
from splitlearn.model import ComposedCausalLM, trained_parameters
from splitlearn.training import Optimization
from splitlearn.training.part_owner import LocalOwner, StepOrder


def parts_of(checkpoint: Path) -> ComposedCausalLM:
    parts = ModelFactory.create_split_models(None, checkpoint, 2, 4, low_memory=True, trained=["bottom", "trunk", "top"])
    return ComposedCausalLM(*parts).train()


def backward(model: ComposedCausalLM, step: int) -> None:
    ids_BT = torch.randint(3, 50, (2, 6), generator=torch.Generator().manual_seed(step))
    # For dropout.
    torch.manual_seed(step)
    model(ids_BT, labels=ids_BT).loss.backward()


def test_owners_of_all_parts_take_the_steps_of_one_optimizer(tiny_checkpoint: Callable[..., Path]) -> None:
    checkpoint = tiny_checkpoint("llama", tie_word_embeddings=False)
    optimization = Optimization(learning_rate=1e-2)
    one, several = parts_of(checkpoint), parts_of(checkpoint)
    optimizer = optimization.make_optimizer(one.parts)
    owners = [LocalOwner([part], optimization) for part in several.parts]
    for number in range(5):
        rate, scale = 1e-2 / (number + 1), 0.7
        for model in (one, several):
            backward(model, number)
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        torch._foreach_mul_(gradients, scale)
        total = torch.nn.utils.clip_grad_norm_(parameters, 0.5)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()
        norms = [norm for owner in owners for group in owner.gradient_norms(scale).values() for norm in group.values()]
        assert torch.equal(torch.linalg.vector_norm(torch.stack(norms)), total)
        coefficient = torch.clamp(0.5 / (total + 1e-6), max=1.0)
        for owner in owners:
            rates = {str(group["name"]): rate for group in owner.group_settings()}
            owner.apply(StepOrder(number, rates, scale, coefficient))
            owner.zero_gradients()
    expected, found = trained_parameters(one.parts), trained_parameters(several.parts)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_an_owner_goes_on_from_its_state(tiny_checkpoint: Callable[..., Path]) -> None:
    checkpoint, optimization = tiny_checkpoint("llama"), Optimization()
    models = [parts_of(checkpoint), parts_of(checkpoint)]
    first, second = (LocalOwner([model.trunk], optimization) for model in models)
    rates = {str(group["name"]): 1e-2 for group in first.group_settings()}
    backward(models[0], 0)
    first.apply(StepOrder(0, rates))
    first.zero_gradients()
    # Nothing is copied for writing.
    state = copy.deepcopy(first.state())
    assert set(state["state_dict"]) <= set(models[0].trunk.blueprint.tensor_names)
    assert set(state["optimizer"]["state"]) == set(state["state_dict"])
    second.load_state(state)
    for name in ("bottom", "top"):
        getattr(models[1], name).load_state_dict(getattr(models[0], name).state_dict())
    for model, owner in zip(models, (first, second), strict=True):
        backward(model, 1)
        owner.apply(StepOrder(1, rates))
    pairs = zip(models[0].trunk.parameters(), models[1].trunk.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_orders_out_of_turn_or_without_a_rate_are_refused(tiny_checkpoint: Callable[..., Path]) -> None:
    owner = LocalOwner([parts_of(tiny_checkpoint("llama")).trunk], Optimization())
    with pytest.raises(ValueError, match="step 3 was ordered, but 0 steps have been taken here"):
        owner.apply(StepOrder(3, {}))
    with pytest.raises(ValueError, match="no learning rate for the group 'trunk'"):
        owner.apply(StepOrder(0, {}))
