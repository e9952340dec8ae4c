"""The placement of a model: parties, the parts of each, and the data that pass from one party to another. No tensors.

Cut 1 lies between bottom and trunk, cut 2 between trunk and top.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from splitlearn.cut.devices import resolve_device_map
from splitlearn.cut.party import Party, PlacementError, parse_party, place_party
from splitlearn.cut.plan import PART_NAMES

CUTS = (1, 2)


@dataclass(frozen=True)
class Placement:
    """Which party holds which part, checked when it is made.

    Args:
        parties: the parties; together they hold bottom, trunk and top once each.
        data: the party that holds the text. It holds the bottom, which takes the tokens.
        labels: the party that knows the labels when the loss is computed. It holds the top, which computes it. If it is not
            the party that holds the text, labels are sent to it.

    Raises:
        PlacementError: a part is unknown, held twice or by nobody, or data or labels are with another party than the part
            that takes them.
    """

    parties: tuple[Party, ...]
    data: str
    labels: str

    def __post_init__(self) -> None:
        holders = self._checked_holders()
        for name, value, part, use in (
            ("data", self.data, "bottom", "takes the tokens"),
            ("labels", self.labels, "top", "computes the loss"),
        ):
            if value not in holders.values():
                raise PlacementError(f"{name} is {value!r}, which is no party; the parties are {self._names}")
            if value != holders[part]:
                raise PlacementError(
                    f"{name} is {value!r}, but {holders[part]!r} holds the {part}, which {use}: "
                    f"set {name} to {holders[part]!r}, or give the {part} to {value!r}"
                )

    @property
    def _names(self) -> str:
        return ", ".join(party.name for party in self.parties) or "none"

    def _checked_holders(self) -> dict[str, str]:
        """Return the party that holds each part; refuse parts that are unknown, held twice or by nobody."""
        holders: dict[str, str] = {}
        for party in self.parties:
            where = f"parties.{party.name}.parts"
            if not party.parts:
                raise PlacementError(f"{where} is empty; give it at least one of {', '.join(PART_NAMES)}")
            for part in party.parts:
                if part not in PART_NAMES:
                    raise PlacementError(f"{where} names {part!r}; the parts are {', '.join(PART_NAMES)}")
                if part in holders:
                    raise PlacementError(f"{where} names {part!r}, which {holders[part]!r} holds already; name it once")
                holders[part] = party.name
        for part in PART_NAMES:
            if part not in holders:
                raise PlacementError(f"parties leave {part!r} to nobody; give it to one of them (there are: {self._names})")
        return holders

    @classmethod
    def one_party(cls, device: str = "cpu", device_map: str | Mapping[str, str] | None = None, *, num_gpus: int) -> Placement:
        """Place all parts with one party in this process.

        Args:
            device: as for `resolve_device_map`, like the others.
            device_map: None, one device, a mapping from part to device, or ``"auto"``.
            num_gpus: how many GPUs this machine has.

        Raises:
            DeviceMapError: a part's name is unknown, or a device is malformed or absent.
        """
        devices = resolve_device_map(device, device_map, num_gpus=num_gpus)
        return cls((Party("owner", PART_NAMES, devices),), data="owner", labels="owner")

    @classmethod
    def u_shaped(cls, device: str = "cpu", device_map: str | Mapping[str, str] | None = None, *, num_gpus: int) -> Placement:
        """Place bottom and top with a client that owns text and labels, the trunk with a server, both in this process.

        Args:
            device: as for `resolve_device_map`, like the others.
            device_map: None, one device, a mapping from part to device, or ``"auto"``.
            num_gpus: how many GPUs this machine has.

        Raises:
            DeviceMapError: a part's name is unknown, or a device is malformed or absent.
        """
        parties = {"client": {"parts": ["bottom", "top"]}, "server": {"parts": ["trunk"]}}
        return cls.resolve(parties, "client", "client", device=device, device_map=device_map, num_gpus=num_gpus)

    @classmethod
    def resolve(
        cls,
        parties: Mapping[str, Mapping[str, Any]],
        data: str,
        labels: str,
        *,
        device: str = "cpu",
        device_map: str | Mapping[str, str] | None = None,
        num_gpus: int,
    ) -> Placement:
        """Make a placement from plain values, with a device for every part that is in this process.

        Args:
            parties: by name, each party's ``parts``; and its ``devices`` (None, one device, or a device for each of its parts)
                and ``address`` (``"host:port"``, or None for this process), both None if they are left out.
            data: the party that holds the text.
            labels: the party that knows the labels.
            device: device of parts that neither their party's ``devices`` nor ``device_map`` names.
            device_map: as for `resolve_device_map`; only its entries for parts in this process are checked.
            num_gpus: how many GPUs this machine has.

        Raises:
            PlacementError: the parties do not hold bottom, trunk and top once each, a setting is malformed or unknown, or a
                party's device is absent.
            DeviceMapError: ``device`` or ``device_map`` cannot be honoured.
        """
        if not isinstance(parties, Mapping) or not parties:
            raise PlacementError(f"parties is {parties!r}; give at least one party by name, with its parts")
        described = [parse_party(name, settings) for name, settings in parties.items()]
        # Check the holders before any device.
        unplaced = cls(tuple(party for party, _ in described), data, labels)
        general = resolve_device_map(device, device_map, num_gpus=num_gpus, parts=unplaced.parts_here())
        placed = [place_party(party, devices, general, num_gpus) if party.is_here else party for party, devices in described]
        return cls(tuple(placed), data, labels)

    def holder(self, part: str) -> str:
        """Return the name of the party that holds a part.

        Args:
            part: the part's name.

        Raises:
            KeyError: there is no such part.
        """
        return {part: party.name for party in self.parties for part in party.parts}[part]

    def party(self, name: str) -> Party:
        """Return a party.

        Args:
            name: its name.

        Raises:
            KeyError: there is no such party.
        """
        return {party.name: party for party in self.parties}[name]

    def parts_here(self, party: str | None = None) -> tuple[str, ...]:
        """Return the parts in this process, in the order in which data pass them.

        Args:
            party: the name of a party, whose parts alone are returned; None for all parties.

        Raises:
            KeyError: there is no such party.
        """
        parties = self.parties if party is None else (self.party(party),)
        held = {part for one in parties if one.is_here for part in one.parts}
        return tuple(part for part in PART_NAMES if part in held)

    @property
    def devices(self) -> dict[str, str]:
        """The device of each part in this process by name."""
        placed = {part: device for party in self.parties for part, device in party.devices.items()}
        return {part: placed[part] for part in self.parts_here() if part in placed}

    def crosses(self, cut: int) -> bool:
        """Whether a cut lies between two parties.

        Args:
            cut: 1 or 2.

        Raises:
            ValueError: there is no such cut.
        """
        below, above = self._beside(cut)
        return self.holder(below) != self.holder(above)

    def inputs_cross(self, cut: int) -> bool:
        """Whether mask and positions are sent at a cut: the party above it holds no part below, so it does not have them.

        Args:
            cut: 1 or 2.

        Raises:
            ValueError: there is no such cut.
        """
        above = self.holder(self._beside(cut)[1])
        return all(self.holder(part) != above for part in PART_NAMES[:cut])

    def labels_cross(self) -> int | None:
        """Return the cut at which labels are sent to the party that computes the loss; None if they are there already.

        Labels go directly to the holder of the top. They count at the cut where its share of the model begins.
        """
        if self.labels == self.data:
            return None
        return next(cut for cut in reversed(CUTS) if self.crosses(cut))

    def what_crosses(self, cut: int) -> tuple[str, ...]:
        """Return in words the data that are sent at a cut in a training step; empty if it lies inside one party.

        Args:
            cut: 1 or 2.

        Raises:
            ValueError: there is no such cut.
        """
        if not self.crosses(cut):
            return ()
        more = ("mask", "positions") if self.inputs_cross(cut) else ()
        return ("smashed data", *more, *(("labels",) if self.labels_cross() == cut else ()))

    def addresses(self) -> Iterator[tuple[str, str]]:
        """Yield name and address of each party elsewhere."""
        for party in self.parties:
            if party.address is not None:
                yield party.name, party.address

    def to_dict(self) -> dict[str, Any]:
        """Return the placement as plain values, for JSON; `resolve` takes them."""
        return {"parties": {party.name: party.to_dict() for party in self.parties}, "data": self.data, "labels": self.labels}

    @staticmethod
    def _beside(cut: int) -> tuple[str, str]:
        """Return the part below a cut and the part above it."""
        if cut not in CUTS:
            raise ValueError(f"cut is {cut!r}; a model has cut 1, between bottom and trunk, and cut 2, between trunk and top")
        return PART_NAMES[cut - 1], PART_NAMES[cut]


def refuse_both(placement: Placement | None, device: str, device_map: str | Mapping[str, str] | None) -> None:
    """Refuse devices beside a placement, which says where parts go.

    Args:
        placement: the placement; None for none.
        device: the device that was given; ``"cpu"`` counts as none.
        device_map: the device map that was given; None for none.

    Raises:
        PlacementError: both are given.
    """
    if placement is not None and (device != "cpu" or device_map is not None):
        name, value = ("device_map", device_map) if device_map is not None else ("device", device)
        raise PlacementError(f"{name} is {value!r}, but the placement says where parts go; leave {name} out")
