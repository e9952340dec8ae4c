"""Defences: training and noise by which what crosses a cut tells less about the text."""

from splitlearn.defences.adversarial import AdversarialTraining, TokenInverter
from splitlearn.defences.bottleneck import Bottleneck, divergence_of
from splitlearn.defences.defence import Defence
from splitlearn.defences.defences import Defences, find_uplink, refuse_idle
from splitlearn.defences.distance_correlation import distance_correlation
from splitlearn.defences.inputs import BottomInputs
from splitlearn.defences.nopeek import NoPeek
from splitlearn.defences.settings import DefenceSettings
from splitlearn.defences.steps import DefenceSteps

__all__ = [
    "AdversarialTraining",
    "Bottleneck",
    "BottomInputs",
    "Defence",
    "DefenceSettings",
    "DefenceSteps",
    "Defences",
    "NoPeek",
    "TokenInverter",
    "distance_correlation",
    "divergence_of",
    "find_uplink",
    "refuse_idle",
]
