from collections.abc import Callable
from pathlib import Path

import pytest

from splitlearn.training import SplitCausalLM
from splitlearn.training.callbacks import TokenThroughput
from tests.training.test_module import batches, loader, trainer


def test_tokens_are_counted_and_the_rate_logged(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    callback = TokenThroughput(window=3)
    assert callback.tokens_per_s is None
    made = trainer(tmp_path, callbacks=[callback])
    made.fit(SplitCausalLM(str(tiny_checkpoint("llama")), 2, 4), loader(batches([3, 2, 4, 1])))
    assert callback.num_tokens == 10 * 11
    assert callback.tokens_per_s == pytest.approx(callback.num_tokens / callback._busy_s)
    assert made.logged_metrics["tokens_per_s"] > 0
