"""Dividing training rows among several clients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from datasets import Dataset

from splitlearn.data.file_rows import Row
from splitlearn.data.reading import Layout

IID, DIRICHLET = "iid", "dirichlet"
# The column in which a row's value of the field stands by which rows are divided.
_VALUE = "share_of"


@dataclass(frozen=True)
class Partition:
    """How training rows are divided among clients.

    Args:
        by: ``"iid"``: drawn, of equal sizes; ``"dirichlet"``: drawn, with sizes from a Dirichlet distribution; or the name of a
            column: rows with the same value stay together, and the shares become as equal as that allows.
        num_shares: among how many clients.
        concentration: of the Dirichlet distribution: the smaller, the more the sizes differ.

    Raises:
        ValueError: a setting is out of range.
    """

    by: str
    num_shares: int
    concentration: float = 0.5

    def __post_init__(self) -> None:
        if isinstance(self.num_shares, bool) or not isinstance(self.num_shares, int) or self.num_shares < 2:
            raise ValueError(
                f"data.num_shares is {self.num_shares!r}; with data.partition={self.by} it is the number of clients, 2 or more"
            )
        if isinstance(self.concentration, bool) or not self.concentration > 0:
            raise ValueError(f"data.concentration is {self.concentration!r}; it must be above 0")

    @property
    def field(self) -> str | None:
        """The column by whose values rows are divided; None for none."""
        return None if self.by in (IID, DIRICHLET) else self.by

    def read_field(self, layout: Layout, columns: Sequence[str], source: str) -> Layout:
        """Return a layout that reads the column, too, by which rows are divided.

        Args:
            layout: how rows are read.
            columns: the names of the rows' columns.
            source: what to call the rows in messages.

        Raises:
            ValueError: there is no such column.
        """
        name = self.field
        if name is None:
            return layout
        if name not in columns:
            raise ValueError(
                f"data.partition is {name!r}, but {source} has no such column but {', '.join(columns)}; name one of them, or "
                f"use {IID} or {DIRICHLET}"
            )

        def read(row: Row) -> dict[str, str] | None:
            texts = layout.read(row)
            if texts is not None and row.get(name) is None:
                raise ValueError(f"there is no {name!r}, by which data.partition divides rows")
            return None if texts is None else {**texts, _VALUE: str(row[name])}

        return replace(layout, read=read, optional=(*layout.optional, name))

    def divide(self, rows: Dataset, seed: int) -> list[Dataset]:
        """Return the rows of each client, in the order in which they were.

        Args:
            rows: all rows.
            seed: decides what is drawn.

        Raises:
            ValueError: a client would get no rows.
        """
        if len(rows) < self.num_shares:
            raise ValueError(f"data.num_shares is {self.num_shares}, but there are {len(rows)} rows to train on")
        places = self._by_value(rows) if self.field is not None else self._drawn(len(rows), np.random.default_rng(seed))
        return [rows.select(sorted(share)) for share in places]

    def _drawn(self, num_rows: int, random: np.random.Generator) -> list[list[int]]:
        order = random.permutation(num_rows)
        if self.by == IID:
            return [share.tolist() for share in np.array_split(order, self.num_shares)]
        ends = np.cumsum(random.dirichlet([self.concentration] * self.num_shares))
        shares: list[list[int]] = [share.tolist() for share in np.split(order, np.rint(ends[:-1] * num_rows).astype(int))]
        for number, share in enumerate(shares, 1):
            if not share:
                raise ValueError(
                    f"data.partition={DIRICHLET} leaves client {number} of {self.num_shares} no rows; raise data.concentration "
                    f"from {self.concentration:g}, or another data.seed"
                )
        return shares

    def _by_value(self, rows: Dataset) -> list[list[int]]:
        by_value: dict[str, list[int]] = {}
        for place, value in enumerate(rows[_VALUE]):
            by_value.setdefault(value, []).append(place)
        if len(by_value) < self.num_shares:
            raise ValueError(
                f"data.partition is {self.by!r}, which has {len(by_value)} values in the rows to train on; that is too few for "
                f"data.num_shares={self.num_shares}"
            )
        shares: list[list[int]] = [[] for _ in range(self.num_shares)]
        for value in sorted(by_value, key=lambda value: (-len(by_value[value]), value)):
            min(shares, key=len).extend(by_value[value])
        return shares


def parse_partition(partition: str | None, num_shares: int | None, share: int | None, **settings: Any) -> Partition | None:
    """Return how rows are divided; None if they are not.

    Args:
        partition: see `Partition.by`.
        num_shares: among how many clients.
        share: which client's rows are wanted, from 1; None for all.
        **settings: further arguments of `Partition`.

    Raises:
        ValueError: a setting is out of range, or there without the others.
    """
    if partition is None:
        for name, value in {"num_shares": num_shares, "share": share}.items():
            if value is not None:
                raise ValueError(f"data.{name} is {value!r}; set data.partition to say how rows are divided, or leave it null")
        return None
    divided = Partition(partition, num_shares or 0, **settings)
    if share is not None and (isinstance(share, bool) or share not in range(1, divided.num_shares + 1)):
        raise ValueError(f"data.share is {share!r}; there are 1 to {divided.num_shares}")
    return divided
