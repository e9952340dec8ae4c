"""Refusing a model that cannot be trained as wanted, before weights are read, and the dtype of trained weights."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch

from splitlearn.cut import PartTraining, Placement, SplitPlan
from splitlearn.loading import OpenedModel, quantization_config
from splitlearn.model import Blueprint
from splitlearn.naming import named


def parts_in_float32(trained: Mapping[str, PartTraining], dtype: torch.dtype | None) -> list[str]:
    """Return the parts that are held in float32 because their weights are trained; none if a dtype was chosen for all.

    Warns of bfloat16, if that was chosen.

    Args:
        trained: what of each part is trained.
        dtype: the chosen dtype; None if none was.
    """
    names = [name for name, what in trained.items() if what.trains_weights]
    if dtype == torch.bfloat16 and names:
        warnings.warn(
            "weights are trained in bfloat16, where a step of less than about a 256th of a weight rounds to nothing; leave "
            f"{named('dtype')}=null (and {named('precision')}=32-true or bf16-mixed) to hold what is trained in float32",
            stacklevel=4,
        )
    return names if dtype is None else []


def refuse_untrainable(opened: OpenedModel, trained: Mapping[str, PartTraining], placement: Placement) -> None:
    """Refuse what cannot be trained, or not apart from something else.

    Args:
        opened: the model.
        trained: what of each part is trained.
        placement: who holds which part.

    Raises:
        ValueError: weights that are trained are to be quantized or in float16, or one side of a tied head is frozen and the
            other trained, or the two are trained by two parties, or the checkpoint is unusable.
        FileNotFoundError: the checkpoint is not there.
    """
    quantization, dtype = opened.request.quantization, opened.request.dtype
    quantization_config(quantization)
    unfit = [name for name, what in trained.items() if what.trains_weights and not what.trains_all_weights]
    if quantization is not None and (unfit or all(what.trains_all_weights for what in trained.values())):
        raise ValueError(
            f"{named('quantization')} is for parts that are frozen or have adapters, "
            + (f"not for biases or norms of {unfit[0]}" if unfit else "and all three are trained in full; take peft=lora")
        )
    if dtype == torch.float16 and any(what.trains_weights for what in trained.values()):
        raise ValueError(
            "weights in float16 cannot be trained: AdamW's steps overflow or vanish; "
            f"set {named('dtype')}=bfloat16 or float32, or leave it null to hold what is trained in float32"
        )
    sides = [trained[name].trains_all_weights for name in ("bottom", "top")]
    if (sides[0] == sides[1] and len(placement.parties) == 1) or opened.request.untie:
        return
    opened.settle_ties()
    blueprint = opened.blueprint
    if sides[0] != sides[1] and blueprint.ties:
        raise ValueError(
            "this model's head is tied to its embedding, so bottom and top can only be trained or frozen together: set "
            "optimizer.parts.bottom.train and optimizer.parts.top.train alike, or "
            f"{named('untie')}=true to make two tensors of it"
        )
    # Where another process reads the other end, nobody has both to compare.
    refuse_divided_ties(blueprint, opened.plan, placement, trained, trusts_unsettled=any(placement.addresses()))


def refuse_divided_ties(
    blueprint: Blueprint,
    plan: SplitPlan,
    placement: Placement,
    trained: Mapping[str, PartTraining],
    trusts_unsettled: bool = False,
) -> None:
    """Refuse to train a tensor that two parties would have to keep equal.

    Args:
        blueprint: the model.
        plan: its cut.
        placement: who holds which part.
        trained: what of each part is trained.
        trusts_unsettled: take ties that are not settled yet for ties; otherwise they are passed over, since the checkpoint may
            turn out to store two tensors.

    Raises:
        ValueError: the ends of a tie are with two parties, and one of them is trained.
    """
    for tied, owner in blueprint.ties.items():
        ends = {name: next(part.name for part in plan.parts if blueprint.belongs_to(name, part)) for name in (owner, tied)}
        holders = [placement.holder(part) for part in ends.values()]
        is_trained = any(_is_trained(name, trained[part]) for name, part in ends.items())
        if holders[0] != holders[1] and is_trained and (trusts_unsettled or tied not in blueprint.unsettled_ties):
            held = " and ".join(f"the {part} with {holder!r}" for part, holder in zip(ends.values(), holders, strict=True))
            raise ValueError(
                f"{tied} is tied to {owner}, but with {held} two parties would train one tensor: "
                f"set {named('untie')}=true to make two of it, freeze both parts, or have one party hold both, as with "
                "placement=u_shaped"
            )


def _is_trained(name: str, trained: PartTraining) -> bool:
    return trained.trains_all_weights or (trained.trains_biases and name.endswith("bias"))
