"""A batch in microbatches is the same batch, and another party has all of them before it is asked for the first answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from splitlearn.boundary import BoundaryObserver
from splitlearn.naming import naming_as
from splitlearn.parties.in_process import InProcessConnection
from splitlearn.training import SplitCausalLM
from splitlearn.training.loss import SplitLoss
from splitlearn.training.part_owner import PartElsewhere
from splitlearn.training.token_window import count_supervised
from tests.training.stand_in import stand_in

ROWS, TOKENS = 5, 8


def make_module(checkpoint: Path, microbatches: int, **settings: Any) -> SplitCausalLM:
    torch.manual_seed(0)
    return SplitCausalLM(str(checkpoint), 2, 4, microbatches=microbatches, **settings)


def make_batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids_BT = torch.randint(3, 50, (ROWS, TOKENS), generator=generator)
    mask_BT = torch.ones(ROWS, TOKENS, dtype=torch.long)
    mask_BT[1, 5:] = 0
    # Rows with different numbers of supervised tokens.
    labels_BT = ids_BT.masked_fill(torch.arange(TOKENS) < torch.arange(ROWS)[:, None], -100).masked_fill(mask_BT == 0, -100)
    return {"input_ids": ids_BT, "labels": labels_BT, "attention_mask": mask_BT, "row": torch.arange(ROWS)}


def losses_of(module: SplitCausalLM, name: str = "train") -> Any:
    module.load_parts()
    return module._losses_of(make_batch(), 20, name)


@pytest.mark.parametrize("microbatches", [2, 3, 9])
@pytest.mark.parametrize("settings", [{}, {"max_logits_mib": 0.001}], ids=["whole", "in pieces"])
def test_the_loss_and_gradients_are_the_batchs(
    microbatches: int, settings: dict[str, Any], tiny_checkpoint: Callable[..., Path]
) -> None:
    whole, divided = (
        make_module(tiny_checkpoint("llama", attention_dropout=0.0), count, **settings) for count in (1, microbatches)
    )
    losses = [losses_of(module).text for module in (whole, divided)]
    torch.testing.assert_close(losses[1], losses[0])
    for loss in losses:
        loss.backward()
    gradients = [{name: weight.grad for name, weight in module.named_parameters()} for module in (whole, divided)]
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)
    counts = [module.composed.meter.totals() for module in (whole, divided)]
    assert counts[0] == counts[1]


def test_a_router_loss_is_the_mean_by_rows(tmp_path: Path) -> None:
    from tests.architectures.catalogue import tiny_model

    tiny_model("mixtral", output_router_logits=True).save_pretrained(tmp_path)
    divided = losses_of(make_module(tmp_path, 2))
    batch = make_batch()
    module = make_module(tmp_path, 1)
    module.load_parts()
    parts = [
        module._losses_of({name: value[rows] for name, value in batch.items()}, 20, "train")
        for rows in (slice(0, 3), slice(3, 5))
    ]
    routers = [cast(torch.Tensor, losses.router) for losses in parts]
    torch.testing.assert_close(divided.router, 0.6 * routers[0] + 0.4 * routers[1], rtol=1e-6, atol=0.0)
    assert abs(routers[0] - routers[1]) > 1e-5 * routers[0], "a mean of other weights would be another"


def test_validation_stays_whole(tiny_checkpoint: Callable[..., Path]) -> None:
    with torch.no_grad():
        whole, divided = (
            losses_of(make_module(tiny_checkpoint("llama", attention_dropout=0.0), count), "val").text for count in (1, 2)
        )
    assert torch.equal(whole, divided)


class Noted(InProcessConnection):
    """Notes what is posted and awaited, in order."""

    def post(self, head: Any, tensors: Any = None) -> int:
        self.order = [*getattr(self, "order", []), head.WhichOneof("body")]
        return super().post(head, tensors)

    def wait(self, number: int) -> Any:
        self.order.append("wait")
        return super().wait(number)


def test_all_are_sent_before_the_first_answer_is_awaited_and_each_goes_back_before_the_next_is(
    tiny_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.training.stand_in.InProcessConnection", Noted)
    module = make_module(tiny_checkpoint("llama"), 3)
    trunk, _ = stand_in(tiny_checkpoint("llama"), (2, 4), module.settings, module.generators)
    module.connect({"trunk": cast(PartElsewhere, trunk)})
    module.load_parts()
    connection = cast(Noted, trunk.connection)
    connection.order.clear()
    loss = module._losses_of(make_batch(), 20, "train").text
    assert connection.order == ["forward"] * 3 + ["wait", "backward"] * 3
    connection.order.clear()
    assert all(parameter.grad is None for parameter in module.parameters()), "Lightning forgets gradients only now"
    loss.backward()
    assert connection.order == ["wait"] * 3


class Noisy(BoundaryObserver):
    """Adds a term to the loss that depends on the smashed data."""

    def loss_term(self, cut: int, hidden_BTD: torch.Tensor) -> torch.Tensor | None:
        return hidden_BTD.square().mean()


@pytest.mark.parametrize("trained", [("bottom", "trunk", "top"), ("top",), ("bottom", "trunk")], ids="+".join)
@pytest.mark.parametrize("cuts", [(), (0,), (0, 1)], ids=["no term", "term at cut 1", "terms at both"])
def test_what_goes_back_early_is_what_autograd_would_send(
    trained: tuple[str, ...],
    cuts: tuple[int, ...],
    tiny_checkpoint: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gradients = []
    for is_early in (True, False):
        parts = {name: {"train": name in trained} for name in ("bottom", "trunk", "top")}
        checkpoint = tiny_checkpoint("llama", attention_dropout=0.0, tie_word_embeddings=False)
        module = make_module(checkpoint, 3, optimizer={"parts": parts})
        module.load_parts()
        for cut in cuts:
            module.composed.boundaries[cut].observers.append(Noisy())
        if not is_early:
            monkeypatch.setattr(SplitLoss, "goes_back_early", lambda *args: False)
        losses = losses_of(module)
        # As in a training step, each term counts as its tokens do.
        share = count_supervised(make_batch()["labels"]) / 20
        loss = losses.text if losses.boundary is None else losses.text + losses.boundary * share
        assert is_early == (type(losses.text.grad_fn).__name__ == "_GoOnBackward")
        loss.backward()
        gradients.append({name: weight.grad for name, weight in module.named_parameters() if weight.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and gradients[0]
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], msg=name)


def test_a_loss_whose_gradients_were_sent_is_not_scaled(tiny_checkpoint: Callable[..., Path]) -> None:
    module = make_module(tiny_checkpoint("llama"), 3)
    with pytest.raises(RuntimeError, match="is to count 2 times, but their gradients were sent when it was made"):
        (2 * losses_of(module).text).backward()


def test_none_is_refused(tmp_path: Path) -> None:
    with (
        naming_as({"microbatches": "placement.microbatches"}),
        pytest.raises(ValueError, match=r"^placement\.microbatches is 0; use 1"),
    ):
        make_module(tmp_path, 0)
