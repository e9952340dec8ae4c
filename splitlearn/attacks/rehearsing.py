"""Running a model without leaving a trace in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from splitlearn.model import ComposedCausalLM
from splitlearn.randomness import forked_random_state


@contextmanager
def rehearsing(model: ComposedCausalLM, seed: int) -> Iterator[ComposedCausalLM]:
    """Give a model that has this one's parts, in evaluation mode, and boundaries, traffic and random numbers of its own.

    Args:
        model: the model. Its modes, random numbers, traffic and codecs' state are afterwards as they were, and so are torch's
            random numbers.
        seed: seed of the codecs' noise.
    """
    with forked_random_state(), model.evaluating(), torch.inference_mode(False):
        yield model.rehearsal(seed)
