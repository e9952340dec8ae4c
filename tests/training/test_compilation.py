from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters

from splitlearn.app import compose, train
from splitlearn.training.compilation import compile_settings

SHORT = ["trainer.max_steps=6", "data.max_train_blocks=64", "data.max_val_blocks=10", "save_parts=false", "verbose=false"]


@pytest.mark.parametrize(
    "extra", [[], ["peft=lora", "gradient_checkpointing=true"]], ids=["everything", "adapters, recomputed"]
)
def test_a_compiled_run_learns_what_any_other_does(tmp_path: Path, extra: list[str]) -> None:
    plain = train(compose(*SHORT, *extra), folder=tmp_path / "plain")
    torch._dynamo.reset()
    counters.clear()
    # Traces forward and backward as a real backend does, and leaves out the C++ compiler, which takes half a minute.
    compiled = train(compose(*SHORT, *extra, "compile={backend: aot_eager}"), folder=tmp_path / "compiled")
    assert counters["stats"]["unique_graphs"] > 0
    assert counters["aot_autograd"]["total"] > 0
    assert not counters["graph_break"]
    for name in ("val_loss_before", "val_loss_after"):
        assert compiled.metrics[name] == pytest.approx(plain.metrics[name], abs=1e-5)
    assert compiled.module.state_dict().keys() == plain.module.state_dict().keys(), "as checkpoints name them"


@pytest.mark.end_to_end
def test_the_usual_backend(tmp_path: Path) -> None:
    plain = train(compose(*SHORT), folder=tmp_path / "plain")
    torch._dynamo.reset()
    counters.clear()
    compiled = train(compose(*SHORT, "compile=true"), folder=tmp_path / "compiled")
    assert counters["inductor"]
    assert compiled.metrics["val_loss_after"] == pytest.approx(plain.metrics["val_loss_after"], abs=1e-4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("yes", r"^compile_layers is 'yes'; use true, false or arguments of torch\.compile"),
        ({"mode": "fastest"}, "torch.compile does not take: .*fastest"),
        ({"speed": 2}, "torch.compile does not take: .*speed"),
        ({"backend": "nobody"}, "torch.compile does not take: .*nobody"),
    ],
)
def test_what_torch_does_not_take_is_refused_before_loading(given: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compile_settings(given)  # type: ignore[arg-type]


def test_off_by_default() -> None:
    assert compile_settings(compose().compile) is None
    assert compile_settings(None) is None
    assert compile_settings(True) == {}
