"""Purposes of a call, by which traffic is counted."""

from __future__ import annotations

from enum import StrEnum


class CallKind(StrEnum):
    """The purpose of a call of the parts."""

    TRAIN = "train"
    EVALUATE = "evaluate"
    GENERATE = "generate"
    # Examines the model with made-up data. Parties would not take part in it, so it is neither counted nor encoded.
    TRIAL = "trial"
