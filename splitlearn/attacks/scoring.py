"""From an attack's guess to its result.

Shapes: N pieces of text, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from splitlearn.attacks.baseline import measure_baseline
from splitlearn.attacks.budget import BudgetUse
from splitlearn.attacks.result import AttackResult
from splitlearn.attacks.scores import reconstruct, recovery_by_position, rouge_l, token_recovery
from splitlearn.attacks.texts import token_overlap
from splitlearn.attacks.view import AttackerView

_NUM_SHOWN = 3


def score(
    attack: str,
    view: AttackerView,
    guess_NT: torch.Tensor,
    use: BudgetUse,
    *,
    base_weights_public: bool,
    truth_NT: torch.Tensor | None = None,
    mask_NT: torch.Tensor | None = None,
    is_next_token: bool = False,
    details: Mapping[str, float | int | str | None] | None = None,
) -> AttackResult:
    """Compare guessed tokens with those of the first test pieces.

    Args:
        attack: the attack's name.
        view: what the attacker saw.
        guess_NT: guessed tokens of the first N test pieces' first T positions, shape (N, T); `NO_GUESS` counts as wrong.
        use: what the attack used.
        base_weights_public: whether the attack used public weights.
        truth_NT: what the guess is compared with, shape (N, T); None takes the pieces' token ids.
        mask_NT: True for positions that count, shape (N, T); None takes the pieces' mask.
        is_next_token: whether the truth at a position is the token after it, as labels are.
        details: further figures of the attack.

    Returns:
        The result, with some reconstructions and the baseline of the same positions.
    """
    num_pieces, num_tokens = guess_NT.shape
    if truth_NT is None:
        truth_NT = view.test.ids_NT[:num_pieces, :num_tokens]
    if mask_NT is None:
        mask_NT = torch.ones_like(truth_NT, dtype=torch.bool)
        if view.test.mask_NT is not None:
            mask_NT = view.test.mask_NT[:num_pieces, :num_tokens]
    texts = reconstruct(guess_NT, truth_NT, mask_NT, view.decode)
    is_whole = ((guess_NT == truth_NT) | ~mask_NT).all(dim=1)
    return AttackResult(
        attack=attack,
        cut=view.cut,
        direction=view.direction,
        token_recovery=token_recovery(guess_NT, truth_NT, mask_NT),
        rouge_l=rouge_l(texts),
        by_position=recovery_by_position(guess_NT, truth_NT, mask_NT),
        budget=use,
        baseline=measure_baseline(view, truth_NT, mask_NT, is_next_token),
        token_overlap=token_overlap(view.auxiliary.ids_NT, truth_NT[mask_NT]),
        num_pieces=num_pieces,
        base_weights_public=base_weights_public,
        reconstructions=tuple(texts[:_NUM_SHOWN]),
        details={"pieces_exact": is_whole.double().mean().item() if num_pieces else None, **(details or {})},
    )
