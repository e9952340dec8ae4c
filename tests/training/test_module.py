"""Training the parts with Lightning takes the steps that the unsplit model takes."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM

from splitlearn.checkpoint import CheckpointError
from splitlearn.cut import Placement
from splitlearn.loading import ModelRequest
from splitlearn.training import SplitCausalLM, SplitPrecision, SplitStrategy, count_supervised
from tests.architectures.catalogue import tiny_model
from tests.loading.test_untie import unsplit_untied
from tests.tiny_models import token_ids

CPU = dict.fromkeys(("bottom", "trunk", "top"), "cpu")
OPTIMIZER = {"learning_rate": 1e-3, "weight_decay": 0.01, "schedule": "linear", "warmup_fraction": 0.4}


def batches(rows_each: list[int]) -> list[dict[str, torch.Tensor]]:
    """Return left-padded batches with unsupervised prompts of different lengths."""
    made = []
    for seed, rows in enumerate(rows_each):
        ids = token_ids(rows, 11, seed)
        mask, labels = torch.ones_like(ids), ids.clone()
        mask[0, : seed + 1] = 0
        labels[0, : seed + 1] = -100
        labels[:, : seed % 3] = -100
        made.append({"input_ids": ids, "attention_mask": mask, "labels": labels})
    return made


class SeedEachBatch(Callback):
    """Gives every batch the dropout that the unsplit model's has, whatever else draws random numbers between.

    The parts draw from torch's default generator, as the unsplit model does, and not each from its own.
    """

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        pl_module.composed.generators = None
        torch.manual_seed(batch_idx)


def trainer(folder: Path, **settings: Any) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    strategy = SplitStrategy(CPU, precision_plugin=SplitPrecision(settings.pop("precision", "32-true"), CPU))
    return Trainer(accelerator="cpu", strategy=strategy, default_root_dir=folder, **{**quiet, "max_epochs": 1, **settings})


def loader(rows: list[dict[str, torch.Tensor]]) -> DataLoader[dict[str, torch.Tensor]]:
    return DataLoader(rows, batch_size=None)  # type: ignore[arg-type]


def fit(module: SplitCausalLM, data: list[dict[str, torch.Tensor]], folder: Path, **settings: Any) -> Trainer:
    made = trainer(folder, callbacks=[SeedEachBatch()], **settings)
    made.fit(module, loader(data))
    return made


def trained_parameters(module: SplitCausalLM) -> dict[str, torch.Tensor]:
    return {
        part.blueprint.global_name(name, part.spec): parameter
        for part in module.parts
        for name, parameter in part.model.named_parameters(remove_duplicate=False)
    }


def train_unsplit(folder: Path, data: list[dict[str, torch.Tensor]], clip: float, untie: bool = False) -> Any:
    """Train the whole model with torch alone."""
    whole = (unsplit_untied(folder) if untie else AutoModelForCausalLM.from_pretrained(folder)).train()
    matrices = [parameter for parameter in whole.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in whole.parameters() if parameter.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    steps, warmup = len(data), round(0.4 * len(data))
    rates = [step / warmup if step < warmup else (steps - step) / (steps - warmup) for step in range(steps)]
    for index, (batch, rate) in enumerate(zip(data, rates, strict=True)):
        torch.manual_seed(index)
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * rate
        count = count_supervised(batch["labels"])
        whole(**batch, use_cache=False, num_items_in_batch=count).loss.backward()
        torch.nn.utils.clip_grad_norm_(whole.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad()
    return whole


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [
        ("gpt2", {"tie_word_embeddings": True}),
        ("qwen2", {"tie_word_embeddings": True}),
        ("llama", {"tie_word_embeddings": False}),
        ("mixtral", {"tie_word_embeddings": False}),
        ("mixtral", {"tie_word_embeddings": False, "output_router_logits": True, "router_aux_loss_coef": 1.0}),
    ],
)
def test_five_steps_equal_the_unsplit_models(
    model_type: str, changes: dict[str, Any], tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tiny_checkpoint(model_type, **changes)
    data = batches([3, 2, 4, 3, 2])
    whole = train_unsplit(folder, data, clip=1e9)
    module = SplitCausalLM(str(folder), 2, 4, optimizer=OPTIMIZER)
    fit(module, data, tmp_path)
    before = dict(AutoModelForCausalLM.from_pretrained(folder).named_parameters())
    parameters = trained_parameters(module)
    for name, expected in whole.named_parameters():
        assert float((expected - parameters[name]).detach().abs().max()) == 0.0, name
        assert not torch.equal(expected, before[name]), f"{name} was not trained"


PARTIES = {
    "u_shaped": {"client": ["bottom", "top"], "server": ["trunk"]},
    "vanilla": {"client": ["bottom"], "server": ["trunk", "top"]},
    "linear": {"client": ["bottom"], "middle": ["trunk"], "last": ["top"]},
}


def place(name: str) -> Placement:
    parties = {party: {"parts": parts} for party, parts in PARTIES[name].items()}
    labels = next(party for party, parts in PARTIES[name].items() if "top" in parts)
    return Placement.resolve(parties, "client", labels, num_gpus=0)


@pytest.mark.parametrize(("model_type", "placement"), [("gpt2", None), ("qwen2", "vanilla"), ("gemma2", "linear")])
def test_an_untied_head_is_trained_as_the_unsplit_models(
    model_type: str, placement: str | None, tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tiny_checkpoint(model_type, tie_word_embeddings=True)
    data = batches([3, 2, 4, 3, 2])
    whole = train_unsplit(folder, data, clip=1e9, untie=True)
    placed = None if placement is None else place(placement)
    module = SplitCausalLM(str(folder), 2, 4, optimizer=OPTIMIZER, untie=True, placement=placed)
    fit(module, data, tmp_path)
    parameters = trained_parameters(module)
    for name, expected in whole.named_parameters():
        assert float((expected - parameters[name]).detach().abs().max()) == 0.0, name
    assert not torch.equal(whole.get_input_embeddings().weight, whole.get_output_embeddings().weight)


@pytest.mark.parametrize("placement", ["vanilla", "linear"])
def test_a_tie_between_two_parties_is_not_trained(placement: str, tiny_checkpoint: Callable[..., Path]) -> None:
    folder = str(tiny_checkpoint("qwen2", tie_word_embeddings=True))
    module = SplitCausalLM(folder, 2, 4, optimizer=OPTIMIZER, placement=place(placement))
    message = r"lm_head.weight is tied to model.embed_tokens.weight, but with the bottom with 'client' and .*set untie=true"
    with pytest.raises(ValueError, match=message):
        module.load_parts()
    assert not module.tracker.snapshots, "nothing was read"
    frozen = {"parts": {name: {"train": False} for name in ("bottom", "top")}}
    for settings in ({"optimizer": frozen}, {"peft": {"method": "lora"}}, {"untie": True}):
        SplitCausalLM(folder, 2, 4, placement=place(placement), **settings).load_parts()
    SplitCausalLM(folder, 2, 4, optimizer=OPTIMIZER, placement=place("u_shaped")).load_parts()
    with pytest.raises(ValueError, match="device is 'cuda', but the placement says where parts go"):
        SplitCausalLM(folder, 2, 4, device="cuda", placement=place(placement))
    # Without a tie there is nothing that two parties would share.
    untied = str(tiny_checkpoint("qwen2", tie_word_embeddings=False))
    SplitCausalLM(untied, 2, 4, optimizer=OPTIMIZER, placement=place(placement)).load_parts()


def test_one_end_of_an_untied_pair_is_trained_alone(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    folder = tiny_checkpoint("qwen2", tie_word_embeddings=True)
    module = SplitCausalLM(str(folder), 2, 4, optimizer={**OPTIMIZER, "parts": {"top": {"train": False}}}, untie=True)
    fit(module, batches([2, 2]), tmp_path)
    before: Any = AutoModelForCausalLM.from_pretrained(folder).get_input_embeddings().weight
    parameters = trained_parameters(module)
    assert torch.equal(parameters["lm_head.weight"], before)
    assert not torch.equal(parameters["model.embed_tokens.weight"], before)


def test_clipping_is_over_all_parts(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    folder = tiny_checkpoint("qwen2", tie_word_embeddings=True)
    data = batches([3, 2, 4, 3, 2])
    whole = train_unsplit(folder, data, clip=0.05)
    module = SplitCausalLM(str(folder), 2, 4, optimizer=OPTIMIZER)
    fit(module, data, tmp_path, gradient_clip_val=0.05)
    parameters = trained_parameters(module)
    # The norm is summed over the parameters in another order than the unsplit model's.
    for name, expected in whole.named_parameters():
        torch.testing.assert_close(parameters[name], expected, atol=1e-6, rtol=0)


def test_accumulated_small_batches_equal_the_large_one(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    folder = tiny_checkpoint("llama", tie_word_embeddings=False, attention_dropout=0.0)
    small = batches([3, 1, 2])
    large = {name: torch.cat([batch[name] for batch in small]) for name in small[0]}
    results = []
    for data, accumulate in ((small, 3), ([large], 1)):
        module = SplitCausalLM(str(folder), 2, 4, optimizer={"learning_rate": 1e-2, "schedule": "constant_with_warmup"})
        gradients: dict[str, torch.Tensor] = {}
        original = module.configure_gradient_clipping

        def keep(*args: Any, module: SplitCausalLM = module, kept: dict[str, torch.Tensor] = gradients, **kwargs: Any) -> None:
            gradients_now = {name: parameter.grad for name, parameter in module.named_parameters()}
            kept.update({name: gradient.clone() for name, gradient in gradients_now.items() if gradient is not None})

        module.configure_gradient_clipping = keep  # type: ignore[method-assign]
        assert original is not None
        fit(module, data, tmp_path, accumulate_grad_batches=accumulate)
        results.append(gradients)
    assert len({count_supervised(batch["labels"]) for batch in small}) == 3, "unequal counts are the point"
    for name in results[0]:
        torch.testing.assert_close(results[0][name], results[1][name], atol=1e-6, rtol=0)


def test_accumulated_router_losses_count_by_their_tokens(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    changes = {"output_router_logits": True, "router_aux_loss_coef": 1.0, "attention_dropout": 0.0}
    folder = tiny_checkpoint("mixtral", tie_word_embeddings=False, **changes)
    data = batches([3, 1])
    counts = [count_supervised(batch["labels"]) for batch in data]
    whole = AutoModelForCausalLM.from_pretrained(folder).train()
    for batch, count in zip(data, counts, strict=True):
        # Divided by its own tokens, the text's loss weighs as the router loss does.
        whole(**batch, use_cache=False).loss.mul(count / sum(counts)).backward()
    module = SplitCausalLM(str(folder), 2, 4)
    gradients: dict[str, torch.Tensor] = {}

    def keep(*args: Any, **kwargs: Any) -> None:
        parameters = trained_parameters(module)
        gradients.update({name: each.grad.clone() for name, each in parameters.items() if each.grad is not None})

    module.configure_gradient_clipping = keep  # type: ignore[method-assign]
    fit(module, data, tmp_path, accumulate_grad_batches=2)
    for name, parameter in whole.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-5, rtol=1e-4)


def test_gradients_are_gone_once_the_step_is_taken(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    held: list[bool] = []

    class Look(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
            held.append(any(parameter.grad is not None for parameter in pl_module.parameters()))

    module = SplitCausalLM(str(tiny_checkpoint("llama")), 2, 4)
    trainer(tmp_path, accumulate_grad_batches=2, callbacks=[Look()]).fit(module, loader(batches([2, 2, 2, 2])))
    assert held == [True, False, True, False]


def test_a_frozen_trunk_keeps_no_gradient_and_no_state(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    folder = tiny_checkpoint("llama")
    module = SplitCausalLM(str(folder), 2, 4, optimizer={**OPTIMIZER, "parts": {"trunk": {"train": False}}})
    made = fit(module, batches([2, 2]), tmp_path)
    before = dict(AutoModelForCausalLM.from_pretrained(folder).named_parameters())
    trunk = set(module.parts[1].parameters())
    assert trunk and all(parameter.grad is None for parameter in trunk)
    assert not trunk & set(made.optimizers[0].state)
    for name, parameter in trained_parameters(module).items():
        assert torch.equal(parameter, before[name]) == (parameter in trunk), name


def test_a_tie_over_two_devices_learns_as_one_tensor(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two tensors that are kept equal must follow the shared one, through clipping and steps."""
    folder = tiny_checkpoint("qwen2", tie_word_embeddings=True)
    data = batches([3, 2, 4])
    shared = SplitCausalLM(str(folder), 2, 4, optimizer=OPTIMIZER)
    fit(shared, data, tmp_path, gradient_clip_val=0.5)
    # There is one kind of device here, so sharing is refused as it would be between two.
    monkeypatch.setattr("splitlearn.loading.load_model.tie_parts", lambda parts, devices: None)
    apart = SplitCausalLM(str(folder), 2, 4, optimizer=OPTIMIZER)
    apart.load_parts()
    assert apart.parts[0].model.model.embed_tokens.weight is not apart.parts[2].model.lm_head.weight
    apart.parts[2].model.lm_head.weight.data = apart.parts[2].model.lm_head.weight.data.clone()
    fit(apart, data, tmp_path, gradient_clip_val=0.5)
    embedding, head = apart.parts[0].model.model.embed_tokens.weight, apart.parts[2].model.lm_head.weight
    assert torch.equal(embedding, head)
    for name, expected in trained_parameters(shared).items():
        torch.testing.assert_close(trained_parameters(apart)[name], expected, atol=1e-6, rtol=0)


def test_float16_weights_are_not_trained(tiny_checkpoint: Callable[..., Path]) -> None:
    module = SplitCausalLM(str(tiny_checkpoint("llama")), 2, 4, dtype="float16")
    with pytest.raises(ValueError, match=r"set dtype=bfloat16 or float32"):
        module.load_parts()


def test_half_a_tie_cannot_be_frozen(tiny_checkpoint: Callable[..., Path]) -> None:
    folder = tiny_checkpoint("qwen2", tie_word_embeddings=True)
    for part in ("bottom", "top"):
        module = SplitCausalLM(str(folder), 2, 4, optimizer={"parts": {part: {"train": False}}})
        with pytest.raises(ValueError, match="tied to its embedding"):
            module.load_parts()
    both = SplitCausalLM(str(folder), 2, 4, optimizer={"parts": {"bottom": {"train": False}, "top": {"train": False}}})
    both.load_parts()


def test_parts_are_loaded_once(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    module = SplitCausalLM(str(tiny_checkpoint("llama")), 2, 4)
    with pytest.raises(RuntimeError, match="not loaded yet"):
        _ = module.parts
    made = trainer(tmp_path)
    made.validate(module, loader(batches([2])), verbose=False)
    parts = module.parts
    made.fit(module, loader(batches([2])))
    assert module.parts == parts
    assert [each.label for each in module.tracker.snapshots].count("bottom loaded") == 1


def test_metrics(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    folder = tiny_checkpoint("llama")
    data = batches([3, 1, 2])
    metrics = trainer(tmp_path).validate(SplitCausalLM(str(folder), 2, 4), loader(data), verbose=False)[0]
    whole = AutoModelForCausalLM.from_pretrained(folder).eval()
    counts = [count_supervised(batch["labels"]) for batch in data]
    with torch.no_grad():
        losses = [float(whole(**batch).loss) for batch in data]
    expected = sum(loss * count for loss, count in zip(losses, counts, strict=True)) / sum(counts)
    assert metrics["val_loss"] == pytest.approx(expected, rel=1e-5), "a mean over tokens, not over batches"
    assert metrics["val_perplexity"] == pytest.approx(math.exp(expected), rel=1e-4)
    module = SplitCausalLM(str(folder), 2, 4, optimizer=OPTIMIZER)
    made = fit(module, data, tmp_path)
    assert made.callback_metrics["train_perplexity"] == pytest.approx(
        math.exp(made.callback_metrics["train_loss_epoch"]), rel=1e-4
    )


def test_the_training_loss_of_an_epoch_is_a_mean_over_tokens(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    folder = tiny_checkpoint("llama", attention_dropout=0.0)
    data = batches([3, 1, 2])
    # Without steps every batch meets the same weights.
    made = fit(SplitCausalLM(str(folder), 2, 4, optimizer={"learning_rate": 0.0}), data, tmp_path)
    counts = [count_supervised(batch["labels"]) for batch in data]
    whole = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        summed = sum(float(whole(**batch).loss) * count for batch, count in zip(data, counts, strict=True))
    assert float(made.callback_metrics["train_loss_epoch"]) == pytest.approx(summed / sum(counts), rel=1e-6)


def test_a_batch_without_supervised_tokens_changes_nothing(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    batch = batches([2])[0]
    batch["labels"] = torch.full_like(batch["labels"], -100)
    module = SplitCausalLM(str(tiny_checkpoint("llama")), 2, 4, optimizer={"weight_decay": 0.0})
    fit(module, [batch], tmp_path)
    before = dict(AutoModelForCausalLM.from_pretrained(tiny_checkpoint("llama")).named_parameters())
    assert all(torch.equal(parameter, before[name]) for name, parameter in trained_parameters(module).items())


def test_mixed_precision_trains(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    folder = tiny_checkpoint("llama")
    whole = AutoModelForCausalLM.from_pretrained(folder).eval()
    batch = batches([3])[0]
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        expected = float(whole(**batch).loss)
    module = SplitCausalLM(str(folder), 2, 4)
    made = trainer(tmp_path, precision="bf16-mixed")
    metrics = made.validate(module, loader([batch]), verbose=False)[0]
    assert metrics["val_loss"] == pytest.approx(expected, rel=1e-3)
    assert metrics["val_loss"] != pytest.approx(float(whole(**batch).loss.detach()), rel=1e-7)
    fit(module, [batch], tmp_path, precision="bf16-mixed")
    assert {part.dtype for part in module.parts} == {torch.float32}


def test_other_precisions_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^precision is '16-mixed'; use one of 32-true, bf16-mixed, bf16-true"):
        SplitPrecision("16-mixed", CPU)


class TestCheckpoints:
    @pytest.fixture
    def saved(self, tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> tuple[SplitCausalLM, Path]:
        optimizer = {**OPTIMIZER, "parts": {"trunk": {"train": False}}}
        module = SplitCausalLM(str(tiny_checkpoint("llama")), 2, 4, optimizer=optimizer)
        made = fit(module, batches([2, 2]), tmp_path)
        made.save_checkpoint(tmp_path / "last.ckpt")
        return module, tmp_path / "last.ckpt"

    def test_they_hold_only_what_was_trained_and_no_code(self, saved: tuple[SplitCausalLM, Path]) -> None:
        _, path = saved
        content = torch.load(path, weights_only=True)
        assert content["state_dict"] and not any(name.startswith("model.layers.2.") for name in content["state_dict"])
        assert content["hyper_parameters"]["split_point_2"] == 4

    def test_they_restore_module_and_optimizer(self, saved: tuple[SplitCausalLM, Path], tmp_path: Path) -> None:
        module, path = saved
        restored = SplitCausalLM.load_from_checkpoint(path, weights_only=True)
        expected = trained_parameters(module)
        assert all(torch.equal(value, expected[name]) for name, value in trained_parameters(restored).items())
        again = trainer(tmp_path, max_epochs=2)
        again.fit(restored, loader(batches([2, 2])), ckpt_path=path, weights_only=True)
        assert again.global_step == 4

    def test_one_of_another_cut_is_refused(self, saved: tuple[SplitCausalLM, Path], tmp_path: Path) -> None:
        module, path = saved
        other = SplitCausalLM(module.hparams["model_name_or_path"], 1, 4)
        with pytest.raises(CheckpointError, match="saved with split_point_1=2, this run has 1"):
            trainer(tmp_path).fit(other, loader(batches([2])), ckpt_path=path, weights_only=True)

    def test_one_that_lacks_trained_tensors_is_refused(self, saved: tuple[SplitCausalLM, Path], tmp_path: Path) -> None:
        module, path = saved
        other = SplitCausalLM(module.hparams["model_name_or_path"], 2, 4)
        with pytest.raises(CheckpointError, match=r"lacks trained tensors: model\.layers\.2"):
            trainer(tmp_path).fit(other, loader(batches([2])), ckpt_path=path, weights_only=True)


@pytest.mark.parametrize("architecture", ["mixtral", "jetmoe", "qwen3_moe"])
def test_the_router_loss_of_a_mixture_of_experts_is_that_of_the_unsplit_model(architecture: str, tmp_path: Path) -> None:
    folder = tmp_path
    tiny_model(architecture, output_router_logits=True).save_pretrained(folder)
    module = SplitCausalLM(str(folder), 2, 4)
    module.load_parts()
    module.composed.eval()
    ids = token_ids()
    whole = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        # Some releases of JetMoe do not look into their configuration for it.
        expected = whole(ids, labels=ids, use_cache=False, output_router_logits=True)
        losses = module._losses_of({"input_ids": ids, "labels": ids}, count_supervised(ids), "val")
    assert losses.router is not None
    assert float(expected.aux_loss) > 0
    assert float(losses.text + losses.router) == float(expected.loss)


def test_a_module_of_an_opened_model_asks_for_that_model(tiny_checkpoint: Callable[..., Path]) -> None:
    folder = str(tiny_checkpoint("llama", tie_word_embeddings=True))
    request = ModelRequest(folder, 2, 4, "llama", dtype=torch.bfloat16, unexpected_tensors="refuse", untie=True)
    opened = request.open()
    module = SplitCausalLM.from_opened(opened, verbose=False)
    assert module._request == request
    assert module.hparams["dtype"] == "bfloat16" and module.hparams["untie"]
    cut = opened.revise(split_point_1=1)
    assert SplitCausalLM.from_opened(cut)._request.split_point_1 == 1
