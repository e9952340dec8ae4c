from collections.abc import Callable
from pathlib import Path

import pytest

from splitlearn.loading import ModelFactory
from splitlearn.training import Optimization


def test_groups_follow_the_parts(tiny_checkpoint: Callable[..., Path]) -> None:
    parts = ModelFactory.create_split_models(None, tiny_checkpoint("qwen2", tie_word_embeddings=True), 2, 4, low_memory=True)
    parts[1].requires_grad_(False)
    settings = {
        "learning_rate": 1e-3,
        "weight_decay": 0.1,
        "parts": {"trunk": {"train": False}, "top": {"learning_rate": 1e-4, "weight_decay": 0.2}},
    }
    optimizer = Optimization.from_plain(settings).make_optimizer(parts)
    groups = {group["name"]: (group["lr"], group["weight_decay"]) for group in optimizer.param_groups}
    assert groups == {
        "bottom": (1e-3, 0.1),
        "bottom/no_decay": (1e-3, 0.0),
        "top": (1e-4, 0.2),
        "top/no_decay": (1e-4, 0.0),
    }
    grouped = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert len(grouped) == len(set(grouped)) == len({*parts[0].parameters(), *parts[2].parameters()})
    assert all(parameter.ndim <= 1 for group in optimizer.param_groups[1::2] for parameter in group["params"])


def test_warm_up_and_decay(tiny_checkpoint: Callable[..., Path]) -> None:
    parts = ModelFactory.create_split_models(None, tiny_checkpoint("llama"), 2, 4, low_memory=True)
    optimization = Optimization(learning_rate=1.0, warmup_fraction=0.1, schedule="linear")
    optimizer = optimization.make_optimizer(parts)
    schedule = optimization.make_schedule(optimizer, 100)
    rates = []
    for _ in range(100):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates[0] == 0 and rates[10] == 1.0 and rates[5] == pytest.approx(0.5)
    assert rates[55] == pytest.approx(0.5) and rates[99] == pytest.approx(1 / 90)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 1}, r"^lr is not known"),
        ({"parts": {"middle": {}}}, "^parts names 'middle'"),
        ({"parts": {"top": {"lr": 1}}}, r"^parts\.top\.lr is not known"),
        ({"schedule": "step"}, "^schedule is 'step'"),
        ({"learning_rate": -1.0}, r"^learning_rate is -1\.0"),
        ({"learning_rate": "fast"}, r"^learning_rate is 'fast'"),
        ({"parts": {"top": {"weight_decay": -1}}}, r"^parts.top.weight_decay is -1"),
        ({"betas": 3}, r"^betas is 3"),
        ({"warmup_fraction": 1.5}, "^warmup_fraction is 1.5"),
        ({"parts": {name: {"train": False} for name in ("bottom", "trunk", "top")}}, "nothing to train"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Optimization.from_plain(settings)
