from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from peft import PeftModel
from transformers import AutoModelForCausalLM

import splitlearn
from splitlearn.app import compose, plan_split, train
from splitlearn.cut import CutError
from splitlearn.embedded import resolve_model
from splitlearn.loading import ModelRequest
from splitlearn.model import ComposedCausalLM, SplitModel
from splitlearn.runs import LOCK_FILE
from splitlearn.training.step_clock import PHASES
from tests.tiny_models import VOCAB_SIZE

SHORT = ["trainer.max_steps=6", "data.max_train_blocks=48", "data.max_val_blocks=16", "trainer.enable_progress_bar=false"]
SHORT += ["verbose=false", "trainer.max_epochs=2"]


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> splitlearn.app.TrainResult:
    return train(compose(*SHORT, "split.point_1=3"), folder=tmp_path_factory.mktemp("run"))


def test_held_out_loss_falls(result: splitlearn.app.TrainResult) -> None:
    assert result.metrics["val_loss_before"] == pytest.approx(7.65, abs=0.1), "random weights guess: ln 2048 = 7.62"
    assert result.metrics["val_loss_after"] < result.metrics["val_loss_before"] - 0.2
    assert result.metrics["train_tokens"] == 6 * 8 * 128
    assert result.metrics["tokens_per_s"] > 0


def test_the_run_folder(result: splitlearn.app.TrainResult) -> None:
    files = {str(path.relative_to(result.folder)) for path in result.folder.rglob("*") if path.is_file()}
    parts = {f"parts/{name}.pt" for name in ("bottom", "trunk", "top")}
    assert files >= {
        "summary.json",
        "config.yaml",
        "memory_report.json",
        "metrics/metrics.csv",
        "checkpoints/last.ckpt",
        *parts,
    }
    assert not [file for file in files if "tmp" in file]
    summary = json.loads((result.folder / "summary.json").read_text())
    assert summary["status"] == "completed"
    assert (summary["split_point_1"], summary["split_point_2"]) == (3, 6)
    assert summary["metrics"] == result.metrics
    assert summary["threat_model"]["parties"]["server"]["receives"][0] == "smashed data at cut 1"
    assert summary["threat_model"]["parties"]["client"]["trains"] == ["bottom", "top"]
    assert [each["part"] for each in summary["loading"]] == ["bottom", "trunk", "top"]
    assert all(each["read_bytes"] + each["shared_bytes"] == each["needed_bytes"] > 0 for each in summary["loading"])
    assert not any(each["mapped_bytes"] for each in summary["loading"]), "trained weights are memory of their own"
    # The build of torch, such as +cu130, is told only where its package is called that.
    assert torch.__version__.startswith(summary["versions"]["torch"])
    assert OmegaConf.load(result.folder / "config.yaml").split.point_1 == 3


def test_the_memory_report(result: splitlearn.app.TrainResult) -> None:
    report = json.loads((result.folder / "memory_report.json").read_text())
    assert report["unit"] == "bytes"
    assert [epoch["epoch"] for epoch in report["epochs"]] == [1]
    epoch = report["epochs"][0]
    parameters = sum(part["num_parameters"] for part in epoch["parts"])
    assert parameters == sum(each.numel() for each in result.module.parameters()), "a tied tensor counts once"
    assert sum(part["weight_bytes"] for part in epoch["parts"]) == 4 * parameters
    assert epoch["peak"]["rss_bytes"] >= epoch["process"]["rss_bytes"] > 10**8


def test_memory_and_phases_of_the_steps(result: splitlearn.app.TrainResult) -> None:
    summary = json.loads((result.folder / "summary.json").read_text())
    memory, phases = summary["memory"], summary["phases"]
    assert list(memory["parts"]) == ["bottom", "trunk", "top"]
    assert memory["parties"].keys() == memory["planned_parties"].keys() == {"client", "server"}
    for party, size in memory["parties"].items():
        # The plan reckons with a mask for each row, as padded rows have one.
        assert size <= memory["planned_parties"][party] <= 1.1 * size
    assert phases["num_steps"] == result.metrics["train_steps"] - 1
    assert list(phases)[1:] == list(PHASES)
    for figures in (phases[phase] for phase in PHASES):
        assert 0 < figures["median_s"] <= figures["p95_s"] <= figures["p99_s"]


def test_the_metrics_file(result: splitlearn.app.TrainResult) -> None:
    with (result.folder / "metrics" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    columns = {name for row in rows for name, value in row.items() if value}
    assert columns >= {
        "val_loss",
        "val_perplexity",
        "train_loss_epoch",
        "train_perplexity",
        "memory/rss_gib",
        "memory/trunk_gib",
        "memory/client_gib",
        "memory/server_gib",
        "memory/trunk_activations_gib",
        "phases/trunk_median_s",
        "memory/client_planned_gib",
    }
    last = {name: float(value) for row in rows for name, value in row.items() if value}
    logged = {name.removeprefix("run/"): value for name, value in last.items() if name.startswith("run/")}
    assert logged == pytest.approx({name: value for name, value in result.metrics.items() if value is not None})
    memory = json.loads((result.folder / "summary.json").read_text())["memory"]
    for word, parties in (("", memory["parties"]), ("_planned", memory["planned_parties"])):
        for party, size in parties.items():
            assert last[f"memory/{party}{word}_gib"] * 2**30 == pytest.approx(size)


def test_saved_parts_are_the_trained_model(result: splitlearn.app.TrainResult) -> None:
    loaded = ComposedCausalLM(*(SplitModel.load(result.folder / "parts" / f"{name}.pt") for name in ("bottom", "trunk", "top")))
    ids = next(iter(result.datamodule.val_dataloader()))["input_ids"]
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, result.module.eval()(ids).logits)


def test_a_refused_cut_is_recorded(tmp_path: Path) -> None:
    with pytest.raises(CutError):
        train(compose(*SHORT, "split.point_1=9"), folder=tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["status"] == "refused" and "8 decoder layers" in summary["reason"]
    assert {path.name for path in tmp_path.iterdir()} == {"summary.json", LOCK_FILE}


@pytest.mark.usefixtures("weights_stay_unread")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["data=text_files", "data.source=short.txt"], "holds a single row, so none can be held out"),
        (["data.val_fraction=0", "load_best_model_at_end=true"], "nothing is held out, but load_best_model_at_end=true"),
    ],
)
def test_bad_data_are_refused_before_weights_are_read(
    settings: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "short.txt").write_text("too short")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        train(compose(*SHORT, *settings), folder=tmp_path / "run")


@pytest.mark.usefixtures("weights_stay_unread")
def test_tokens_that_the_model_does_not_know_are_refused_before_weights_are_read(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    model = shutil.copytree(tiny_checkpoint("llama"), tmp_path / "model")
    for file in Path(resolve_model("embedded:qwen2_tiny")).glob("token*"):
        shutil.copy(file, model)
    settings = ["model=pretrained", f"model.name_or_path={model}", "split.point_1=2", "split.point_2=4"]
    with pytest.raises(ValueError, match=f"the model knows only {VOCAB_SIZE} ids"):
        train(compose(*SHORT, *settings), folder=tmp_path / "run")


def test_a_failure_is_recorded(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        train(compose(*SHORT, "data=text_files", "data.source=absent.txt"), folder=tmp_path)
    assert json.loads((tmp_path / "summary.json").read_text())["status"] == "failed"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("data.val_fraction=2", "data.val_fraction is 2"),
        ("data.block_size=abc", "data.block_size is 'abc'"),
        ("data.max_val_blocks=0", "data.max_val_blocks is 0"),
        ("split.fractions=[0.5]", "split.fractions is [0.5]; give two numbers"),
        ("trainer.max_epochs=-5", "max_epochs"),
        ("optimizer.learning_rate=-1", "optimizer.learning_rate is -1"),
    ],
)
def test_settings_that_cannot_be_are_told_plainly(setting: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError) as error:
        train(compose(*SHORT, setting), folder=tmp_path)
    assert message in str(error.value)
    assert "full_key" not in str(error.value)
    left = {path.name for path in tmp_path.iterdir()}
    assert left <= {"summary.json", LOCK_FILE}, "what is wrong by itself is refused before all else"


def test_figures_of_a_resumed_run_are_of_the_whole_run(result: splitlearn.app.TrainResult, tmp_path: Path) -> None:
    checkpoint = result.folder / "checkpoints" / "last.ckpt"
    longer = ["split.point_1=3", "trainer.max_epochs=3", "trainer.max_steps=8"]
    resumed = train(compose(*SHORT, *longer, f"ckpt_path={checkpoint}"), folder=tmp_path)
    assert resumed.metrics["val_loss_before"] == result.metrics["val_loss_before"], "the base model's"
    assert resumed.metrics["train_steps"] == 8 and resumed.metrics["train_tokens"] == 8 * 8 * 128
    assert resumed.metrics["train_s"] > result.metrics["train_s"]
    # Of other held-out rows the base model's loss is another.
    other = train(compose(*SHORT, *longer, f"ckpt_path={checkpoint}", "data.max_val_blocks=8"), folder=tmp_path / "other")
    assert other.metrics["val_loss_before"] != result.metrics["val_loss_before"]
    assert other.metrics["val_loss_before"] == pytest.approx(7.65, abs=0.1)


@pytest.mark.parametrize("left_out", ["~logger", "logger=none", "~callbacks"])
def test_a_run_without_loggers_or_callbacks(left_out: str, tmp_path: Path) -> None:
    result = train(compose(*SHORT, "trainer.max_steps=2", left_out), folder=tmp_path)
    assert result.trainer.global_step == 2
    assert (tmp_path / "metrics").exists() == (left_out == "~callbacks")
    assert (list(tmp_path.rglob("*.ckpt")) == []) == (left_out == "~callbacks"), "Lightning writes none of its own"


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ValueError, match=f"the run's folder {folder} cannot be written .*hydra.run.dir"):
            train(compose(*SHORT), folder=folder)
    assert (tmp_path / "file").read_text() == "in the way"


def test_outside_the_command_line_a_folder_is_needed() -> None:
    with pytest.raises(ValueError, match="folder="):
        train(compose(*SHORT))


@pytest.mark.parametrize(
    ("split", "points"),
    [
        ({"fractions": [0.25, 0.75], "point_1": None, "point_2": None}, (2, 5)),
        ({"fractions": [0.25, 0.75], "point_1": 1, "point_2": None}, (1, 5)),
        ({"fractions": None, "point_1": 0, "point_2": 6}, (0, 6)),
    ],
)
def test_points_override_fractions(
    split: dict[str, object], points: tuple[int, int], tiny_checkpoint: Callable[..., Path]
) -> None:
    plan = plan_split(OmegaConf.create(split), ModelRequest(tiny_checkpoint("llama")).open())
    assert (plan.split_point_1, plan.split_point_2) == points


def test_a_cut_by_layer_needs_both_points(tiny_checkpoint: Callable[..., Path]) -> None:
    with pytest.raises(CutError, match=r"split\.point_2 is not set"):
        plan_split(
            OmegaConf.create({"fractions": None, "point_1": 1, "point_2": None}), ModelRequest(tiny_checkpoint("llama")).open()
        )


def test_the_public_names() -> None:
    for name in splitlearn.__all__:
        assert getattr(splitlearn, name) is not None
    assert dir(splitlearn) == sorted(splitlearn.__all__)
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = splitlearn.nothing_of_the_kind


def test_a_run_with_adapters_leaves_one_that_peft_reads(tmp_path: Path) -> None:
    result = train(compose(*SHORT, "peft=lora", "optimizer.learning_rate=1e-2"), folder=tmp_path)
    assert result.metrics["val_loss_after"] < result.metrics["val_loss_before"]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["saved_parts"] is None and Path(summary["adapters"]) == tmp_path / "adapters"
    assert all(each["mapped_bytes"] for each in summary["loading"]), "what is not trained stays mapped"
    base = AutoModelForCausalLM.from_pretrained(resolve_model("embedded:qwen2_tiny"))
    whole = PeftModel.from_pretrained(base, str(tmp_path / "adapters")).eval()
    ids_BT = torch.arange(64).view(2, 32)
    with torch.no_grad():
        assert torch.equal(whole(input_ids=ids_BT).logits, result.module.composed.eval()(ids_BT).logits)


def test_a_part_that_is_trained_beside_adapters_is_saved_itself(tmp_path: Path) -> None:
    chosen = ["peft=lora", "peft.parts.trunk=false", "optimizer.parts.trunk.train=full"]
    train(compose(*SHORT, *chosen), folder=tmp_path)
    assert {path.name for path in (tmp_path / "parts").iterdir()} == {"trunk.pt"}
    assert {path.stem for path in (tmp_path / "adapters").glob("*.safetensors")} == {"bottom", "top", "adapter_model"}
    assert SplitModel.load(tmp_path / "parts" / "trunk.pt").spec.name == "trunk"


@pytest.mark.filterwarnings("ignore:weights are trained in bfloat16")
def test_weights_in_bfloat16_by_lightnings_name(tmp_path: Path) -> None:
    short = ["trainer.max_steps=2", "data.max_train_blocks=16", "data.max_val_blocks=4", "save_parts=false", "verbose=false"]
    result = train(compose("trainer.precision=bf16-true", *short), folder=tmp_path / "run")
    assert {parameter.dtype for parameter in result.module.parameters()} == {torch.bfloat16}
    assert result.metrics["val_loss_after"] < result.metrics["val_loss_before"]
    with pytest.raises(ValueError, match=r"trainer\.precision is bf16-true, but model\.dtype is float32"):
        train(compose("trainer.precision=bf16-true", "model.dtype=float32", *short), folder=tmp_path / "refused")


def test_a_stream_without_held_out_rows_is_passed_until_the_last_step(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("".join(f"This is line {number}, one of a few.\n" for number in range(20)))
    settings = ["data=text_files", f"data.source={tmp_path / 'lines.txt'}", "data.sample_by=line", "data.block_size=16"]
    settings += ["data.streaming=true", "data.val_rows=0", "data.rows_at_once=7", "trainer.max_steps=9", "save_parts=false"]
    settings += ["trainer.enable_progress_bar=false", "callbacks.throughput.counts_flops=false"]
    with pytest.raises(ValueError, match=r"nothing is held out, but callbacks\.early_stopping needs the held-out loss"):
        train(compose(*settings, "callbacks=early_stopping"), folder=tmp_path / "refused")
    result = train(compose(*settings, "trainer.max_epochs=1"), folder=tmp_path / "run")
    assert result.metrics["train_steps"] == 9 and result.metrics["val_loss_after"] is None
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "completed" and summary["rows"]["rows"] == 20
