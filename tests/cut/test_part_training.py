import json

import pytest

from splitlearn.cut import PartTraining


def test_settings_mean_what_is_trained() -> None:
    assert PartTraining.settle(True, has_adapters=False, is_peft=False) is PartTraining.FULL
    assert PartTraining.settle(True, has_adapters=True, is_peft=True) is PartTraining.ADAPTERS
    unadapted = PartTraining.settle(True, has_adapters=False, is_peft=True)
    assert unadapted is PartTraining.FROZEN, "as PEFT leaves what it does not adapt"
    assert PartTraining.settle(False, has_adapters=True, is_peft=True) is PartTraining.FROZEN
    assert PartTraining.settle("norms", has_adapters=False, is_peft=True) is PartTraining.NORMS
    with pytest.raises(ValueError, match="is 'some'; use one of full, frozen, adapters"):
        PartTraining.settle("some", has_adapters=False, is_peft=False)


@pytest.mark.parametrize(
    ("training", "anything", "weights", "all_weights", "biases", "norms"),
    [
        ("full", True, True, True, False, False),
        ("frozen", False, False, False, False, False),
        ("adapters", True, False, False, False, False),
        ("biases", True, True, False, True, False),
        ("norms", True, True, False, False, True),
        ("biases_and_norms", True, True, False, True, True),
    ],
)
def test_each_says_what_changes(
    training: str, anything: bool, weights: bool, all_weights: bool, biases: bool, norms: bool
) -> None:
    part = PartTraining(training)
    assert (part.trains_anything, part.trains_weights, part.trains_all_weights) == (anything, weights, all_weights)
    assert (part.trains_biases, part.trains_norms) == (biases, norms)
    assert part.keeps_base_weights is not part.trains_weights
    assert json.dumps(part) == json.dumps(training) and str(part) == training, "files keep the same words"
