"""How much of a text a guess has right.

Shapes: N pieces of text, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torchmetrics.functional.text.rouge import rouge_score

from splitlearn.attacks.result import Reconstruction

# The guess at a position that an attack did not reach.
NO_GUESS = -1
Decode = Callable[[Sequence[int]], str]


def token_recovery(guess_NT: torch.Tensor, truth_NT: torch.Tensor, mask_NT: torch.Tensor | None = None) -> float:
    """Return the share of positions whose token is right; 0.0 if there are none.

    Args:
        guess_NT: guessed token ids, shape (N, T); `NO_GUESS` counts as wrong.
        truth_NT: the true ones.
        mask_NT: True for positions that count, shape (N, T); None counts all.
    """
    right_NT = guess_NT == truth_NT
    right = right_NT if mask_NT is None else right_NT[mask_NT]
    return right.double().mean().item() if right.numel() else 0.0


def recovery_by_position(guess_NT: torch.Tensor, truth_NT: torch.Tensor, mask_NT: torch.Tensor) -> tuple[float | None, ...]:
    """Return for each position of a piece the share of pieces whose token is right there; None where no piece has a token.

    Args:
        guess_NT: guessed token ids, shape (N, T).
        truth_NT: the true ones.
        mask_NT: True for positions that count, shape (N, T).
    """
    right_T = ((guess_NT == truth_NT) & mask_NT).sum(dim=0).tolist()
    return tuple(right / count if count else None for right, count in zip(right_T, mask_NT.sum(dim=0).tolist(), strict=True))


def reconstruct(
    guess_NT: torch.Tensor, truth_NT: torch.Tensor, mask_NT: torch.Tensor, decode: Decode | None
) -> list[Reconstruction]:
    """Return each piece as text beside the guess of it; nothing without a tokenizer.

    Args:
        guess_NT: guessed token ids, shape (N, T); positions without a guess are left out.
        truth_NT: the true ones.
        mask_NT: True for positions that count, shape (N, T).
        decode: from token ids to text.
    """
    if decode is None:
        return []
    rows = zip(guess_NT, truth_NT, mask_NT, strict=True)
    return [
        Reconstruction(decode(truth[mask].tolist()), decode(guess[mask & (guess != NO_GUESS)].tolist()))
        for guess, truth, mask in rows
    ]


def rouge_l(reconstructions: Sequence[Reconstruction]) -> float | None:
    """Return the mean ROUGE-L (F measure over lower-case words) of reconstructed texts; None if there are none.

    Source: Lin, ROUGE: A Package for Automatic Evaluation of Summaries, 2004.

    Args:
        reconstructions: texts beside what was made of them.
    """
    if not reconstructions:
        return None
    guesses = [reconstruction.reconstructed for reconstruction in reconstructions]
    texts = [reconstruction.original for reconstruction in reconstructions]
    return rouge_score(guesses, texts, rouge_keys="rougeL")["rougeL_fmeasure"].item()
