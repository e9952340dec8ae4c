"""Servers that hold the top, alone or with the trunk, take the steps of one process to the bit: labels are sent to them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch.utils.data import DataLoader

from splitlearn.boundary import Boundary, CallKind, Parcel, Route
from splitlearn.cut import Placement
from splitlearn.loading import ModelRequest
from splitlearn.model import TopRequest
from splitlearn.parties import PartyError, ServedPart
from splitlearn.randomness import NamedGenerators
from splitlearn.training import SplitCausalLM, TopLosses, TrainingSettings, load_for_training
from splitlearn.training.part_owner import PartElsewhere
from splitlearn.training.trials.isolation import keeps_rows_apart
from tests.architectures.catalogue import tiny_model
from tests.loading.test_request import write_one_shard_a_part
from tests.tiny_models import token_ids
from tests.training.stand_in import stand_ins
from tests.training.test_remote_steps import LORA, LossLog, loader

CUT = (2, 4)
STEPS = 4
SERVERS = {"vanilla": [["trunk", "top"]], "linear": [["trunk"], ["top"]]}
CASES: dict[str, dict[str, Any]] = {
    "clipping": {"trainer": {"gradient_clip_val": 0.05}},
    "accumulation": {"trainer": {"accumulate_grad_batches": 2, "gradient_clip_val": 0.5}},
    "dropout": {"model_type": "gpt2", "model": {"attn_pdrop": 0.1, "resid_pdrop": 0.1}},
    "LoRA": {"settings": {"peft": LORA}},
    "a frozen bottom": {"settings": {"optimizer": {"parts": {"bottom": {"train": False}}}}},
    "only the bottom is trained": {
        "settings": {"optimizer": {"parts": {"trunk": {"train": False}, "top": {"train": False}}}},
    },
    "int8": {"settings": {"boundary": "int8"}},
    "noise": {"settings": {"boundary": {"forward": {"codec": "gaussian", "noise_rms": 0.1}, "backward": "int8"}}},
    "logits in pieces": {"settings": {"max_logits_mib": 0.001}},
    "microbatches": {"settings": {"microbatches": 2}, "model": {"attention_dropout": 0.1}},
    "bfloat16": {"trainer": {"precision": "bf16-mixed"}},
    "bfloat16, logits in pieces": {
        "settings": {"peft": LORA, "max_logits_mib": 0.001},
        "trainer": {"precision": "bf16-mixed"},
    },
    "router loss": {"model_type": "mixtral"},
    "adapters beside a tie": {"settings": {"peft": LORA}, "model": {"tie_word_embeddings": True}},
}


def place(name: str) -> Placement:
    parties = {f"server_{number}": {"parts": held} for number, held in enumerate(SERVERS[name], 1)}
    return Placement.resolve({"client": {"parts": ["bottom"]}, **parties}, "client", list(parties)[-1], num_gpus=0)


def make_module(
    checkpoint: Path, placement: str, settings: dict[str, Any], remote: bool, cut: tuple[int, int] = CUT
) -> SplitCausalLM:
    torch.manual_seed(0)
    module = SplitCausalLM(str(checkpoint), *cut, placement=place(placement), **settings)
    if remote:
        parts = stand_ins(checkpoint, cut, module.settings, module.generators, SERVERS[placement])
        module.connect({name: cast(PartElsewhere, part) for name, part in parts.items()})
    module.load_parts()
    return module


def fit(module: SplitCausalLM, steps: int, path: Path | None = None, **settings: Any) -> tuple[list[float], dict[str, Any]]:
    log = LossLog(draws=False)
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        callbacks=[log],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        limit_val_batches=1,
        **settings,
    )
    torch.manual_seed(1)
    data: DataLoader[Any] = loader(steps * settings.get("accumulate_grad_batches", 1))
    trainer.fit(module, data, data, ckpt_path=path, weights_only=True)
    return [*log.losses, float(trainer.callback_metrics["val_loss"])], content_of(module)


def content_of(module: SplitCausalLM) -> dict[str, Any]:
    optimizer = cast(Any, module.optimizers()).optimizer
    content: dict[str, Any] = {"optimizer_states": [optimizer.state_dict()]}
    module.on_save_checkpoint(content)
    # Only with parts elsewhere is there a number of their steps.
    assert set(content.pop("steps_elsewhere", {}).values()) <= {module.trainer.global_step}
    return content


def make_checkpoint(case: dict[str, Any], tiny_checkpoint: Callable[..., Path], folder: Path) -> Path:
    # A head that is tied to the embedding would be trained by two parties.
    if case.get("model_type") == "mixtral":
        tiny_model("mixtral", output_router_logits=True, tie_word_embeddings=False).save_pretrained(folder / "model")
        return folder / "model"
    return tiny_checkpoint(case.get("model_type", "llama"), **{"tie_word_embeddings": False, **case.get("model", {})})


def assert_equal(found: Any, expected: Any) -> None:
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected)
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert_equal(found[name], value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_equal(one, other)
    else:
        assert found == expected


@pytest.mark.parametrize("placement", SERVERS)
@pytest.mark.parametrize("cut", [CUT, (2, 2)])
def test_tokens_and_logits_are_those_of_one_process(
    cut: tuple[int, int], placement: str, tiny_checkpoint: Callable[..., Path]
) -> None:
    checkpoint = tiny_checkpoint("llama", tie_word_embeddings=False)
    one, other = (make_module(checkpoint, placement, {}, remote, cut) for remote in (False, True))
    ids_BT = token_ids()
    for settings in ({}, {"num_beams": 3}):
        tokens = [module.generate(ids_BT, max_new_tokens=5, pad_token_id=0, **settings) for module in (one, other)]
        assert torch.equal(*tokens)
    with torch.no_grad():
        outputs = [module.composed.eval()(ids_BT, labels=ids_BT) for module in (one, other)]
    assert torch.equal(outputs[0].logits, outputs[1].logits)
    assert torch.equal(outputs[0].loss, outputs[1].loss)
    assert one.composed.meter.totals() == other.composed.meter.totals()
    # A trial asks each part alone.
    trials = [keeps_rows_apart(module.parts) for module in (one, other)]
    assert trials == [True, True]


@pytest.mark.parametrize(
    ("name", "placement"),
    [
        *((name, "linear") for name in CASES),
        *((name, "vanilla") for name in ("clipping", "dropout", "LoRA", "int8", "router loss")),
    ],
)
def test_steps_are_those_of_one_process(
    name: str, placement: str, tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    case = CASES[name]
    checkpoint = make_checkpoint(case, tiny_checkpoint, tmp_path)
    settings, trainer = case.get("settings", {}), case.get("trainer", {})
    one, other = (make_module(checkpoint, placement, settings, remote) for remote in (False, True))
    (losses, expected), (found_losses, found) = fit(one, STEPS, **trainer), fit(other, STEPS, **trainer)
    assert found_losses == losses
    assert one.composed.meter.totals() == other.composed.meter.totals()
    for content in (expected, found):
        # Codecs' noise is drawn by whoever sends.
        states = content["generators"]["states"]
        content["generators"] = {part: states[part] for part in ("bottom", "trunk", "top") if part in states}
    assert_equal(found, expected)
    assert {path.split(".")[1] for path, _ in other.named_parameters()} == {"bottom"}


class NumberedBatches(LightningDataModule):
    """Two batches of two rows, for training and held out, whose rows are numbered."""

    def train_dataloader(self) -> DataLoader[Any]:
        return loader(2)

    val_dataloader = train_dataloader

    def num_rows(self, name: str) -> int:
        return 4

    def digest(self, name: str) -> str:
        return name


@pytest.mark.parametrize("placement", SERVERS)
def test_what_a_frozen_bottom_returns_is_kept_where_it_is(placement: str, tiny_checkpoint: Callable[..., Path]) -> None:
    """A kept batch still goes to the servers, with its labels."""
    checkpoint = tiny_checkpoint("llama", tie_word_embeddings=False, attention_dropout=0.0)
    runs = []
    for keep, remote in (("none", True), ("memory", True), ("memory", False)):
        settings = {"optimizer": {"parts": {"bottom": {"train": False}}}, "activation_cache": {"keep": keep}}
        module, log, num_rows = make_module(checkpoint, placement, settings, remote), LossLog(draws=False), [0]

        def count(_: Any, arguments: Any, num_rows: list[int] = num_rows) -> None:
            num_rows[0] += len(arguments[0])

        module.composed.bottom.register_forward_pre_hook(count)
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
        trainer = Trainer(accelerator="cpu", max_epochs=2, callbacks=[log], num_sanity_val_steps=0, **quiet)  # type: ignore[arg-type]
        trainer.fit(module, datamodule=NumberedBatches())
        runs.append(([*log.losses, float(trainer.callback_metrics["val_loss"])], module.composed.meter.totals(), num_rows[0]))
    kept_nothing, with_servers, one = runs
    assert with_servers == one
    assert with_servers[1] == kept_nothing[1]
    assert with_servers[0] == pytest.approx(kept_nothing[0], rel=1e-6)
    assert with_servers[2] < kept_nothing[2]


# It goes on with the epoch's first batch.
@pytest.mark.filterwarnings("ignore:.* your dataloader is not resumable")
def test_a_run_goes_on_at_a_new_server(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint("llama", tie_word_embeddings=False)
    first = make_module(checkpoint, "vanilla", {"peft": LORA}, remote=True)
    fit(first, 2)
    first.trainer.save_checkpoint(tmp_path / "two.ckpt")
    resumed = [make_module(checkpoint, "vanilla", {"peft": LORA}, remote) for remote in (True, False)]
    (losses, found), (expected_losses, expected) = (fit(module, 4, path=tmp_path / "two.ckpt") for module in resumed)
    assert losses == expected_losses
    assert_equal(found, expected)


def test_what_a_client_sends_to_a_top_is_checked(tiny_checkpoint: Callable[..., Path]) -> None:
    checkpoint = tiny_checkpoint("llama", tie_word_embeddings=False)
    top = stand_ins(checkpoint, CUT, TrainingSettings(), NamedGenerators(0), [["top"]])["top"]

    def ask(labels_BT: torch.Tensor, alone: bool = False, **arguments: Any) -> TopLosses:
        boundary = Boundary(Route(2, sends_context=True))
        ticket = boundary.send(Parcel(torch.zeros(1, 3, 64)), CallKind.TRAIN)
        asked = TopRequest(labels_BT, 3, arguments)
        losses: Any = top.finish(top.send(ticket, (boundary, None), {}, {}, asked, alone=alone))
        return cast(TopLosses, losses)

    for labels_BT in (torch.zeros(1, 4, dtype=torch.int64), torch.zeros(1, 3)):
        with pytest.raises(PartyError, match=r"sent no labels of the shape \(1, 3\) in int64"):
            ask(labels_BT)
    with pytest.raises(PartyError, match="client sent the label 5000; this model's tokens are 0 to"):
        ask(torch.tensor([[1, -100, 5000]]))
    with pytest.raises(PartyError, match="client sent the argument 'skips_head'"):
        ask(torch.ones(1, 3, dtype=torch.int64), skips_head=True)
    with pytest.raises(PartyError, match="client calls the 'top' alone; only trials do so"):
        ask(torch.ones(1, 3, dtype=torch.int64), alone=True)
    losses = ask(torch.ones(1, 3, dtype=torch.int64))
    with pytest.raises(PartyError, match="numbers that are not finite"):
        losses.text.backward(torch.tensor(float("inf")))
    assert torch.isfinite(ask(torch.tensor([[1, -100, -100]])).text), "the conversation goes on"


def test_a_tie_that_no_party_can_compare_is_refused(tmp_path: Path) -> None:
    """The checkpoint stores both ends; the configuration says that they are one tensor."""
    folder = str(write_one_shard_a_part(tmp_path / "model", "equal"))
    parties: dict[str, dict[str, Any]] = {"client": {"parts": ["bottom"]}}
    parties["server"] = {"parts": ["trunk", "top"], "address": "elsewhere:1"}
    placement = Placement.resolve(parties, "client", "server", num_gpus=0)
    with pytest.raises(ValueError, match=r"lm_head.weight is tied to .*set untie=true"):
        load_for_training(ModelRequest(folder, *CUT).open(["bottom"]), TrainingSettings().trained, placement)
    with pytest.raises(ValueError, match=r"lm_head.weight is tied to .*set untie=true"):
        ServedPart(ModelRequest(folder, *CUT), ["trunk", "top"])
    assert ServedPart(ModelRequest(folder, *CUT, untie=True), "top").names == ("top",)


def test_a_top_elsewhere_wants_a_placement_that_says_so(tiny_checkpoint: Callable[..., Path]) -> None:
    checkpoint = tiny_checkpoint("llama", tie_word_embeddings=False)
    module = SplitCausalLM(str(checkpoint), *CUT)
    parts = stand_ins(checkpoint, CUT, module.settings, module.generators, [["trunk", "top"]])
    with pytest.raises(ValueError, match="the top is to be held elsewhere, but the placement gives it to 'client'"):
        module.connect({name: cast(PartElsewhere, part) for name, part in parts.items()})
