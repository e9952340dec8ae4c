"""Files of other people that are damaged in any way: whatever a header, a record or a checkpoint says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase, given

from tests.fuzz.damage import inputs
from tests.fuzz.targets import TARGETS, Target, Workshop, workshop

FRESH = 8
KEPT = [pytest.param(target, path, id=f"{target.name}-{path.name}") for target in TARGETS.values() for path in target.kept]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    with workshop(tmp_path_factory.mktemp("fuzz")) as made:
        yield made


@pytest.mark.parametrize(("target", "path"), KEPT)
def test_inputs_that_broke_a_promise_once(shop: Workshop, target: Target, path: Path) -> None:
    """Fault: a damaged file that the fuzzer has found. Promise: one sentence with its name, soon, in bounded memory."""
    shop.attempt(target, path.read_bytes())


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_fresh_inputs(shop: Workshop, target: Target) -> None:
    """Fault: any damage of a file that is read. Promise: one sentence with its name; nothing is opened outside its folder."""

    @hypothesis.settings(max_examples=FRESH, suppress_health_check=list(HealthCheck), phases=(Phase.generate,))
    @given(inputs(target.form, [shop.seeds[target.name]]))
    def attempt(content: bytes) -> None:
        shop.attempt(target, content)

    attempt()
