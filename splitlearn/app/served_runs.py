"""A run's model whose other parts stay at the servers that trained them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from omegaconf import DictConfig

from splitlearn.adapters import load_adapters
from splitlearn.app.configuration import plain
from splitlearn.app.connecting import ConnectedServer, connected
from splitlearn.app.making import make_module
from splitlearn.checkpoint import CheckpointError
from splitlearn.cut import PartTraining, Placement
from splitlearn.export import RunRecord, load_saved_part, saved_adapters
from splitlearn.loading import OpenedModel
from splitlearn.model import trained_parameters
from splitlearn.training import SplitCausalLM, load_trained_tensors


def use_servers(settings: DictConfig, server: Any, certificates: str | None) -> bool:
    """Put into the settings of a run where its servers are now.

    Args:
        settings: of the run.
        server: ``HOST:PORT`` of its one server, or each server's by the party's name; None for none.
        certificates: the folder of this party's certificate; None takes the run's.

    Returns:
        Whether there are servers; otherwise all parts are to be in this process.

    Raises:
        ValueError: the run has no such parties.
    """
    if server is None:
        return False
    placement, server = settings.get("placement"), plain(server)
    if placement is None or "server" not in placement:
        raise ValueError(f"server is {server!r}, but the run is of a release that had no servers; leave it null")
    addresses = server if isinstance(server, Mapping) else {}
    for name in addresses:
        if name not in placement.parties:
            raise ValueError(f"server names {name!r}; the parties of the run are {', '.join(placement.parties)}")
    placement.server = None if addresses else str(server)
    for name, party in placement.parties.items():
        party["address"] = addresses.get(name)
    if certificates is not None:
        placement.certificates = certificates
    return True


@contextmanager
def at_servers(
    settings: DictConfig, opened: OpenedModel, placement: Placement, record: RunRecord, base: bool
) -> Iterator[SplitCausalLM]:
    """Yield the module of a run, with what it has trained in the parts that are here; the others stay at their servers.

    Args:
        settings: of the run.
        opened: its base checkpoint.
        placement: who holds which part.
        record: the run, in the state that is wanted.
        base: whether what the run has trained is left out.

    Raises:
        ValueError: a server refuses, or its part is in another state than is wanted.
        ConnectionError: a server cannot be reached.
        FileNotFoundError: the run did not save what it trained.
    """
    held = opened.only(placement.parts_here())
    module = make_module(settings, held, placement)
    with connected(settings, placement, module, held, record.summary.run_id or "", measures=True) as servers:
        taken = {server.party: next(iter(server.parts.values())).welcome.num_steps for server in servers}
        wanted = _wanted_step(record, base)
        gives_state = not any(taken.values()) and record.checkpoint is not None and not base
        if not gives_state:
            _refuse_other_steps(servers, taken, wanted)
        module.load_parts()
        if gives_state:
            # As Lightning does where a run goes on.
            checkpoint = _own_containers(record.checkpoint)
            module.on_load_checkpoint(checkpoint)
            module.load_state_dict(checkpoint["state_dict"])
        elif not base:
            fill(module, record)
        yield module


def _wanted_step(record: RunRecord, base: bool) -> int | None:
    """Return how many steps the parts have taken in the wanted state; None if the record does not say."""
    if base:
        return 0
    return record.summary.step if record.checkpoint is None else int(record.checkpoint["global_step"])


def _refuse_other_steps(servers: Sequence[ConnectedServer], taken: Mapping[str, int], wanted: int | None) -> None:
    for server in servers:
        if taken[server.party] != wanted:
            parts = " and ".join(server.parts)
            raise ValueError(
                f"the {parts} at {server.address} has taken {taken[server.party]} steps, and {wanted} are wanted: have the "
                "server started anew and take ckpt=last or ckpt=best, whose state it is then given"
            )


def fill(module: SplitCausalLM, record: RunRecord) -> None:
    """Put into the loaded parts that are here what the run has trained.

    Args:
        module: its parts are loaded.
        record: the run, in the state that is wanted.

    Raises:
        CheckpointError: a file is damaged, or of another run.
        FileNotFoundError: the run did not save what it trained.
    """
    if record.checkpoint is not None:
        tensors = record.checkpoint["state_dict"]
        differing = module.trained_names() ^ tensors.keys()
        if differing:
            raise CheckpointError(f"the checkpoint and the run's model differ in {min(differing)}; is it of this run?")
        own = trained_parameters(module.parts_here).keys()
        load_trained_tensors(module.parts_here, {name: tensor for name, tensor in tensors.items() if name in own})
        return
    for part in module.parts_here:
        what = record.trained[part.spec.name]
        if what is PartTraining.ADAPTERS:
            load_adapters([part], saved_adapters(record))
        elif what.trains_weights:
            saved = load_saved_part(record, part.spec.name)
            with torch.no_grad():
                part.model.load_state_dict(saved.model.state_dict())


def _own_containers(value: Any) -> Any:
    """Return a value whose dictionaries and lists are its own: the share of servers is taken out of them."""
    if isinstance(value, Mapping):
        return {key: _own_containers(one) for key, one in value.items()}
    return [_own_containers(one) for one in value] if isinstance(value, list) else value
