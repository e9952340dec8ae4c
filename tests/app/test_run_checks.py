from collections.abc import Sequence
from typing import Any

import pytest
from datasets import Dataset
from omegaconf import OmegaConf
from transformers import PreTrainedTokenizerBase

from splitlearn.app.run_checks import check_examples, check_watched
from splitlearn.boundary import BoundaryCodecs
from splitlearn.data import BlockDataModule
from splitlearn.data.reading import Layout


class NothingHeldOut(BlockDataModule):
    def __init__(self) -> None:
        pass

    def choose_layout(self, columns: Sequence[str], source: str) -> Layout:
        raise NotImplementedError

    def tokenize(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> Dataset:
        raise NotImplementedError

    @property
    def has_held_out(self) -> bool:
        return False


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"load_best_model_at_end": True}, "load_best_model_at_end=true needs"),
        ({"callbacks": {"early_stopping": {"monitor": "val_loss"}}}, "callbacks.early_stopping needs"),
    ],
)
def test_what_waits_for_held_out_rows_is_refused_without_any(settings: dict[str, Any], named: str) -> None:
    cfg = OmegaConf.create({"load_best_model_at_end": False, "callbacks": None, **settings})
    with pytest.raises(ValueError, match=f"nothing is held out, but {named} the held-out loss"):
        check_watched(cfg, NothingHeldOut())


def test_a_checkpoint_of_the_best_is_then_the_latest() -> None:
    cfg = OmegaConf.create({"load_best_model_at_end": False, "callbacks": {"checkpoint": {"monitor": "val_loss"}}})
    check_watched(cfg, NothingHeldOut())


@pytest.mark.parametrize(
    ("packing", "streaming", "cause"), [("none", False, "data.packing is none"), ("joined", True, "data.streaming is true")]
)
def test_codecs_that_remember_examples_need_ids(packing: str, streaming: bool, cause: str) -> None:
    data = NothingHeldOut()
    data.packing, data.streaming = packing, streaming
    for forward in ("reuse", ["reuse", "int8"], {"codec": ["topk", "int8"], "error_feedback": True}):
        codecs = BoundaryCodecs.from_plain({"cut_2": {"backward": forward}})
        with pytest.raises(
            ValueError, match=rf"^the codec .* \(backward at cut 2\) remembers each example .*, but {cause}, so"
        ):
            check_examples(codecs, data)
        data.packing, data.streaming = "isolated", False
        check_examples(codecs, data)
        data.packing, data.streaming = packing, streaming
    check_examples(BoundaryCodecs.from_plain("int4"), data)
