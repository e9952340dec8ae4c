"""What of datasets is not public and this library uses."""

from __future__ import annotations

import pytest

from tests.internals.relied_upon import Internal, check

INTERNALS = [
    Internal("datasets.exceptions", "DatasetGenerationError", "one sentence for data that cannot be read"),
    Internal("datasets.exceptions", "DatasetNotFoundError", "one sentence for data that are not there"),
    Internal("datasets.utils.logging", "is_progress_bar_enabled", "leaving bars as they were"),
]


@pytest.mark.parametrize("internal", INTERNALS, ids=str)
def test_it_is_there(internal: Internal) -> None:
    check("datasets", internal)
