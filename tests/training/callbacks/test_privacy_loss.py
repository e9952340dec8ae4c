"""The privacy of a run is that of the examples that are protected least."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from splitlearn.boundary import CallKind
from splitlearn.training import SimulatedClients, SplitCausalLM
from splitlearn.training.callbacks import privacy_of
from tests.tiny_models import token_ids

CLIPPED = {"codec": "gaussian", "clip": 30.0, "noise_multiplier": 8.0}
BOUNDARY: dict[str, Any] = {"cut_1": {"forward": CLIPPED}, "cut_2": {"backward": CLIPPED}}


def test_of_several_clients_it_is_the_one_that_has_sent_most(tiny_checkpoint: Callable[..., Path]) -> None:
    names = ("first", "second")
    module = SimulatedClients(
        str(tiny_checkpoint("llama")),
        2,
        4,
        simulation={"clients": names},
        boundary=BOUNDARY,
        privacy={"accountant": "prv"},
    )
    module.load_parts()
    for name, num_sent in zip(names, (1, 3), strict=True):
        with module.being(name), torch.no_grad():
            for _ in range(num_sent):
                module.composed.run(token_ids(), kind=CallKind.EVALUATE)
    privacy = privacy_of(module)
    assert privacy is not None and privacy.keys() == {"held_out"}
    assert privacy["held_out"]["mechanisms"][0]["releases"] == 3
    assert privacy["held_out"]["noise_is_secret"] and privacy["held_out"]["accountant"] == "opacus PRVAccountant"
    first, second = (boundary.generator("activation", torch.device("cpu")) for boundary in _first_boundaries(module))
    assert first.initial_seed() != second.initial_seed(), "each client has a secret of its own"


def test_without_clipping_there_is_none(tiny_checkpoint: Callable[..., Path]) -> None:
    module = SplitCausalLM(str(tiny_checkpoint("llama")), 2, 4, boundary="int8")
    module.load_parts()
    assert privacy_of(module) is None


def _first_boundaries(module: SplitCausalLM) -> list[Any]:
    return [model.boundaries[0] for model in module.models]
