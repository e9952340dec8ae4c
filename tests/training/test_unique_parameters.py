"""One optimizer steps each parameter once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from splitlearn.loading import ModelFactory
from splitlearn.training import unique_parameters
from tests.tiny_models import token_ids

IDS_BT = token_ids()


@pytest.mark.parametrize("is_tied", [True, False])
def test_a_loop_of_ones_own_is_the_unsplit_models(is_tied: bool, tiny_checkpoint: Callable[..., Path]) -> None:
    folder = tiny_checkpoint("llama", tie_word_embeddings=is_tied, attention_dropout=0.0)
    whole = AutoModelForCausalLM.from_pretrained(folder).train()
    parts = ModelFactory.create_split_models(None, folder, 2, 4, low_memory=True, trained=["bottom", "trunk", "top"])
    bottom, trunk, top = (part.train() for part in parts)
    own = unique_parameters(parts)
    assert len({id(each) for each in own}) == len(own) == len(list(whole.parameters()))
    ours, theirs = torch.optim.AdamW(own, lr=1e-2), torch.optim.AdamW(whole.parameters(), lr=1e-2)
    for _ in range(2):
        whole(IDS_BT, labels=IDS_BT).loss.backward()
        smashed = bottom(IDS_BT)
        received = smashed.detach().requires_grad_()
        top(trunk(received), labels=IDS_BT).loss.backward()
        smashed.backward(received.grad)
        for optimizer in (ours, theirs):
            optimizer.step()
            optimizer.zero_grad()
    expected = dict(whole.named_parameters())
    for part in parts:
        for name, tensor in part.named_tensors().items():
            if name in expected:
                torch.testing.assert_close(tensor, expected[name].detach(), atol=1e-6, rtol=0)


def test_what_is_frozen_is_left_out(tiny_checkpoint: Callable[..., Path]) -> None:
    parts = ModelFactory.create_split_models(None, tiny_checkpoint("llama"), 2, 4, low_memory=True)
    parts[1].requires_grad_(False)
    assert not {id(each) for each in unique_parameters(parts)} & {id(each) for each in parts[1].parameters()}
