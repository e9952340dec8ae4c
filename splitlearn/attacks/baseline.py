"""Guessing without looking at what crosses.

Shapes: N pieces of text, T tokens.
"""

from __future__ import annotations

import torch

from splitlearn.attacks.result import Baseline
from splitlearn.attacks.scores import Decode, reconstruct, rouge_l, token_recovery
from splitlearn.attacks.view import AttackerView

MOST_FREQUENT = "most frequent token"
UNIGRAM = "token drawn by frequency"
# It is told more than an attacker knows, so a recovery above it owes something to what crosses.
LANGUAGE_MODEL = "language model, given the true tokens before"


def measure_baseline(
    view: AttackerView, truth_NT: torch.Tensor, mask_NT: torch.Tensor, is_next_token: bool = False
) -> Baseline:
    """Score the guesses that need nothing of what crosses, on the positions that an attack was scored on.

    Args:
        view: what the attacker sees; its auxiliary texts give the frequencies.
        truth_NT: the true tokens of the first test pieces, shape (N, T).
        mask_NT: True for positions that count, shape (N, T).
        is_next_token: whether the truth at a position is the token after it, as labels are.

    Returns:
        The best of them. The language model's guess is scored on the first pieces only (`AttackerView.next_tokens`).
    """
    counts_V = torch.bincount(view.auxiliary.ids_NT.flatten(), minlength=view.vocab_size)
    frequent_NT = torch.full_like(truth_NT, int(counts_V.argmax()))
    tried = {MOST_FREQUENT: token_recovery(frequent_NT, truth_NT, mask_NT)}
    truth = truth_NT[mask_NT]
    tried[UNIGRAM] = (counts_V[truth] / counts_V.sum()).mean().item() if len(truth) else 0.0
    best = _baseline(MOST_FREQUENT, frequent_NT, truth_NT, mask_NT, tried, view.decode)
    next_KT = view.next_tokens
    if next_KT is None:
        return best
    count = min(len(next_KT), len(truth_NT))
    guess_KT = next_KT[:count] if is_next_token else torch.cat([frequent_NT[:count, :1], next_KT[:count, :-1]], dim=1)
    guess_KT = guess_KT[:, : truth_NT.shape[1]]
    tried[LANGUAGE_MODEL] = token_recovery(guess_KT, truth_NT[:count], mask_NT[:count])
    if tried[LANGUAGE_MODEL] < tried[MOST_FREQUENT]:
        return best
    return _baseline(LANGUAGE_MODEL, guess_KT, truth_NT[:count], mask_NT[:count], tried, view.decode)


def _baseline(
    name: str,
    guess_NT: torch.Tensor,
    truth_NT: torch.Tensor,
    mask_NT: torch.Tensor,
    tried: dict[str, float],
    decode: Decode | None,
) -> Baseline:
    return Baseline(name, tried[name], rouge_l(reconstruct(guess_NT, truth_NT, mask_NT, decode)), tried)
