"""How large logits may become where nothing else is said."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from splitlearn.training import LogitsLimit, TopLoss

# 32,768 positions of 1,024 tokens each are 128 MiB of logits in float32.
VOCABULARY, POSITIONS = 1024, 32768


def top_on(device: str) -> Any:
    config = SimpleNamespace(vocab_size=VOCABULARY)
    config.get_text_config = lambda decoder: config
    return SimpleNamespace(device=torch.device(device), config=config)


@pytest.mark.parametrize(
    ("device", "limit", "positions"),
    [
        ("cpu", "auto", 8192),
        ("cuda:0", "auto", None),
        ("cuda:0", 32.0, 8192),
        ("cpu", 512.0, None),
        ("cpu", None, None),
    ],
)
def test_pieces_are_larger_where_many_small_ones_are_slow(device: str, limit: LogitsLimit, positions: int | None) -> None:
    assert TopLoss(top_on(device), limit, lambda: True).chunk_tokens(POSITIONS) == positions


def test_a_gpu_has_a_limit_too() -> None:
    assert TopLoss(top_on("cuda:0"), "auto", lambda: True).chunk_tokens(8 * POSITIONS) == 4 * POSITIONS
