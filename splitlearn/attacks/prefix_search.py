"""Exact recovery with public weights: the prefix is found token by token.

Shapes: N pieces of text, T tokens, D hidden size, K candidates.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from splitlearn.attacks.attack import Attack
from splitlearn.attacks.budget import Budget, BudgetMeter
from splitlearn.attacks.ranking import Ranker, RankingAttack
from splitlearn.attacks.result import AttackResult
from splitlearn.attacks.scores import NO_GUESS
from splitlearn.attacks.scoring import score
from splitlearn.attacks.view import FORWARD, AttackerView, Pieces
from splitlearn.model import SplitModel, evaluating

# Candidates run at once. The first is right more often than not.
_CHUNKS = (1, 7, 56, 192, 256)
# Own pieces, and wrong candidates for each of their positions, by which the distances of right and wrong tokens are told apart.
_NUM_CALIBRATED = 4
_NUM_WRONG = 8
# How many times nearer right tokens must be than wrong ones, so that a search may stop at the first near one.
_CLEARLY = 4.0


class PrefixSearch(Attack):
    """Tries candidates for each token in the order of another attack, and keeps the one whose hidden state matches.

    A hidden state depends on the tokens up to its position alone, so with the weights below the cut each token is found after
    those before it. A candidate costs one token's work, since the prefix is in the key-value cache. The distances of right and
    wrong tokens on the attacker's own texts say when a state matches. Where they are not clearly apart (noise, fine-tuned
    weights), the nearest of a number of candidates is kept.

    Source: SipIt, arXiv 2510.15511.

    Args:
        order: the attack in whose order candidates are tried; one that is fitted on the same view is not fitted again.
        num_prompts: test pieces that are searched for.
        num_tokens: tokens of each, from its first.
        num_nearest: candidates tried where states do not match exactly.

    Raises:
        ValueError: a number is less than 1.
    """

    name = "prefix_search"

    def __init__(self, order: RankingAttack, num_prompts: int = 5, num_tokens: int = 16, num_nearest: int = 512) -> None:
        for name, number in {"num_prompts": num_prompts, "num_tokens": num_tokens, "num_nearest": num_nearest}.items():
            if number < 1:
                raise ValueError(f"{name} of the prefix search is {number}; use 1 or more")
        self.order = order
        self.num_prompts = num_prompts
        self.num_tokens = num_tokens
        self.num_nearest = num_nearest

    def run(self, view: AttackerView, budget: Budget, rng: torch.Generator) -> AttackResult:
        """Search for the first test pieces; see `Attack.run`. Positions that are not reached have the order's best guess.

        Raises:
            ValueError: gradients were recorded, or the weights below the cut are not public.
        """
        parts = () if view.public is None else view.public.below(view.cut)
        if view.direction != FORWARD or not parts:
            raise ValueError(f"{self.name} needs smashed data, and the public weights of all parts below cut {view.cut}")
        ranker, fitting = self.order.fitted(view, budget, rng)
        meter = budget.start()
        meter.pieces = fitting.pieces
        prompts = view.test.first(self.num_prompts)
        guess_NT = ranker.best(prompts.crossed_NTD[:, : self.num_tokens])
        with evaluating(nn.ModuleList(parts)), torch.no_grad():
            search = _Search(parts, ranker, meter, self.num_nearest)
            search.calibrate(view.validation.first(_NUM_CALIBRATED), self.num_tokens)
            for prompt, guess_T in enumerate(guess_NT):
                found = search.find(prompts.crossed_NTD[prompt, : self.num_tokens])
                guess_T[: len(found)] = torch.tensor(found)
        if prompts.mask_NT is not None:
            guess_NT[~prompts.mask_NT[:, : self.num_tokens]] = NO_GUESS
        details = {**search.details(guess_NT.numel()), "order": self.order.name, "order_seconds": fitting.seconds}
        return score(self.name, view, guess_NT, meter.use(), base_weights_public=True, details=details)


class _Prefix:
    """The tokens found so far, in the caches of the parts below the cut."""

    def __init__(self, parts: Sequence[SplitModel]) -> None:
        self._parts = parts
        self._caches = [part.make_cache() for part in parts]

    def extended(self, ids_K: torch.Tensor) -> tuple[torch.Tensor, _Prefix]:
        """Return the hidden states of candidates for the next token, shape (K, D), and a prefix that holds all of them."""
        tried = copy.copy(self)
        tried._caches = copy.deepcopy(self._caches)
        values = ids_K[:, None]
        for part, cache in zip(self._parts, tried._caches, strict=True):
            cache.batch_repeat_interleave(len(ids_K))
            values = part(values, past_key_values=cache)
        return values.flatten(1).float().cpu(), tried

    def keep(self, candidate: int) -> _Prefix:
        """Return the prefix with one of the candidates; it shares nothing with the others."""
        for cache in self._caches:
            cache.batch_select_indices(torch.tensor([candidate]))
        return self


@dataclass
class _Search:
    parts: Sequence[SplitModel]
    ranker: Ranker
    meter: BudgetMeter
    num_nearest: int
    # Distance within which a token is right, at the first position and at later ones; None where none is clearly right.
    tolerances: list[float | None] = field(default_factory=lambda: [None, None])
    tried: list[int] = field(default_factory=list)

    def calibrate(self, own: Pieces, num_tokens: int) -> None:
        """Measure how far right and wrong tokens are from what crossed, on the attacker's own pieces.

        The first position is told apart, since its hidden states are much larger and differ less.
        """
        right: list[list[float]] = [[], []]
        wrong: list[list[float]] = [[], []]
        for ids_T, crossed_TD in zip(own.ids_NT[:, :num_tokens], own.crossed_NTD[:, :num_tokens], strict=True):
            prefix = _Prefix(self.parts)
            for position, (token, crossed_D) in enumerate(zip(ids_T, crossed_TD, strict=True)):
                candidates = self.ranker.order(crossed_D[None, None], _NUM_WRONG + 1)[0, 0]
                ids_K = torch.cat([token[None], candidates[candidates != token]])[: _NUM_WRONG + 1]
                if not self.meter.take_step(len(ids_K)):
                    return
                states_KD, tried = prefix.extended(ids_K)
                distances = _distances(states_KD, crossed_D).tolist()
                later = int(position > 0)
                right[later].append(distances[0])
                wrong[later] += distances[1:]
                prefix = tried.keep(0)
        for later in (0, 1):
            if right[later] and wrong[later] and max(right[later]) * _CLEARLY < min(wrong[later]):
                # Between the two on a logarithmic scale; distances of equal states are rounding errors, or 0.
                self.tolerances[later] = (max(max(right[later]), 1e-7) * min(wrong[later])) ** 0.5

    def find(self, crossed_TD: torch.Tensor) -> list[int]:
        """Return the tokens of a prompt, fewer if the budget ends the search."""
        prefix, found, is_lost = _Prefix(self.parts), [], False
        for position, crossed_D in enumerate(crossed_TD):
            tolerance = None if is_lost else self.tolerances[int(position > 0)]
            step = self._find_next(prefix, crossed_D, tolerance)
            if step is None:
                break
            token, prefix, distance = step
            found.append(token)
            # No token matches if one before was wrong: then the nearest of a few is as good as that of all.
            is_lost = is_lost or (tolerance is not None and distance > tolerance)
        return found

    def _find_next(
        self, prefix: _Prefix, crossed_D: torch.Tensor, tolerance: float | None
    ) -> tuple[int, _Prefix, float] | None:
        limit = self.num_nearest if tolerance is None else len(self.ranker.rows_RE)
        order = self.ranker.order(crossed_D[None, None], limit)[0, 0]
        best: tuple[int, _Prefix, float] | None = None
        num_tried = 0
        for ids_K in _in_chunks(order, grows=tolerance is not None):
            if not self.meter.take_step(len(ids_K)):
                return None
            states_KD, tried = prefix.extended(ids_K)
            num_tried += len(ids_K)
            distance, place = _distances(states_KD, crossed_D).min(dim=0)
            if best is None or distance.item() < best[2]:
                best = int(ids_K[place]), tried.keep(int(place)), distance.item()
            if tolerance is not None and best[2] <= tolerance:
                break
        self.tried.append(num_tried)
        return best

    def details(self, num_positions: int) -> dict[str, float | int | str | None]:
        """Return how many candidates a token took, and how many of the positions were reached."""
        return {
            "candidates_mean": statistics.fmean(self.tried) if self.tried else None,
            "candidates_median": statistics.median(self.tried) if self.tried else None,
            "positions_searched": len(self.tried) / num_positions,
            "matching": "exact" if None not in self.tolerances else f"nearest of {self.num_nearest}",
        }


def _in_chunks(order: torch.Tensor, grows: bool) -> Iterator[torch.Tensor]:
    sizes = _CHUNKS if grows else _CHUNKS[-1:]
    start = place = 0
    while start < len(order):
        size = sizes[min(place, len(sizes) - 1)]
        yield order[start : start + size]
        start, place = start + size, place + 1


def _distances(states_KD: torch.Tensor, crossed_D: torch.Tensor) -> torch.Tensor:
    """Return how far states are from what crossed, as shares of its length."""
    target_D = crossed_D.float()
    return (states_KD - target_D).norm(dim=1) / target_D.norm().clamp(min=torch.finfo(torch.float32).tiny)
