import pytest
import torch

from splitlearn.training import TrainingSettings, parse_dtype


def test_adapters_are_nowhere_where_nothing_is_trained() -> None:
    settings = TrainingSettings.from_plain({"parts": {"trunk": {"train": False}}}, peft={"method": "lora"})
    assert [settings.adapters.adapts(name) for name in ("bottom", "trunk", "top")] == [True, False, True]
    assert settings.trained == {"bottom": "adapters", "trunk": "frozen", "top": "adapters"}
    assert settings.settle("bottom", has_adapters=False) == "frozen"


def test_adapters_bring_their_learning_rate_unless_one_is_named() -> None:
    peft = {"method": "lora", "learning_rate": 3e-4}
    assert TrainingSettings.from_plain(peft=peft).optimization.learning_rate == 3e-4
    assert TrainingSettings.from_plain({"learning_rate": 1e-5}, peft=peft).optimization.learning_rate == 1e-5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": {"rate": 1}}, r"optimizer\.rate is not known"),
        ({"peft": {"method": "none such"}}, "peft.method is 'none such'"),
        ({"activation_cache": {"keep": "somewhere"}}, "activation_cache.keep is 'somewhere'"),
        ({"compile_layers": 3}, "compile_layers is 3"),
    ],
)
def test_what_cannot_be_meant_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingSettings.from_plain(**settings)  # type: ignore[arg-type]


def test_dtypes() -> None:
    assert parse_dtype(None) is None
    assert parse_dtype("bfloat16") is torch.bfloat16
    for name in ("int8", "nonsense", 3):
        with pytest.raises(ValueError, match=r"^dtype is"):
            parse_dtype(name)  # type: ignore[arg-type]
