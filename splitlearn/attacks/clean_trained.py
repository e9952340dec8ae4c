"""The attacker who does not know the defence: it trains on what would cross without codec, noise and defence.

Its figure stands beside that of the attacker who trains on defended data. A defence that looks good against it alone is none.

Shapes: N pieces of text, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from splitlearn.attacks.budget import Budget
from splitlearn.attacks.result import AttackResult
from splitlearn.attacks.view import AttackerView, Pieces
from splitlearn.model import SplitModel, evaluating

# Attacks that learn from the attacker's own texts.
TRAINED = ("ridge", "mlp", "transformer")
_PIECES_AT_A_TIME = 8
_PREFIX = "clean_trained_"


def with_clean_texts(view: AttackerView, seconds: float | None = None) -> AttackerView:
    """Return a view in which the attacker's own texts have passed the public parts below the cut and nothing else.

    Args:
        view: what the attacker sees of defended data.
        seconds: the most seconds that passing them may take; fewer pieces are in the view then.

    Raises:
        ValueError: the weights below the cut are not public.
    """
    parts = () if view.public is None else view.public.below(view.cut)
    if not parts:
        raise ValueError("an attacker who trains on undefended data needs the public weights of all parts below the cut")
    auxiliary = _passed(parts, view.auxiliary.ids_NT, Budget(seconds=seconds))
    return replace(view, auxiliary=auxiliary, validation=_passed(parts, view.validation.ids_NT, Budget()))


def beside(result: AttackResult, clean_trained: AttackResult) -> AttackResult:
    """Return a result with the figures of the same attack, trained on undefended data, among its details.

    Args:
        result: of the attacker who knows the defence.
        clean_trained: of the one who does not.
    """
    figures = {f"{_PREFIX}recovery": clean_trained.token_recovery, f"{_PREFIX}rouge_l": clean_trained.rouge_l}
    return replace(result, details={**result.details, **figures})


def _passed(parts: Sequence[SplitModel], ids_NT: torch.Tensor, budget: Budget) -> Pieces:
    meter = budget.start()
    passed: list[torch.Tensor] = []
    with evaluating(nn.ModuleList(parts)), torch.inference_mode(False), torch.no_grad():
        for ids_BT in ids_NT.split(_PIECES_AT_A_TIME):
            if passed and not meter.take_step():
                break
            values = ids_BT
            for part in parts:
                values = part(values)
            passed.append(values.flatten(2).float().cpu())
    crossed_NTD = torch.cat(passed)
    return Pieces(ids_NT[: len(crossed_NTD)], crossed_NTD)
