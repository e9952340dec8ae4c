import warnings

import pytest

from splitlearn.silence import without_lightning_advice


def test_advice_on_workers_is_hidden_and_other_warnings_are_not() -> None:
    with pytest.warns(UserWarning) as seen, without_lightning_advice():
        warnings.warn("The 'train_dataloader' does not have many workers which may be a bottleneck.", stacklevel=1)
        warnings.warn("something else", stacklevel=1)
    assert [str(warning.message) for warning in seen] == ["something else"]
