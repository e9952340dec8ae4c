"""Dividing texts between the attacker and those who are attacked.

Shapes: N pieces of text, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import torch

from splitlearn.naming import named

DEFAULT_TOKENS = 64


@dataclass(frozen=True, eq=False)
class AttackTexts:
    """Pieces of texts that are disjoint by document.

    Attributes:
        auxiliary_NT: token ids of the attacker's own texts, shape (N, T).
        validation_NT: token ids of further texts of its own, by which it chooses settings.
        test_NT: token ids of the texts that are attacked.
    """

    auxiliary_NT: torch.Tensor
    validation_NT: torch.Tensor
    test_NT: torch.Tensor

    @property
    def token_overlap(self) -> float:
        """Share of the test tokens that occur in the auxiliary texts."""
        return token_overlap(self.auxiliary_NT, self.test_NT)


def divide_texts(
    own: Iterable[Sequence[int]],
    attacked: Iterable[Sequence[int]],
    num_auxiliary: int,
    num_validation: int,
    num_test: int,
    num_tokens: int = DEFAULT_TOKENS,
    seed: int = 0,
) -> AttackTexts:
    """Make pieces of one length of an attacker's documents and of those that are attacked.

    The documents of each of the three texts are joined end to end and cut, and pieces are drawn at random. No document is in
    two of them: the attacker's copies of what is attacked are left out, and so are its own second copies. Whole documents of
    its own are kept for validation.

    Args:
        own: token ids of the attacker's documents.
        attacked: token ids of those that are attacked.
        num_auxiliary: the most auxiliary pieces; there may be fewer.
        num_validation: the most validation pieces.
        num_test: the most test pieces.
        num_tokens: tokens of a piece.
        seed: draws documents and pieces.

    Raises:
        ValueError: one of the three has less than a piece of text.
    """
    generator = torch.Generator().manual_seed(seed)
    tests = dict.fromkeys(map(tuple, attacked))
    owns = [document for document in dict.fromkeys(map(tuple, own)) if document not in tests]
    order = [owns[index] for index in torch.randperm(len(owns), generator=generator).tolist()]
    validation: list[tuple[int, ...]] = []
    while len(order) > 1 and sum(map(len, validation)) < num_validation * num_tokens:
        validation.append(order.pop())
    return AttackTexts(
        _draw("the attacker's own text", order, num_auxiliary, num_tokens, generator),
        _draw("the attacker's text for validation", validation, num_validation, num_tokens, generator),
        _draw("the held-out text", tests, num_test, num_tokens, generator),
    )


def token_overlap(auxiliary_NT: torch.Tensor, test_NT: torch.Tensor) -> float:
    """Return the share of the test tokens that occur in auxiliary texts; 0.0 if there are none.

    Args:
        auxiliary_NT: token ids, of any shape.
        test_NT: token ids, of any shape.
    """
    return torch.isin(test_NT, auxiliary_NT.unique()).double().mean().item() if test_NT.numel() else 0.0


def _draw(
    name: str, documents: Iterable[Sequence[int]], most: int, num_tokens: int, generator: torch.Generator
) -> torch.Tensor:
    ids = torch.tensor(list(chain.from_iterable(documents)), dtype=torch.long)
    num_pieces = len(ids) // num_tokens
    if num_pieces == 0:
        raise ValueError(
            f"{name} has {len(ids)} tokens, too few for one piece of {named('num_tokens')}={num_tokens}; give more text or "
            "documents, or take shorter pieces"
        )
    pieces_NT = ids[: num_pieces * num_tokens].view(num_pieces, num_tokens)
    return pieces_NT[torch.randperm(num_pieces, generator=generator)[:most]]
