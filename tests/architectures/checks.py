"""What "the same model" means: each check gives the largest difference between the unsplit model and its parts.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from splitlearn.loading import ModelFactory, ModelRequest, save_parts
from splitlearn.model import ComposedCausalLM
from splitlearn.verification import changed_after_loading
from tests.architectures.catalogue import VOCAB_SIZE
from tests.tiny_models import recompute_activations

MAIN_CUT = (2, 4)
# Parts of one layer, no trunk, and nothing but the embedding or the head on the data owner's side.
OTHER_CUTS = ((1, 5), (3, 3), (0, 6))


@dataclass
class Comparison:
    """The unsplit model and its parts, loaded from one checkpoint.

    Attributes:
        whole: the model that transformers loads.
        split: the parts.
        folder: the checkpoint.
    """

    whole: Any
    split: ComposedCausalLM
    folder: Path

    @classmethod
    def load(cls, folder: Path, cut: tuple[int, int] = MAIN_CUT, dtype: torch.dtype | None = None) -> Comparison:
        """Load both from a checkpoint folder."""
        whole = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype or torch.float32).eval()
        parts = ModelFactory.create_split_models(None, folder, *cut, low_memory=True, dtype=dtype)
        return cls(whole, ComposedCausalLM(*parts), folder)


def token_ids(rows: int = 3, tokens: int = 11) -> torch.Tensor:
    """Return random token ids without the special ones."""
    return torch.randint(3, VOCAB_SIZE, (rows, tokens), generator=torch.Generator().manual_seed(5))


def padded(side: str) -> torch.Tensor:
    """Return a mask (3, 11) with rows padded by 4, 1 and 0 tokens on one side."""
    mask = torch.ones(3, 11, dtype=torch.long)
    for row, count in enumerate((4, 1)):
        mask[row, slice(0, count) if side == "left" else slice(-count, None)] = 0
    return mask


def difference(left: torch.Tensor | None, right: torch.Tensor | None) -> float:
    """Return the largest absolute difference; infinite if only one is there or the shapes differ."""
    if left is None or right is None:
        return 0.0 if left is right else float("inf")
    if left.shape != right.shape:
        return float("inf")
    both_nan = left.isnan() & right.isnan() if left.is_floating_point() else torch.zeros((), dtype=torch.bool)
    gap = (left.detach().float() - right.detach().float()).abs().masked_fill(both_nan, 0.0)
    return float(gap.nan_to_num(nan=float("inf")).max()) if gap.numel() else 0.0


def _logits(pair: Comparison, **arguments: Any) -> float:
    ids = token_ids()
    with torch.no_grad():
        expected = pair.whole(ids, use_cache=False, **arguments).logits
        return difference(expected, pair.split(ids, **arguments).logits)


def logits(pair: Comparison) -> float:
    """Logits without padding."""
    return _logits(pair)


def left_padding(pair: Comparison) -> float:
    """Logits of rows padded on the left."""
    return _logits(pair, attention_mask=padded("left"))


def right_padding(pair: Comparison) -> float:
    """Logits of rows padded on the right."""
    return _logits(pair, attention_mask=padded("right"))


def packed(pair: Comparison) -> float:
    """Logits of two documents in each row, told apart by their position ids alone."""
    positions = torch.cat([torch.arange(6), torch.arange(5)]).expand(3, 11)
    if "position_ids" not in pair.split.bottom._accepted:
        return _logits(pair)
    return _logits(pair, position_ids=positions)


def _gradients(pair: Comparison) -> dict[str, torch.Tensor | None]:
    found: dict[str, torch.Tensor | None] = {}
    for part in pair.split.parts:
        for name, parameter in part.model.named_parameters():
            found.setdefault(part.blueprint.global_name(name, part.spec), parameter.grad)
    return found


def gradients(pair: Comparison) -> float:
    """The loss and every parameter's gradient in training mode, dropout on, from the same seed, with left padding."""
    ids, mask = token_ids(), padded("left")
    losses = []
    for model in (pair.whole.train(), pair.split.train()):
        model.zero_grad(set_to_none=True)
        torch.manual_seed(3)
        extra = {"use_cache": False} if model is pair.whole else {}
        loss = model(ids, attention_mask=mask, labels=ids, **extra).loss
        loss.backward()
        losses.append(loss)
    found = _gradients(pair)
    gaps = [difference(parameter.grad, found[name]) for name, parameter in pair.whole.named_parameters()]
    largest = max(float(parameter.grad.abs().max()) for parameter in pair.whole.parameters() if parameter.grad is not None)
    for model in (pair.whole.eval(), pair.split.eval()):
        model.zero_grad(set_to_none=True)
    # Gradients that are all zero would compare equal too.
    return max(difference(*losses), *gaps) if largest > 1e-6 else float("inf")


def checkpointed_gradients(pair: Comparison) -> float:
    """The same with activations recomputed in the backward pass."""
    models = [pair.whole, *(part.model for part in pair.split.parts)]
    try:
        recompute_activations(pair.whole)
    except ValueError:
        return 0.0
    for model in models[1:]:
        recompute_activations(model)
    try:
        return gradients(pair)
    finally:
        for model in models:
            recompute_activations(model, on=False)


def steps(pair: Comparison) -> float:
    """Every parameter after five steps of AdamW."""
    pair = Comparison.load(pair.folder)
    ids, mask = token_ids(), padded("right")
    for model in (pair.whole.train(), pair.split.train()):
        trained = {id(parameter): parameter for parameter in model.parameters() if parameter.requires_grad}
        optimizer = torch.optim.AdamW(trained.values(), lr=1e-3)
        torch.manual_seed(4)
        for _ in range(5):
            extra = {"use_cache": False} if model is pair.whole else {}
            model(ids, attention_mask=mask, labels=ids, **extra).loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    expected = dict(pair.whole.named_parameters())
    held: dict[str, torch.Tensor] = {}
    for part in pair.split.parts:
        for name, parameter in part.model.named_parameters():
            held.setdefault(part.blueprint.global_name(name, part.spec), parameter)
    return max(difference(parameter, held.get(name)) for name, parameter in expected.items())


def _generation(pair: Comparison, **settings: Any) -> float:
    common = {"attention_mask": padded("left"), "max_new_tokens": 7, "eos_token_id": None, "pad_token_id": 0}
    if not pair.whole._supports_default_dynamic_cache():
        common["use_cache"] = False
    with torch.no_grad():
        torch.manual_seed(6)
        expected = pair.whole.generate(token_ids(), **common, **settings)
        torch.manual_seed(6)
        return difference(expected, pair.split.generate(token_ids(), **common, **settings))


def greedy(pair: Comparison) -> float:
    """Seven tokens of greedy generation from left-padded prompts, each part with its own cache."""
    return _generation(pair, do_sample=False)


def beams(pair: Comparison) -> float:
    """The same with beams."""
    return _generation(pair, do_sample=False, num_beams=3)


def sampled(pair: Comparison) -> float:
    """The same with sampling from the same seed."""
    return _generation(pair, do_sample=True, temperature=0.9, top_k=20)


def bfloat16(pair: Comparison) -> float:
    """Logits of the model in bfloat16, with left padding, read from a checkpoint in float32 and from one in bfloat16.

    There is nothing to compare if the unsplit model cannot run in it.
    """
    narrow = Comparison.load(pair.folder, dtype=torch.bfloat16)
    try:
        narrow.whole(token_ids(), use_cache=False)
    except RuntimeError:
        return 0.0
    with tempfile.TemporaryDirectory() as folder:
        narrow.whole.save_pretrained(folder)
        stored = Comparison.load(Path(folder), dtype=torch.bfloat16)
        return max(left_padding(narrow), left_padding(stored))


def router_loss(pair: Comparison) -> float:
    """Loss and router loss of a mixture of experts over the routers of all parts; nothing to compare without routers."""
    if not hasattr(pair.whole.config.get_text_config(decoder=True), "output_router_logits"):
        return 0.0
    ids, mask = token_ids(), padded("left")
    arguments = {"attention_mask": mask, "labels": ids, "output_router_logits": True}
    with torch.no_grad():
        try:
            expected = pair.whole(ids, use_cache=False, **arguments)
        except AttributeError:
            # Some architectures of older transformers do not record what their routers returned.
            return 0.0
        found = pair.split(ids, **arguments)
    if expected.get("aux_loss") is None:
        return difference(expected.loss, found.loss)
    return max(difference(expected.loss, found.loss), difference(expected.aux_loss, found.aux_loss))


def _placed_alike(model: ComposedCausalLM) -> ComposedCausalLM:
    """Copy a model's tensors: some products round by where a mapped tensor begins in memory."""
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()
    return model


def saved_parts(pair: Comparison) -> float:
    """Every tensor and the logits of the parts after they were saved and read again; as many parameters as before."""
    with tempfile.TemporaryDirectory() as folder:
        save_parts(pair.split.parts, folder)
        found = ModelFactory.load_saved_parts(folder)
    expected = Comparison.load(pair.folder).split
    if sum(each.numel() for each in expected.parameters()) != sum(each.numel() for each in found.parameters()):
        return float("inf")
    gaps = []
    for one, other in zip(expected.parts, found.parts, strict=True):
        tensors = one.named_tensors()
        gaps += [difference(tensors.get(name), tensor) for name, tensor in other.named_tensors().items()]
    ids = token_ids()
    with torch.no_grad():
        gaps.append(difference(_placed_alike(expected)(ids).logits, _placed_alike(found)(ids).logits))
    return max(gaps)


def recorded_outputs(pair: Comparison) -> float:
    """Hidden states and attentions of all layers; nothing to compare where the parts refuse them."""
    gaps = [0.0]
    for output in ("hidden_states", "attentions"):
        arguments = {f"output_{output}": True}
        with torch.no_grad():
            expected = pair.whole(token_ids(), use_cache=False, **arguments).get(output)
            try:
                found = pair.split(token_ids(), **arguments).get(output)
            except ValueError:
                continue
        pairs = itertools.zip_longest(expected or (), found or ())
        gaps += [difference(one, other) for one, other in pairs]
    return max(gaps)


def changes_after_loading(pair: Comparison) -> list[str]:
    """Return the tensors that transformers changes after it has loaded them from the checkpoint."""
    return sorted(changed_after_loading(pair.whole, ModelRequest(pair.folder).open().loader))


Check = Callable[[Comparison], float]
# The order of the table's columns.
CHECKS: dict[str, Check] = {
    "logits": logits,
    "left padding": left_padding,
    "right padding": right_padding,
    "packed": packed,
    "gradients": gradients,
    "recomputed": checkpointed_gradients,
    "5 steps": steps,
    "greedy": greedy,
    "beams": beams,
    "sampled": sampled,
    "bf16": bfloat16,
    "router loss": router_loss,
    "saved parts": saved_parts,
    "recorded outputs": recorded_outputs,
}
AT_OTHER_CUTS = ("left padding", "gradients", "greedy")
