import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from splitlearn.loading import ModelFactory
from splitlearn.training import unique_parameters
from tests.tiny_models import token_ids

IDS_BT = token_ids()


def tied_parts(tiny_checkpoint: Callable[..., Path]) -> tuple[torch.nn.Module, ...]:
    folder = tiny_checkpoint("llama", tie_word_embeddings=True)
    return ModelFactory.create_split_models(None, folder, 2, 4, low_memory=True, trained=["bottom", "trunk", "top"])


def backward(parts: tuple[torch.nn.Module, ...]) -> None:
    bottom, trunk, top = parts
    top(trunk(bottom(IDS_BT)), labels=IDS_BT).loss.backward()


def test_two_optimizers_on_a_tied_head_are_warned_of(tiny_checkpoint: Callable[..., Path]) -> None:
    parts = tied_parts(tiny_checkpoint)
    optimizers = [torch.optim.SGD(part.parameters(), lr=1e-3) for part in parts]
    backward(parts)
    with pytest.warns(UserWarning, match="so it moved twice; use one optimizer"):
        for optimizer in optimizers:
            optimizer.step()


def test_one_optimizer_or_one_after_another_is_not(tiny_checkpoint: Callable[..., Path]) -> None:
    parts = tied_parts(tiny_checkpoint)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for optimizer in [torch.optim.SGD(unique_parameters(parts), lr=1e-3) for _ in range(2)]:
            for _ in range(2):
                backward(parts)
                optimizer.step()
                # Gradients may be kept and added to, too.
                optimizer.zero_grad(set_to_none=False)
