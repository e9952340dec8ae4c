"""A run's connection to the server that holds a part."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from omegaconf import DictConfig

from splitlearn.app.configuration import plain
from splitlearn.loading import OpenedModel
from splitlearn.naming import naming_group
from splitlearn.training import PartElsewhere, SplitCausalLM

# Its packages are of an extra.
if TYPE_CHECKING:
    from splitlearn.parties import GrpcConnection, RemotePart

_PART = "trunk"


@dataclass(frozen=True, eq=False)
class ConnectedServer:
    """A server that holds a part of this run.

    Attributes:
        address: its ``HOST:PORT``.
        connection: the conversation with it.
        part: what stands for the part here.
    """

    address: str
    connection: GrpcConnection
    part: RemotePart


def refuse_with_server(cfg: DictConfig) -> None:
    """Refuse settings that a run with a server cannot follow.

    Raises:
        ValueError: there is one.
    """
    if cfg.placement.server is not None and cfg.load_best_model_at_end:
        raise ValueError(
            "load_best_model_at_end=true puts the best parts back in the end, but the server's part has gone on; leave it "
            "false, and export the best checkpoint with ckpt=best"
        )


@contextmanager
def connected(cfg: DictConfig, module: SplitCausalLM, opened: OpenedModel, run_id: str) -> Iterator[ConnectedServer | None]:
    """Connect a run's module with the server of ``placement.server`` while the block runs; give None if there is none.

    Args:
        cfg: the run's configuration.
        module: how the model is trained; its parts are not loaded yet.
        opened: the model, for the parts that are here.
        run_id: of the run.

    Raises:
        ValueError: the server refuses, since model, cut, dtype, training or codecs differ, or a certificate cannot be used.
        ConnectionError: the server cannot be reached.
        FileNotFoundError: a certificate is not there.
        ImportError: the packages of the extra ``parties`` are missing.
    """
    settings = cfg.placement
    if settings.server is None:
        yield None
        return
    from splitlearn.certificates import CertificateFiles, Role, read_identity
    from splitlearn.parties import GrpcConnection, LinkSettings, PartyLostError, join

    folder = settings.certificates
    identity = None if folder is None else read_identity(CertificateFiles.in_folder(folder), Role.CLIENT)
    with naming_group("placement.patience"):
        patience = LinkSettings(**plain(settings.patience))
    connection = GrpcConnection(settings.server, identity, patience, name=f"the server of the {_PART}")
    try:
        part = join(connection, opened, module.settings, module.generators, _PART, run_id)
        module.connect({_PART: cast(PartElsewhere, part)})
        try:
            yield ConnectedServer(settings.server, connection, part)
        except PartyLostError as error:
            raise PartyLostError(f"{error}; once it runs again, go on from the last checkpoint with ckpt_path=last") from error
    finally:
        connection.close()


def server_figures(server: ConnectedServer, train_s: float) -> dict[str, Any]:
    """Return the figures of a server as in ``summary.json``.

    Args:
        server: the server.
        train_s: the seconds of training.
    """
    connection = server.connection
    return {
        "address": server.address,
        "sent_bytes": connection.sent_bytes,
        "received_bytes": connection.received_bytes,
        "state_bytes": server.part.owner.state_bytes,
        "waited_s": connection.waited_seconds,
        "waiting_share": connection.waited_seconds / train_s if train_s else None,
        "computed_s": connection.server_seconds,
        "reconnects": connection.reconnects,
        "loading": server.part.loading,
    }
