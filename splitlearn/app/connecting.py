"""A run's connections to the servers that hold parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from omegaconf import DictConfig

from splitlearn.app.configuration import plain
from splitlearn.app.simulating import rounds_folder_of
from splitlearn.cut import Placement
from splitlearn.loading import OpenedModel
from splitlearn.naming import naming_group
from splitlearn.training import PartElsewhere, SplitCausalLM

# Its packages are of an extra.
if TYPE_CHECKING:
    from splitlearn.parties import GrpcConnection, RemotePart


_SUMMED = ("sent_bytes", "received_bytes", "state_bytes", "waited_s", "computed_s", "peak_rss_bytes", "reconnects")


@dataclass(frozen=True, eq=False)
class ConnectedServer:
    """A server that holds parts of this run.

    Attributes:
        party: its name in the placement.
        address: its ``HOST:PORT``.
        connection: the conversation with it.
        parts: what stands for its parts here, by the part's name.
    """

    party: str
    address: str
    connection: GrpcConnection
    parts: Mapping[str, RemotePart]


@contextmanager
def connected(
    cfg: DictConfig, placement: Placement, module: SplitCausalLM, opened: OpenedModel, run_id: str, measures: bool = False
) -> Iterator[list[ConnectedServer]]:
    """Connect a run's module with the servers of its placement while the block runs; none are there if it has no addresses.

    Args:
        cfg: the run's configuration.
        placement: who holds which part.
        module: how the model is trained; its parts are not loaded yet.
        opened: the model, for the parts that are here.
        run_id: of the run.
        measures: nothing is trained.

    Raises:
        ValueError: a server refuses, since model, cut, dtype, training or codecs differ, or a certificate cannot be used.
        ConnectionError: a server cannot be reached.
        FileNotFoundError: a certificate is not there.
        ImportError: the packages of the extra ``parties`` are missing.
    """
    settings = cfg.get("placement")
    in_rounds = not measures and rounds_folder_of(cfg) is not None
    if not any(placement.addresses()):
        yield []
        return
    from splitlearn.certificates import CertificateFiles, Role, read_identity
    from splitlearn.parties import GrpcConnection, PartyLostError, Patience, join_parts

    folder = settings.certificates
    identity = None if folder is None else read_identity(CertificateFiles.in_folder(folder), Role.CLIENT)
    with naming_group("placement.patience"):
        patience = Patience(**plain(settings.patience))
    servers = []
    with ExitStack() as stack:
        for party, address in placement.addresses():
            held = placement.party(party).parts
            connection = GrpcConnection(address, identity, patience, name=f"the server of the {' and '.join(held)}")
            stack.callback(connection.close)
            order = settings.order if in_rounds else None
            parts = join_parts(connection, opened, module.settings, module.generators, held, run_id, order, measures)
            if in_rounds and not all(part.welcome.is_shared for part in parts.values()):
                raise ValueError(
                    f"placement.rounds.folder is set, but {connection.party} trains its part with one client; start it with "
                    f"order={order}, clients and steps"
                )
            if cfg.load_best_model_at_end and any(part.welcome.is_shared for part in parts.values()):
                raise ValueError(
                    f"load_best_model_at_end=true puts the best parts back in the end, but several clients train the part of "
                    f"{connection.party}; leave it false"
                )
            servers.append(ConnectedServer(party, address, connection, parts))
        module.connect({name: cast(PartElsewhere, part) for server in servers for name, part in server.parts.items()})
        try:
            yield servers
        except PartyLostError as error:
            raise PartyLostError(f"{error}; once it runs again, go on from the last checkpoint with ckpt_path=last") from error


def server_figures(servers: Sequence[ConnectedServer], train_s: float) -> dict[str, Any] | None:
    """Return the figures of servers as in ``summary.json``, of several their sums with each one's own; None without servers.

    Args:
        servers: the servers.
        train_s: the seconds of training.
    """
    figures = {server.party: _figures(server, train_s) for server in servers}
    if len(figures) < 2:
        return next(iter(figures.values()), None)
    each = list(figures.values())
    sums = {name: sum(one[name] for one in each) for name in _SUMMED}
    return {
        "address": ", ".join(one["address"] for one in each),
        **sums,
        "waiting_share": sums["waited_s"] / train_s if train_s else None,
        "loading": {"parts": [part for one in each for part in one["loading"]["parts"]]},
        "parties": figures,
    }


def _figures(server: ConnectedServer, train_s: float) -> dict[str, Any]:
    connection, part = server.connection, next(iter(server.parts.values()))
    return {
        "address": server.address,
        "sent_bytes": connection.sent_bytes,
        "received_bytes": connection.received_bytes,
        "state_bytes": part.owner.state_bytes,
        "waited_s": connection.waited_seconds,
        "waiting_share": connection.waited_seconds / train_s if train_s else None,
        "computed_s": connection.server_seconds,
        "peak_rss_bytes": connection.server_peak_bytes,
        "reconnects": connection.reconnects,
        "loading": part.loading,
    }
