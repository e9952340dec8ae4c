"""Whether rows that lie side by side in a block are kept apart by a model.

Shapes: B rows, T tokens, V vocabulary size.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

_FIRST_TOKENS, _SECOND_TOKENS = 8, 4
# Far above rounding, far below what another row before it does to a row's logits.
_TOLERANCE = 1e-3


def check_isolation(logits_of: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], vocab_size: int) -> None:
    """Run two rows in one block, then again with another first row; the second row's logits must not change.

    Most models keep rows apart whose positions begin anew; those with recurrent layers or masks of their own do not.

    Args:
        logits_of: the model; from token ids and position ids, each (B, T), to logits (B, T, V).
        vocab_size: how many token ids there are.

    Raises:
        ValueError: the rows see each other.
    """
    generator = torch.Generator().manual_seed(0)
    ids_BT = torch.randint(0, vocab_size, (1, _FIRST_TOKENS + _SECOND_TOKENS), generator=generator)
    other_BT = ids_BT.clone()
    other_BT[:, :_FIRST_TOKENS] = torch.randint(0, vocab_size, (1, _FIRST_TOKENS), generator=generator)
    positions_BT = torch.cat([torch.arange(_FIRST_TOKENS), torch.arange(_SECOND_TOKENS)])[None]
    with torch.no_grad():
        one, two = (logits_of(ids, positions_BT)[:, _FIRST_TOKENS:].float() for ids in (ids_BT, other_BT))
    if float((one - two).abs().max()) > _TOLERANCE * float(one.abs().max()):
        raise ValueError(
            "this model lets rows that lie side by side in a block see each other, whatever their positions; set "
            "data.packing=none (a row for each) or joined (rows end to end)"
        )
