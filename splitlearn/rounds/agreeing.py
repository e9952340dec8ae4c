"""What several clients' runs must agree on before their first round, and what they begin it with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from splitlearn.rounds.round_folder import Arrays


def agree_on_rounds(numbers: Sequence[int], rounds_left: Sequence[int], wanted: int) -> tuple[int, int]:
    """Return how many rounds the runs have been through, and how many are to come.

    Args:
        numbers: of each run, how many rounds it has been through.
        rounds_left: of each run, how many it can still take part in.
        wanted: how many there are to be; 0 for all that are left.

    Raises:
        ValueError: the runs are not at one round, or have other numbers of rounds left.
    """
    if len(set(numbers)) != 1:
        raise ValueError(
            f"the clients' runs have been through {_list(numbers)} rounds; have all go on from checkpoints of the same step"
        )
    if wanted < 0:
        raise ValueError(f"rounds is {wanted}; give the number of rounds, or 0 for as many as the runs have left")
    if wanted == 0 and len(set(rounds_left)) != 1:
        raise ValueError(
            f"the clients' runs have {_list(rounds_left)} rounds left; have all train for as many steps, or set rounds to a "
            "number"
        )
    rounds = wanted or rounds_left[0]
    if rounds > min(rounds_left):
        raise ValueError(f"rounds is {rounds}, but the clients' runs have {_list(rounds_left)} left; train them for more steps")
    if rounds < 1:
        raise ValueError("the clients' runs have no round left; have them train for as many steps as a round has, or more")
    return numbers[0], rounds


def common_start(clients: Sequence[Arrays], sizes: Sequence[int]) -> Arrays:
    """Return what a strategy begins with: what all clients have, if that is the same, and else their mean.

    Args:
        clients: each client's tensors, by name.
        sizes: how much each client counts.

    Raises:
        ValueError: the clients train other tensors.
    """
    first, *others = clients
    for other in others:
        refuse_other_tensors(first, other)
    if all(np.array_equal(own, other[name]) for other in others for name, own in first.items()):
        return dict(first)
    shares = [size / sum(sizes) for size in sizes]
    means = {
        name: sum(own[name].astype(np.float64) * share for own, share in zip(clients, shares, strict=True)) for name in first
    }
    return {name: np.asarray(mean).astype(first[name].dtype) for name, mean in means.items()}


def refuse_other_tensors(one: Mapping[str, np.ndarray[Any, Any]], other: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Refuse two clients that do not train the same tensors.

    Raises:
        ValueError: they do not; the sentence names one.
    """
    for name in sorted(one.keys() | other.keys()):
        shapes = [tensors[name].shape if name in tensors else None for tensors in (one, other)]
        if shapes[0] != shapes[1]:
            first, second = ("does not train it" if shape is None else f"has it in the shape {shape}" for shape in shapes)
            raise ValueError(f"of the tensor {name} one client {first} and another {second}; all must have the same settings")


def _list(numbers: Sequence[int]) -> str:
    return " and ".join(map(str, numbers))
