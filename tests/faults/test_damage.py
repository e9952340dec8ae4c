"""Damaged files of a run: one sentence that names the file, before anything is done, and the run stays as it was."""

from __future__ import annotations

import copy
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from splitlearn.adapters import load_adapters
from splitlearn.app import TrainResult, compose, export, plan, train, verify, verify_run
from splitlearn.app.checkpoints import read_checkpoint
from splitlearn.checkpoint import CheckpointError, read_part_file, verify_tensor_file, verify_torch_file, write_tensor_file
from splitlearn.checkpoint.main_file import INDEX_FILE
from splitlearn.checkpoint.shard import open_shard
from splitlearn.model import SplitModel

SHORT = ["data.max_train_blocks=8", "data.max_val_blocks=2", "data.block_size=16", "data.batch_size=2", "trainer.max_steps=2"]
SHORT += ["verbose=false", "trainer.enable_progress_bar=false"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that completed."""
    result: TrainResult = train(compose(*SHORT), folder=tmp_path_factory.mktemp("runs") / "run")
    return result.folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """Return a copy of the run, to be damaged."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def saved(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def flipped(content: bytes, position: int) -> bytes:
    damaged = bytearray(content)
    damaged[position] ^= 255
    return bytes(damaged)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda good: b"",
    "text": lambda good: b"hello world" * 100,
    "half": lambda good: good[: len(good) // 2],
    "last byte gone": lambda good: good[:-1],
    "header alone": lambda good: good[:200],
    "zeros": lambda good: bytes(len(good)),
    "archive of nothing": lambda good: b"PK\x05\x06" + bytes(18),
    "json": lambda good: b"{}",
    "another table": lambda good: saved({"a": 1}),
    "a list": lambda good: saved([1]),
    "directory flipped": lambda good: flipped(good, -60),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_checkpoints(run: Path, damage: str) -> None:
    """Fault: a checkpoint is empty, cut short, or something else. Promise: CheckpointError with its path."""
    path = run / "checkpoints" / "last.ckpt"
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(CheckpointError, match=r"checkpoints/last\.ckpt"):
        read_checkpoint(path)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_parts(run: Path, damage: str) -> None:
    """Fault: a saved part is empty, cut short, or something else. Promise: CheckpointError with its path."""
    path = run / "parts" / "trunk.pt"
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(CheckpointError, match=r"parts/trunk\.pt"):
        SplitModel.load(path)


@pytest.mark.parametrize("kind", ["checkpoints/last.ckpt", "parts/trunk.pt"])
def test_a_folder_in_a_files_place(run: Path, kind: str) -> None:
    """Fault: a folder has a checkpoint's or a part's name. Promise: one sentence with its path."""
    (run / kind).unlink()
    (run / kind).mkdir()
    with pytest.raises(CheckpointError, match=f"{kind} is a folder"):
        read_checkpoint(run / kind) if kind.endswith("ckpt") else read_part_file(run / kind)


def changed(content: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Return a checkpoint with another value at a dotted path; Ellipsis removes what is there."""
    result = copy.deepcopy(content)
    *way, last = path.split("/")
    place = result
    for step in way:
        place = place[int(step) if isinstance(place, list) else step]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return result


PROGRESS = "loops/fit_loop/epoch_progress"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("optimizer_states", ...),
        ("optimizer_states", {}),
        ("optimizer_states", [3]),
        ("optimizer_states/0/param_groups", ...),
        ("optimizer_states/0/state/model.norm.weight/exp_avg", torch.zeros(3)),
        ("lr_schedulers", ...),
        ("loops", {}),
        ("loops", None),
        (PROGRESS, ...),
        (f"{PROGRESS}/current/processed", "many"),
        (f"{PROGRESS}/current/processed", -1),
        ("callbacks", []),
        ("callbacks/ExactResume", None),
        ("state_dict", [1]),
        ("state_dict/model.norm.weight", 3),
        ("state_dict/model.norm.weight", torch.zeros(4).to_sparse()),
        ("hyper_parameters", None),
        ("hyper_parameters/split_point_1", "two"),
        ("trained", {"bottom": "full"}),
        ("trained/top", ["full"]),
        ("layout_version", torch.ones(2)),
        ("base/part_dtypes", ["float32"]),
        ("run/earlier_starts", 3),
        ("callbacks/RunFigures/before", [1]),
        ("optimizer_states/0/state/model.norm.weight/exp_avg", torch.zeros(1).expand(10**10)),
        ("trained/top", "some of it"),
        ("global_step", None),
        ("epoch", True),
        ("layout_version", "two"),
    ],
)
def test_checkpoints_that_lack_something(finished: Path, tmp_path: Path, path: str, value: Any) -> None:
    """Fault: a checkpoint lacks something, or has it in another form. Promise: CheckpointError with its path, and what."""
    good = torch.load(finished / "checkpoints" / "last.ckpt", weights_only=True)
    (tmp_path / "last.ckpt").write_bytes(saved(changed(good, path, value)))
    with pytest.raises(CheckpointError, match=r"last\.ckpt"):
        read_checkpoint(tmp_path / "last.ckpt")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("loops/fit_loop/epoch_loop.batch_progress", ...),
        ("loops/fit_loop/epoch_loop.batch_progress/current/ready", "none"),
        ("state_dict/model.norm.weight", torch.zeros(3)),
        ("state_dict/model.norm.weight", ...),
    ],
)
def test_a_checkpoint_that_cannot_be_gone_on_from(run: Path, path: str, value: Any) -> None:
    """Fault: progress or a tensor is damaged. Promise: refused with the file's path before the earlier run is touched."""
    file = run / "checkpoints" / "last.ckpt"
    file.write_bytes(saved(changed(torch.load(file, weights_only=True), path, value)))
    before = {name: (run / name).read_bytes() for name in ("summary.json", "config.yaml")}
    with pytest.raises(CheckpointError, match=r"checkpoints/last\.ckpt"):
        train(compose(*SHORT, "ckpt_path=last", "trainer.max_steps=4"), folder=run)
    assert before == {name: (run / name).read_bytes() for name in before}


def test_a_flipped_byte_is_found_by_the_checksum(run: Path) -> None:
    """Fault: a byte of a weight has changed on the disk. Promise: the checksums that torch files carry tell it."""
    for path in (run / "parts" / "trunk.pt", run / "checkpoints" / "last.ckpt"):
        verify_torch_file(path, "save it again")
        path.write_bytes(flipped(path.read_bytes(), path.stat().st_size // 2))
        with pytest.raises(CheckpointError, match=rf"{path.name} is damaged"):
            verify_torch_file(path, "save it again")


# torch means to give quantized tensors up; files that hold them stay.
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning", "ignore:TypedStorage is deprecated:UserWarning")
@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("sparse", lambda tensor: tensor.to_sparse()),
        ("on the meta device", lambda tensor: tensor.to("meta")),
        ("quantized", lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)),
    ],
)
def test_tensors_that_are_not_plain(tmp_path: Path, kind: str, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Fault: a torch file holds a sparse, meta or quantized tensor. Promise: CheckpointError with its name and the file."""
    torch.save({"good": torch.ones(2), "model.odd": change(torch.ones(4))}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=rf"model\.odd in .*pytorch_model\.bin is {kind}"):
        open_shard(tmp_path / "pytorch_model.bin")


def outcomes(run: Path) -> dict[str, str | None]:
    """Return what is wrong with each file of a run."""
    return {outcome.file: outcome.problem for outcome in verify_run(compose(f"run={run}", config_name="verify"))}


def test_verify_reads_a_run_to_its_end(run: Path) -> None:
    """Fault: bytes of a part and of a checkpoint have changed. Promise: `verify run=...` tells which files."""
    whole = outcomes(run)
    assert set(whole) >= {"config.yaml", "summary.json", "parts/trunk.pt", "checkpoints/last.ckpt"}
    assert not any(whole.values())
    for name in ("parts/trunk.pt", "checkpoints/last.ckpt"):
        (run / name).write_bytes(flipped((run / name).read_bytes(), (run / name).stat().st_size // 2))
    (run / "summary.json").write_text("{")
    damaged = {name for name, problem in outcomes(run).items() if problem}
    assert damaged == {"parts/trunk.pt", "checkpoints/last.ckpt", "summary.json"}


def test_export_compares_checksums_first(run: Path, tmp_path: Path) -> None:
    """Fault: a byte of a saved part has changed. Promise: `export` refuses it by its path, and writes nothing."""
    path = run / "parts" / "trunk.pt"
    path.write_bytes(flipped(path.read_bytes(), path.stat().st_size // 2))
    with pytest.raises(CheckpointError, match=r"parts/trunk\.pt is damaged"):
        export(compose(f"run={run}", f"out={tmp_path / 'out'}", config_name="export"))
    assert not (tmp_path / "out").exists()


def test_numbers_that_are_none_are_found_in_a_run(run: Path) -> None:
    """Fault: a trained weight is NaN. Promise: `verify run=...` names the file and the tensor."""
    content = torch.load(run / "parts" / "trunk.pt", weights_only=True)
    name = next(iter(content["tensors"]))
    content["tensors"][name].view(-1)[0] = torch.nan
    torch.save(content, run / "parts" / "trunk.pt")
    problem = outcomes(run)["parts/trunk.pt"]
    assert problem is not None and f"NaN or infinite in {name} (1)" in problem


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_found_in_a_checkpoint(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, value: float
) -> None:
    """Fault: a weight is NaN or infinite. Promise: `verify` and `plan check=true` name its tensor."""
    folder = Path(shutil.copytree(tiny_checkpoint("llama"), tmp_path / "model"))
    name = "model.layers.3.mlp.up_proj.weight"
    file = folder / json.loads((folder / INDEX_FILE).read_text())["weight_map"][name]
    tensors = load_file(file)
    tensors[name][0, 0] = value
    save_file(tensors, file, {"format": "pt"})
    model = ["model=pretrained", f"model.name_or_path={folder}", "split=thirds"]
    with pytest.raises(CheckpointError, match=rf"NaN or infinite in {name} \(1\)"):
        verify(compose(*model, config_name="verify"))
    with pytest.raises(CheckpointError, match=rf"NaN or infinite in {name} \(1\)"):
        plan(compose(*model, "check=true", config_name="plan"))
    plan(compose(*model, config_name="plan"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("summary.json", ""),
        ("summary.json", "[" * 100_000),
        ("summary.json", "null"),
        ("summary.json", '{"status": "completed"}'),
        ("summary.json", '{"status": 3}'),
        ("config.yaml", ""),
        ("config.yaml", "a: ["),
        ("config.yaml", "- 1"),
        ("config.yaml", "[" * 100_000),
        ("config.yaml", "a: &a [1]\nb: *a"),
        ("config.yaml", "a: 2001-99-99"),
        ("config.yaml", "a: !!int ''"),
        ("config.yaml", "a: " + "1:" * 300 + "1.5"),
        ("config.yaml", "a: " + "1:" * 300_000 + "1"),
        ("config.yaml", "model: {name_or_path: model, type: null, dtype: 3}"),
        ("config.yaml", "model: {name_or_path: model, type: null, dtype: null}\npeft: [lora]"),
        ("config.yaml", "a: ${b}"),
        ("config.yaml", "model: {}"),
        ("config.yaml", "model: {name_or_path: 3, type: null, dtype: null}"),
        ("prompt_format.json", "[" * 100_000),
    ],
)
def test_damaged_records(run: Path, tmp_path: Path, name: str, content: str) -> None:
    """Fault: a run's record or configuration is damaged. Promise: one sentence with its path, and nothing is written."""
    (run / name).write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=str(run)):
        export(compose(f"run={run}", f"out={tmp_path / 'out'}", config_name="export"))
    assert not (tmp_path / "out").exists()


def test_a_record_that_names_other_parts(run: Path, tmp_path: Path) -> None:
    """Fault: a record names parts such as `../../other`. Promise: no file outside of the run's folder is opened for them."""
    outside = tmp_path / "other.pt"
    torch.save({}, outside)
    record = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps({**record, "trained": {**record["trained"], "../../other": "full"}}))
    with pytest.raises(CheckpointError, match=r"summary\.json is damaged: trained does not say for each part"):
        export(compose(f"run={run}", f"out={tmp_path / 'out'}", config_name="export"))


def test_damaged_adapters(tmp_path: Path) -> None:
    """Fault: an adapter's file is cut short, or bytes of it have changed. Promise: one sentence with its path."""
    path = tmp_path / "adapter_model.safetensors"
    write_tensor_file({"lora": torch.ones(100)}, path, has_digest=True)
    good = path.read_bytes()
    verify_tensor_file(path, "train again")
    path.write_bytes(flipped(good, -9))
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors is damaged"):
        verify_tensor_file(path, "train again")
    for content in (b"", b"text", good[:-1], good[:20], bytes(len(good))):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors is damaged"):
            load_adapters([], tmp_path)
