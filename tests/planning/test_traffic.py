"""The traffic of a plan is that of a step."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from splitlearn.app import compose, conf_folder
from splitlearn.app.configuration import plain
from splitlearn.app.placing import resolve_placement
from splitlearn.boundary import BoundaryCodecs, CallKind, codec_names, find_routes
from splitlearn.cut import Placement
from splitlearn.loading import ModelFactory
from splitlearn.model import ComposedCausalLM, Finished
from splitlearn.planning.traffic import traffic_of_step


@pytest.mark.parametrize(
    ("name", "boundary"),
    [
        ("u_shaped", "exact"),
        ("vanilla", "exact"),
        ("linear", "exact"),
        ("one_party", "exact"),
        ("u_shaped", {"forward": ["topk", "int8"], "backward": {"codec": "int4", "group_size": 24, "error_feedback": True}}),
        # In the first epoch everything is sent.
        ("u_shaped", {"forward": "reuse", "backward": ["reuse", "int8"]}),
    ],
)
def test_a_step_sends_the_planned_bytes(name: str, boundary: Any, tiny_checkpoint: Callable[..., Path]) -> None:
    codecs = BoundaryCodecs.from_plain(boundary)
    placement = resolve_placement(compose(f"placement={name}", "device_map=null"))
    folder = tiny_checkpoint("llama", tie_word_embeddings=False)
    parts = ModelFactory.create_split_models(None, folder, 2, 4, trained=("bottom", "trunk", "top"))
    model: Any = ComposedCausalLM(*parts, routes=find_routes(placement), codecs=codecs).train()
    ids_BT = torch.randint(3, 90, (3, 11))
    finished = cast(Finished, model.run(ids_BT, kind=CallKind.TRAIN, labels_BT=ids_BT, labels=ids_BT, rows_B=torch.arange(3)))
    finished.output.loss.backward()
    assert model.meter.totals(CallKind.TRAIN) == traffic_of_step(placement, 3, 11, 64, torch.float32, codecs)


@pytest.mark.parametrize("name", sorted(file.stem for file in (conf_folder() / "boundary").glob("*.yaml")))
def test_every_shipped_choice_can_be_planned(name: str) -> None:
    codecs = BoundaryCodecs.from_plain(plain(compose(f"boundary={name}", config_name="plan").boundary))
    state = torch.get_rng_state()
    traffic = traffic_of_step(Placement.u_shaped(num_gpus=0), 2, 5, 576, torch.float32, codecs)
    assert torch.equal(torch.get_rng_state(), state), "noise is not drawn from the numbers that a run goes on with"
    exact = 2 * 5 * 576 * 4
    assert 0 < traffic["cut_1"]["activation_uplink_bytes"] <= exact + 2
    assert 0 < traffic["cut_2"]["gradient_uplink_bytes"] <= exact + 2


def test_every_codec_is_a_shipped_choice_or_part_of_one() -> None:
    choices = [file.read_text() for file in (conf_folder() / "boundary").glob("*.yaml")]
    missing = [name for name in codec_names() if not any(re.search(rf"\b{name}\b", text) for text in choices)]
    assert not missing
