"""How several clients of one trunk are simulated in one process."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from splitlearn.naming import named
from splitlearn.training.settings import TrainingSettings
from splitlearn.training.shared_steps import ORDERS, SEQUENTIAL

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class ClientSettings:
    """How several clients of one trunk are simulated.

    Args:
        clients: their names, in the order in which they take turns, or in which their gradients are added.
        order: ``"sequential"``: one step of the trunk with each client in turn; ``"concurrent"``: one with all of them.
        average_every: after how many steps of each client the clients' parts are replaced by their mean; None never.

    Raises:
        ValueError: there are fewer than two clients, a name is malformed or there twice, or another setting is out of range.
    """

    clients: tuple[str, ...]
    order: str = SEQUENTIAL
    average_every: int | None = None

    def __post_init__(self) -> None:
        if len(self.clients) < 2 or len(set(self.clients)) != len(self.clients):
            raise ValueError(f"{named('clients')} is {list(self.clients)}; give two names or more, each once")
        for name in self.clients:
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise ValueError(f"{named('clients')} has {name!r}; a name is a letter followed by letters, digits, - or _")
        if self.order not in ORDERS:
            raise ValueError(f"{named('order')} is {self.order!r}; use one of {', '.join(ORDERS)}")
        if self.average_every is not None and (isinstance(self.average_every, bool) or self.average_every < 1):
            raise ValueError(f"{named('average_every')} is {self.average_every!r}; use 1 or more, or null for never")

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> ClientSettings:
        """Make them from plain values.

        Raises:
            ValueError: a setting is unknown or out of range.
        """
        unknown = set(values) - set(cls.__dataclass_fields__)
        if unknown:
            raise ValueError(f"{named(min(unknown))} is not known; there are {', '.join(cls.__dataclass_fields__)}")
        clients = values.get("clients")
        if not isinstance(clients, (list, tuple)):
            raise ValueError(f"{named('clients')} is {clients!r}; give the clients' names, such as [alice, bob]")
        return cls(**{**values, "clients": tuple(clients)})

    @property
    def is_sequential(self) -> bool:
        """Whether clients take turns."""
        return self.order == SEQUENTIAL

    def batches_per_step(self, per_client: int) -> int:
        """Return how many batches a step of the trunk is made of, if each client's is made of ``per_client``."""
        return per_client if self.is_sequential else per_client * len(self.clients)

    def steps_of_each(self, num_steps: int) -> int:
        """Return how many steps each client takes while the trunk takes ``num_steps``."""
        return -(-num_steps // len(self.clients)) if self.is_sequential else num_steps

    def refuse_beside(self, settings: TrainingSettings) -> None:
        """Refuse settings that are made for one client.

        Raises:
            ValueError: there is one.
        """
        if settings.cache.keep != "none":
            raise ValueError(f"activation_cache.keep is {settings.cache.keep}, which keeps one client's data; take none")
        if settings.defences.names:
            raise ValueError(f"defence has {', '.join(settings.defences.names)}, which is for one client; take defence=none")
