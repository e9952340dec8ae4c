import pytest

from splitlearn.app import compose
from splitlearn.app.run_settings import settle_settings


def test_a_precision_of_bfloat16_says_the_dtype_of_the_weights_too() -> None:
    cfg = compose("trainer.precision=bf16-true")
    settle_settings(cfg)
    assert cfg.model.dtype == "bfloat16"
    with pytest.raises(ValueError, match=r"precision is bf16-true, but model\.dtype is float32; leave one of them out"):
        settle_settings(compose("trainer.precision=bf16-true", "model.dtype=float32"))


def test_a_stream_with_a_number_of_steps_is_passed_as_often_as_it_takes() -> None:
    cfg = compose("+data.streaming=true", "trainer.max_steps=5")
    settle_settings(cfg)
    assert cfg.trainer.max_epochs == -1
    cfg = compose("trainer.max_steps=5")
    before = cfg.trainer.max_epochs
    settle_settings(cfg)
    assert cfg.trainer.max_epochs == before


def test_the_rate_of_adapters_is_the_optimizers() -> None:
    cfg = compose("peft=lora", "peft.learning_rate=0.01")
    settle_settings(cfg)
    assert cfg.optimizer.learning_rate == 0.01


def test_divided_data_say_whose_rows_are_trained_with() -> None:
    with pytest.raises(
        ValueError, match=r"data\.partition is iid, but data\.share does not say whose rows this run trains with"
    ):
        settle_settings(compose("data.partition=iid", "data.num_shares=2"))
    settle_settings(compose("data.partition=iid", "data.num_shares=2", "data.share=2"))
