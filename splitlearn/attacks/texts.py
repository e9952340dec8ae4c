"""Dividing texts between the attacker and those who are attacked.

Shapes: N pieces of text, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

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
    documents: Iterable[str],
    tokenizer: PreTrainedTokenizerBase,
    num_auxiliary: int,
    num_validation: int,
    num_test: int,
    num_tokens: int = DEFAULT_TOKENS,
    seed: int = 0,
) -> AttackTexts:
    """Divide documents into auxiliary, validation and test texts, and these into pieces of one length.

    A document that occurs twice counts once, and no document gives pieces to two of the three. Documents are drawn at random
    for test and validation, as many as their share of the pieces, and the rest is the attacker's. The tokens of a document
    behind its last whole piece are dropped.

    Args:
        documents: the texts.
        tokenizer: the model's tokenizer.
        num_auxiliary: the most auxiliary pieces; there may be fewer.
        num_validation: the most validation pieces.
        num_test: the most test pieces.
        num_tokens: tokens of a piece.
        seed: of the division.

    Raises:
        ValueError: there are fewer than three documents of at least ``num_tokens`` tokens.
    """
    unique = list(dict.fromkeys(documents))
    chopped = [pieces for text in unique if len(pieces := _chop(text, tokenizer, num_tokens))]
    if len(chopped) < 3:
        raise ValueError(
            f"of {len(unique)} documents {len(chopped)} have {num_tokens} tokens or more, and an attack needs 3 at least: one "
            "each for its auxiliary, validation and test texts; give more or longer documents, or shorter pieces"
        )
    generator = torch.Generator().manual_seed(seed)
    order = [chopped[index] for index in torch.randperm(len(chopped), generator=generator).tolist()]
    total = num_auxiliary + num_validation + num_test
    test = _take_share(order, num_test, total, leave=2)
    validation = _take_share(order, num_validation, total, leave=1)
    return AttackTexts(
        _draw(order, num_auxiliary, generator), _draw(validation, num_validation, generator), _draw(test, num_test, generator)
    )


def token_overlap(auxiliary_NT: torch.Tensor, test_NT: torch.Tensor) -> float:
    """Return the share of the test tokens that occur in auxiliary texts.

    Args:
        auxiliary_NT: token ids, of any shape.
        test_NT: token ids, of any shape.
    """
    return torch.isin(test_NT, auxiliary_NT.unique()).float().mean().item()


def _chop(text: str, tokenizer: PreTrainedTokenizerBase, num_tokens: int) -> torch.Tensor:
    # The tokenizer warns of texts that are longer than the model's context; pieces are not.
    ids = torch.tensor(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], dtype=torch.long)
    return ids[: len(ids) // num_tokens * num_tokens].view(-1, num_tokens)


def _take_share(order: list[torch.Tensor], wanted: int, total: int, leave: int) -> list[torch.Tensor]:
    """Take documents from the end of a list: their share by number, and more until there are enough pieces."""
    taken: list[torch.Tensor] = []
    share = max(1, round(wanted / total * len(order)))
    while len(order) > leave and (len(taken) < share or sum(map(len, taken)) < wanted):
        taken.append(order.pop())
    return taken


def _draw(documents: Sequence[torch.Tensor], count: int, generator: torch.Generator) -> torch.Tensor:
    pieces = torch.cat(list(documents))
    return pieces[torch.randperm(len(pieces), generator=generator)[:count]]
