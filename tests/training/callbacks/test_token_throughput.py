from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from splitlearn.training import SplitCausalLM
from splitlearn.training.callbacks import TokenThroughput
from splitlearn.training.callbacks.token_throughput import count_tokens
from tests.training.test_module import batches, loader, trainer


def test_padding_is_counted_beside_the_tokens() -> None:
    ids_BT = torch.zeros(2, 6, dtype=torch.long)
    assert count_tokens({"input_ids": ids_BT}) == 12
    mask_BT = torch.tensor([[1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 0]])
    assert count_tokens({"input_ids": ids_BT, "attention_mask": mask_BT}) == 7
    assert count_tokens({"input_ids": ids_BT, "num_tokens": torch.tensor([6, 3])}) == 9


def test_tokens_are_counted_and_the_rate_logged(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    callback = TokenThroughput(window=3)
    assert callback.tokens_per_s is None
    made = trainer(tmp_path, callbacks=[callback])
    made.fit(SplitCausalLM(str(tiny_checkpoint("llama")), 2, 4), loader(batches([3, 2, 4, 1])))
    # One position of each row of 11 is padding.
    assert (callback.num_tokens, callback.num_padding_tokens) == (10 * 10, 10)
    assert callback.tokens_per_s == pytest.approx(callback.num_tokens / callback._busy_s)
    assert made.logged_metrics["tokens_per_s"] > 0
