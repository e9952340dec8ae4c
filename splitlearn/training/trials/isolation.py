"""Whether rows that lie side by side in a block are kept apart by a model.

Shapes: B rows, T tokens, D hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from splitlearn.model import SplitModel
from splitlearn.training.trials.one_part import run_one_part

_FIRST_TOKENS, _SECOND_TOKENS = 8, 4
# Far above rounding, far below what another row before it does to a row's outputs.
_TOLERANCE = 1e-3


@torch.no_grad()
def keeps_rows_apart(parts: Sequence[SplitModel]) -> bool:
    """Run two rows in one block, then again with another first row; the second row's outputs must not change in any part.

    Most models keep rows apart whose positions begin anew; those with recurrent layers or masks of their own do not.

    Args:
        parts: bottom, trunk and top, in evaluation mode.
    """
    vocab_size = parts[0].blueprint.config.get_text_config(decoder=True).vocab_size
    generator = torch.Generator().manual_seed(0)
    one = torch.randint(0, vocab_size, (1, _FIRST_TOKENS + _SECOND_TOKENS), generator=generator)
    other = one.clone()
    other[:, :_FIRST_TOKENS] = torch.randint(0, vocab_size, (1, _FIRST_TOKENS), generator=generator)
    positions_BT = torch.cat([torch.arange(_FIRST_TOKENS), torch.arange(_SECOND_TOKENS)])[None]
    for part in parts:
        one, other = (run_one_part(part, inputs, position_ids=positions_BT) for inputs in (one, other))
        second, second_beside_other = (output[:, _FIRST_TOKENS:].float() for output in (one, other))
        if float((second - second_beside_other).abs().max()) > _TOLERANCE * float(second.abs().max()):
            return False
    return True
