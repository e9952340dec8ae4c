import warnings

import pytest

from splitlearn.silence import without_lightning_advice

ADVICE = [
    "The 'train_dataloader' does not have many workers which may be a bottleneck.",
    "GPU available but not used. You can set it by doing `Trainer(accelerator='gpu')`.",
    "FLOPs not found for 'NVIDIA H200', chip is 'nvidia h200'",
]


def test_advice_is_hidden_and_other_warnings_are_not() -> None:
    with pytest.warns(UserWarning) as seen, without_lightning_advice():
        for text in ADVICE:
            warnings.warn(text, stacklevel=1)
        warnings.warn("something else", stacklevel=1)
    assert [str(warning.message) for warning in seen] == ["something else"]
