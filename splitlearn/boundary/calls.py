"""Why a model is called. Traffic is counted by it."""

from __future__ import annotations

from enum import StrEnum


class CallKind(StrEnum):
    """What a call of the parts is for."""

    TRAIN = "train"
    EVALUATE = "evaluate"
    GENERATE = "generate"
    # Examines the model itself, with made-up data. No party would be asked, so it is neither counted nor encoded.
    TRIAL = "trial"
