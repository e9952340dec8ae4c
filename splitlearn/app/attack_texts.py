"""The texts of an attack: the attacker's own, and those that are attacked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from splitlearn.attacks import AttackPlan, AttackTexts, divide_texts
from splitlearn.data import BlockDataModule
from splitlearn.naming import naming_as, naming_group

# Documents are cut into pieces and not into blocks.
WHOLE_DOCUMENTS = {"packing": "none", "block_size": 2**30, "max_train_blocks": None, "max_val_blocks": None}
# Documents of a stream that are read for each piece that is wanted of it.
_DOCUMENTS_PER_PIECE = 4


def attack_texts(data: BlockDataModule, plan: AttackPlan) -> AttackTexts:
    """Return pieces of the held-out documents as what is attacked, and of the others as the attacker's own.

    See `divide_texts`.

    Args:
        data: whole documents as rows, set up.
        plan: how many pieces of which length are wanted, and the seed by which they are drawn.

    Raises:
        ValueError: there is too little text.
    """
    if not data.has_held_out:
        raise ValueError("the run holds out no text; give some with data.source=... or data.val_fraction=...")
    held_out = data.blocks["val"]["input_ids"]
    counts = (plan.auxiliary_pieces, plan.validation_pieces, plan.test_pieces)
    with naming_group("attack"), naming_as({"num_tokens": "tokens"}):
        return divide_texts(_own_documents(data, plan), held_out, *counts, num_tokens=plan.tokens, seed=plan.seed)


def _own_documents(data: BlockDataModule, plan: AttackPlan) -> Iterable[Sequence[int]]:
    if data.stream is None:
        documents_read: Iterable[Sequence[int]] = data.blocks["train"]["input_ids"]
        return documents_read
    documents: dict[tuple[int, ...], None] = {}
    num_wanted = (plan.auxiliary_pieces + plan.validation_pieces) * plan.tokens
    for row in data.stream:
        documents.setdefault(tuple(row["input_ids"]))
        if sum(map(len, documents)) >= num_wanted or len(documents) >= _DOCUMENTS_PER_PIECE * num_wanted:
            break
    return documents
