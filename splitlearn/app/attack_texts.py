"""The texts of an attack: the attacker's own, and those that are attacked.

Shapes: N pieces of text, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

import torch

from splitlearn.attacks import AttackPlan, AttackTexts
from splitlearn.data import BlockDataModule
from splitlearn.naming import named

# Documents are cut into pieces and not into blocks.
WHOLE_DOCUMENTS = {"packing": "none", "block_size": 2**30, "max_train_blocks": None, "max_val_blocks": None}
# Documents of a stream that are read for each piece that is wanted of it.
_DOCUMENTS_PER_PIECE = 4


def attack_texts(data: BlockDataModule, plan: AttackPlan) -> AttackTexts:
    """Return pieces of the held-out documents as what is attacked, and of the others as the attacker's own.

    Documents are joined end to end and cut into pieces of one length. No document is on two sides, also not a copy of it.

    Args:
        data: whole documents as rows, set up.
        plan: how many pieces of which length are wanted, and the seed by which they are drawn.

    Raises:
        ValueError: there is too little text.
    """
    if not data.has_held_out:
        raise ValueError("the run holds out no text; give some with data.source=... or data.val_fraction=...")
    generator = torch.Generator().manual_seed(plan.seed)
    held_out = {tuple(document): None for document in data.blocks["val"]["input_ids"]}
    own = [document for document in _own_documents(data, plan) if document not in held_out]
    order = [own[index] for index in torch.randperm(len(own), generator=generator).tolist()]
    validation: list[tuple[int, ...]] = []
    while len(order) > 1 and sum(map(len, validation)) < plan.validation_pieces * plan.tokens:
        validation.append(order.pop())
    wanted = (
        (order, plan.auxiliary_pieces, "attacker's own text"),
        (validation, plan.validation_pieces, "attacker's own text"),
        (held_out, plan.test_pieces, "held-out text"),
    )
    auxiliary_NT, validation_NT, test_NT = (_pieces(documents, plan, most, name, generator) for documents, most, name in wanted)
    return AttackTexts(auxiliary_NT, validation_NT, test_NT)


def _own_documents(data: BlockDataModule, plan: AttackPlan) -> Iterable[tuple[int, ...]]:
    if data.stream is None:
        return dict.fromkeys(tuple(document) for document in data.blocks["train"]["input_ids"])
    documents: dict[tuple[int, ...], None] = {}
    num_wanted = (plan.auxiliary_pieces + plan.validation_pieces) * plan.tokens
    for row in data.stream:
        documents.setdefault(tuple(row["input_ids"]))
        if sum(map(len, documents)) >= num_wanted or len(documents) >= _DOCUMENTS_PER_PIECE * num_wanted:
            break
    return documents


def _pieces(
    documents: Iterable[tuple[int, ...]], plan: AttackPlan, most: int, name: str, generator: torch.Generator
) -> torch.Tensor:
    """Return some pieces of documents, drawn at random, shape (N, T)."""
    ids = torch.tensor(list(chain.from_iterable(documents)), dtype=torch.long)
    num_pieces = len(ids) // plan.tokens
    if num_pieces == 0:
        raise ValueError(
            f"the {name} has {len(ids)} tokens, too few for one piece of {named('attack.tokens')}={plan.tokens}; give more "
            "text or take shorter pieces"
        )
    pieces_NT = ids[: num_pieces * plan.tokens].view(num_pieces, plan.tokens)
    return pieces_NT[torch.randperm(num_pieces, generator=generator)[:most]]
