"""Random numbers by name, so that nothing draws from the numbers of another."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

_CPU = torch.device("cpu")
_KEY_BYTES = 32
# Torch's generator of the CPU is a Mersenne twister: a state tensor has 624 words of 32 bits, each in 8 bytes, from here on.
_WORDS_FROM, _NUM_WORDS = 24, 624


def new_key() -> str:
    """Return a secret key of 256 bits from the system's source of random numbers, in hexadecimal digits."""
    return secrets.token_hex(_KEY_BYTES)


@contextmanager
def forked_random_state() -> Iterator[None]:
    """Set torch's own generators back afterwards to where they are now: the CPU's, and those of all GPUs if any is in use.

    A seed that is set within goes to every GPU, not only to those that the caller's tensors are on.
    """
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        yield


class NamedGenerators:
    """Random number generators by name: one for each part, and one for each direction at a cut.

    A generator's seed is made of ``seed`` and its name alone. Whoever holds a part therefore draws the same numbers for it, in
    one process or in another, whatever is drawn for other parts. Each device has generators of its own.

    Args:
        seed: the seed of the run.
        seeds: seeds of generators by name, from `seed_of`, in the place of those that follow from ``seed``. The holder of a
            part is told no others.
        secret_names: generators that follow from ``key`` and not from ``seed``.
        key: a secret from `new_key`; None if there is none, and ``secret_names`` follow from ``seed`` as all others.

    Attributes:
        seed: the same.
    """

    def __init__(
        self,
        seed: int,
        seeds: Mapping[str, int] | None = None,
        secret_names: Collection[str] = (),
        key: str | None = None,
    ) -> None:
        self.seed = seed
        self._seeds = dict(seeds or {})
        self._secret_names, self._key = frozenset(secret_names), key
        # By name, then by kind of device: a name belongs to one place, but a resumed run may have another GPU.
        self._generators: dict[str, dict[str, torch.Generator]] = {}

    def is_secret(self, name: str) -> bool:
        """Whether the numbers of a name follow from a secret key, and not from the seed."""
        return self._key is not None and name in self._secret_names

    def seed_of(self, name: str) -> int:
        """Return the seed of the generator of a name, from which no other name's follows.

        Raises:
            ValueError: the name's numbers are a secret.
        """
        if self.is_secret(name):
            raise ValueError(f"the random numbers of {name} are a secret of this process, and no seed of them is given away")
        return self._seeds.get(name, _seed_of(self.seed, name))

    def generator(self, name: str, device: torch.device = _CPU) -> torch.Generator:
        """Return the generator of a name, to pass to torch's functions that draw random numbers.

        Args:
            name: for example ``"cut_1/activation"``.
            device: where the random numbers are wanted.
        """
        of_name = self._generators.setdefault(name, {})
        generator = of_name.get(device.type)
        if generator is None:
            generator = of_name[device.type] = self._make(name, device)
        elif device.index is not None and generator.device != device:
            moved = torch.Generator(device)
            moved.set_state(generator.get_state())
            generator = of_name[device.type] = moved
        return generator

    def _make(self, name: str, device: torch.device) -> torch.Generator:
        if not self.is_secret(name):
            return torch.Generator(device).manual_seed(self.seed_of(name))
        expanded = hashlib.shake_256(f"{self._key}/{name}".encode())
        generator = torch.Generator(device).manual_seed(int.from_bytes(expanded.digest(8), "big"))
        if device.type == "cpu":
            # Of a seed it takes 32 bits alone, which can all be tried; so the whole state is filled.
            state = generator.get_state()
            words = torch.frombuffer(bytearray(expanded.digest(4 * _NUM_WORDS)), dtype=torch.uint32).long()
            state[_WORDS_FROM : _WORDS_FROM + 8 * _NUM_WORDS].view(torch.int64).copy_(words)
            generator.set_state(state)
        return generator

    @contextmanager
    def drawing(self, name: str, device: torch.device = _CPU) -> Iterator[None]:
        """Have everything that draws from torch's default generators draw from those of a name.

        Dropout takes no generator, so the default generator of the CPU, and that of a GPU if ``device`` is one, gets the state
        of the name's own while this lasts, and has its own state back afterwards.

        Args:
            name: for example ``"trunk"``.
            device: where the random numbers are drawn.
        """
        pairs = [(default, self.generator(name, default.device), default.get_state()) for default in default_generators(device)]
        for default, own, _ in pairs:
            default.set_state(own.get_state())
        try:
            yield
        finally:
            for default, own, before in pairs:
                own.set_state(default.get_state())
                default.set_state(before)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Put every generator back to where it is now, whatever is drawn meanwhile."""
        before = self.state()["states"]
        try:
            yield
        finally:
            # The generators themselves stay, since others may hold them.
            self._generators = {name: self._generators[name] for name in before}
            for name, states in before.items():
                self._generators[name] = {device: self._generators[name][device] for device in states}
                for device, state in states.items():
                    self._generators[name][device].set_state(state)

    def state(self) -> dict[str, Any]:
        """Return ``seed``, and ``states`` by name and kind of device, as plain values and tensors, and any ``key``."""
        states = {
            name: {device: generator.get_state() for device, generator in of_name.items()}
            for name, of_name in self._generators.items()
        }
        return {"seed": self.seed, "states": states} | ({} if self._key is None else {"key": self._key})

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned; a name that is not in it begins as the seed, or the key, says.

        States of devices that are not here are passed over.
        """
        self.seed, self._key = state["seed"], state.get("key")
        self._generators = {}
        for name, of_name in state["states"].items():
            for device, own in of_name.items():
                if device == "cpu" or torch.cuda.is_available():
                    # A checkpoint may have been read to a GPU.
                    self.generator(name, torch.device(device)).set_state(own.cpu())


def default_generators(device: torch.device) -> list[torch.Generator]:
    """Return the default generators that a module on a device may draw from: some draw on the CPU wherever they live."""
    found: list[torch.Generator] = [torch.default_generator]
    if device.type == "cuda":
        torch.cuda.init()
        index = torch.cuda.current_device() if device.index is None else device.index
        found.append(torch.cuda.default_generators[index])
    return found


def _seed_of(seed: int, name: str) -> int:
    # Python's own hash of a string differs from process to process.
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big")
