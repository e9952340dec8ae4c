"""Comparing the parts with the unsplit model, both loaded.

Where weights keep their dtype both are mapped from the same files. The unsplit model's gradients take memory of their own; each
is freed as soon as its counterpart has been compared.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from splitlearn.loading import OpenedModel, PartLoader
from splitlearn.model import ComposedCausalLM
from splitlearn.silence import silent_transformers
from splitlearn.verification.after_loading import changed_after_loading
from splitlearn.verification.inputs import draw_ids, padded
from splitlearn.verification.outcome import Outcome, compare_tensors, largest_difference


def verify_whole(
    opened: OpenedModel,
    *,
    device: str = "cpu",
    num_rows: int = 2,
    num_tokens: int = 32,
    num_new_tokens: int = 8,
    gradients: bool = True,
    seed: int = 0,
) -> list[Outcome]:
    """Compare logits, loss, gradients and generation of the unsplit model and its parts.

    Args:
        opened: the model, cut and not quantized.
        device: where both run.
        num_rows: rows of random token ids.
        num_tokens: tokens of each row.
        num_new_tokens: tokens to generate; 0 leaves that out.
        gradients: whether to compare the loss and all gradients in training mode.
        seed: seeds the token ids and dropout.

    Returns:
        One outcome for each comparison, after a remark for each tensor that transformers changes after loading it.

    Raises:
        ValueError: the model, the cut or the checkpoint cannot be used.
        FileNotFoundError: the checkpoint is not there.
    """
    ids_BT = draw_ids(opened.config, num_rows, num_tokens, seed, num_new_tokens)
    loaded = opened.load(device)
    split = ComposedCausalLM(loaded["bottom"], loaded["trunk"], loaded["top"])
    whole, ids_BT = _load_unsplit(opened.loader).to(device).eval(), ids_BT.to(device)
    outcomes = _remark_changes(whole, opened.loader)
    outcomes += [_compare_logits(whole, split, ids_BT, side) for side in ("no", "left", "right")]
    if gradients:
        outcomes += _compare_gradients(whole, split, ids_BT, seed)
    if num_new_tokens:
        outcomes.append(_compare_generation(whole, split, ids_BT, num_new_tokens))
    return outcomes


def _load_unsplit(loader: PartLoader) -> Any:
    """Return the unsplit model; an untied tensor that is not stored is a copy of its other end."""
    # Pass the untied configuration: transformers would tie the tensors again from that of the checkpoint.
    config = {"config": copy.deepcopy(loader.blueprint.config)} if loader.blueprint.untied else {}
    with silent_transformers():
        whole: Any = AutoModelForCausalLM.from_pretrained(
            loader.source.name,
            dtype=loader.blueprint.dtype,
            trust_remote_code=False,
            revision=loader.source.commit or "main",
            **config,
        )
    with torch.no_grad():
        for name, other in loader.copied.items():
            whole.get_parameter(name).copy_(whole.get_parameter(other))
    return whole


def _remark_changes(whole: Any, loader: PartLoader) -> list[Outcome]:
    tensors = whole.state_dict()
    return [
        Outcome(f"{name}: file and loaded, for transformers changes it after loading", tensors[name].numel(), difference, True)
        for name, difference in changed_after_loading(whole, loader).items()
    ]


def _compare_logits(whole: Any, split: ComposedCausalLM, ids_BT: torch.Tensor, side: str) -> Outcome:
    mask_BT = padded(ids_BT, side)
    with torch.no_grad():
        expected = whole(ids_BT, attention_mask=mask_BT, use_cache=False).logits
        return compare_tensors(f"logits, {side} padding", expected, split(ids_BT, attention_mask=mask_BT).logits)


def _compare_gradients(whole: Any, split: ComposedCausalLM, ids_BT: torch.Tensor, seed: int) -> list[Outcome]:
    mask_BT = padded(ids_BT, "left")
    labels_BT = ids_BT.masked_fill(mask_BT == 0, -100)
    torch.manual_seed(seed)
    expected = whole.train()(ids_BT, attention_mask=mask_BT, labels=labels_BT, use_cache=False).loss
    expected.backward()
    awaited = {name: parameter for name, parameter in whole.named_parameters() if parameter.grad is not None}
    largest, compared = 0.0, 0

    def settle(name: str, parameter: torch.nn.Parameter) -> None:
        nonlocal largest, compared
        counterpart = awaited.pop(name, None)
        if counterpart is None or counterpart.grad is None or parameter.grad is None:
            largest = float("inf")
        else:
            largest = max(largest, largest_difference(counterpart.grad, parameter.grad))
            compared += parameter.numel()
            counterpart.grad = None
        parameter.grad = None

    # Compare each gradient as soon as it is complete and free both, so that the parts' gradients never exist all at once.
    hooks = [parameter.register_post_accumulate_grad_hook(hook) for parameter, hook in _with_names(split, settle)]
    torch.manual_seed(seed)
    loss = split.train()(ids_BT, attention_mask=mask_BT, labels=labels_BT).loss
    loss.backward()
    for hook in hooks:
        hook.remove()
    whole.zero_grad(set_to_none=True)
    whole.eval()
    split.eval()
    # A gradient that the parts did not compute is a difference too.
    difference = float("inf") if awaited else largest
    return [compare_tensors("training loss, left padding", expected, loss), Outcome("all gradients", compared, difference)]


def _with_names(split: ComposedCausalLM, call: Callable[[str, torch.nn.Parameter], None]) -> list[Any]:
    """Pair every parameter, a shared one once, with a hook that gets its name in the unsplit model."""
    hooks: dict[torch.nn.Parameter, Any] = {}
    for part in split.parts:
        for name, parameter in part.model.named_parameters():
            hooks.setdefault(parameter, partial(call, part.blueprint.global_name(name, part.spec)))
    return list(hooks.items())


def _compare_generation(whole: Any, split: ComposedCausalLM, ids_BT: torch.Tensor, num_new_tokens: int) -> Outcome:
    settings: dict[str, Any] = {"attention_mask": padded(ids_BT, "left"), "max_new_tokens": num_new_tokens}
    # Both models generate the same number of tokens, also where an end-of-text token would come first.
    settings |= {"min_new_tokens": num_new_tokens, "do_sample": False, "pad_token_id": 0}
    if not whole._supports_default_dynamic_cache():
        settings["use_cache"] = False
    with torch.no_grad():
        expected = whole.generate(ids_BT, **settings)
        return compare_tensors(f"{num_new_tokens} generated tokens", expected, split.generate(ids_BT, **settings))
