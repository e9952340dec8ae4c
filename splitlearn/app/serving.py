"""Holding a part of a model for clients in other processes."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from omegaconf import DictConfig, ListConfig

from splitlearn.app.configuration import naming_settings, plain
from splitlearn.app.disk_checks import check_disk_of_server
from splitlearn.app.models import open_model, request_of
from splitlearn.app.process import leaving_no_trace
from splitlearn.app.rates import optimizer_settings
from splitlearn.checkpoint import CheckpointError
from splitlearn.cut import PART_NAMES
from splitlearn.files import write_text
from splitlearn.settings import check
from splitlearn.training import TrainingSettings

# Its packages are of an extra.
if TYPE_CHECKING:
    from splitlearn.certificates import Identity
    from splitlearn.parties import PartServer, Sharing

_MIB = 2**20
# The name by which gRPC's health service is asked for this one.
_SERVICE_NAME = "splitlearn.parties.v1.Party"
# How long calls under way may take once the server is to end.
_GRACE_SECONDS = 10.0


@leaving_no_trace
@naming_settings()
def serve(cfg: DictConfig) -> None:
    """Load one part, and do with it what clients ask, until a signal comes.

    Nothing of it needs text, labels or a tokenizer. When it ends, calls under way are answered and clients are told.

    Args:
        cfg: a configuration like ``conf/serve.yaml``.

    Raises:
        CutError: the split points do not cut the model.
        ValueError: a setting, the checkpoint or a certificate cannot be used.
        OSError: the address cannot be listened at.
        ImportError: the packages of the extra ``parties`` are missing.
    """
    check(cfg, "serve")
    from splitlearn.certificates import CertificateFiles, Role, read_identity

    identity = None
    if cfg.certificates is not None:
        identity = read_identity(CertificateFiles.in_folder(cfg.certificates), Role.SERVER)
    _listen(cfg, make_part_server(cfg), identity)


def make_part_server(cfg: DictConfig) -> PartServer:
    """Load the parts of a configuration, and return what answers clients' messages.

    Args:
        cfg: a configuration like ``conf/serve.yaml``.

    Raises:
        CutError: the split points do not cut the model.
        ValueError: a setting, the checkpoint or a kept state cannot be used.
        OSError: a kept state is not there, or a part's state cannot be kept.
    """
    from splitlearn.parties import PartServer, ServedPart, ServerLimits, WireLimits, kept_state_file, read_kept_state

    parts = plain(cfg.part)
    if not isinstance(parts, str) and not (isinstance(parts, list) and all(isinstance(part, str) for part in parts)):
        raise ValueError(f"part is {parts!r}; give trunk, top or [trunk, top]")
    limits = ServerLimits(
        max_rows=cfg.limits.rows,
        max_tokens=cfg.limits.tokens,
        max_pending=cfg.limits.pending,
        max_sessions=cfg.limits.generations,
        session_seconds=cfg.limits.session_seconds,
        max_state_bytes=int(cfg.limits.state_mib * _MIB),
        wire=WireLimits(max_message_bytes=int(cfg.limits.message_mib * _MIB)),
    )
    opened = open_model(cfg)
    plan = opened.plan
    request = request_of(cfg.model)
    settings = TrainingSettings.from_plain(
        optimizer_settings(cfg),
        plain(cfg.peft),
        gradient_checkpointing=cfg.gradient_checkpointing,
        boundary=plain(cfg.boundary),
        max_logits_mib=cfg.max_logits_mib,
    )
    request = replace(request, split_point_1=plan.split_point_1, split_point_2=plan.split_point_2)
    sharing = _sharing(cfg)
    # In the order in which data pass them; others are refused by `ServedPart`.
    names = [part for part in PART_NAMES if part in ([parts] if isinstance(parts, str) else parts)]
    kept = None if cfg.state is None else read_kept_state(Path(cfg.state), names)
    if cfg.folder is not None:
        check_disk_of_server(opened, settings.trained, names, kept_state_file(Path(cfg.folder), names))
    served = ServedPart(request, parts, settings, cfg.device, cfg.verbose)
    part_server = PartServer(served, limits, sharing)
    if kept is not None:
        try:
            part_server.go_on(kept)
        except CheckpointError as error:
            raise CheckpointError(f"{cfg.state} cannot be gone on from: {error}") from error
    return part_server


def _sharing(cfg: DictConfig) -> Sharing | None:
    """Return how several clients train the part; None for one client.

    Raises:
        ValueError: settings of several clients are incomplete, or there without an order.
    """
    from splitlearn.parties import Sharing

    if cfg.order is None:
        if cfg.steps is not None:
            raise ValueError(
                f"steps is {cfg.steps}, but without an order one client sets each step's learning rate; set order too"
            )
        return None
    if cfg.steps is None:
        raise ValueError(
            f"order is {cfg.order}, and then the part has a schedule of its own: set steps to the number of steps that it will "
            "take (sequential: of all clients together)"
        )
    if not isinstance(cfg.clients, ListConfig):
        raise ValueError(f"clients is {cfg.clients!r}; with order={cfg.order} give their names in order, such as [alice, bob]")
    return Sharing(tuple(map(str, cfg.clients)), cfg.order, cfg.steps, cfg.seed)


def _listen(cfg: DictConfig, part_server: PartServer, identity: Identity | None) -> None:
    """Answer clients until a signal raises SystemExit."""
    import grpc
    from grpc_health.v1 import health, health_pb2, health_pb2_grpc

    from splitlearn.parties import (
        Conversation,
        PartyError,
        PartyService,
        Patience,
        ServiceSettings,
        add_port,
        party_pb2,
    )

    limits = part_server.limits
    clients = plain(cfg.clients)

    def answerer_for(client: str | None) -> Conversation:
        if clients is not None and client not in clients:
            said = f"{client or 'a client without a certificate'} is none of the clients of this server"
            raise PartyError(f"{said}, which are {', '.join(map(str, clients))}", party_pb2.ERROR_KIND_IDENTITY, True)
        return Conversation(part_server, client or "a client without a certificate")

    service = PartyService(
        answerer_for,
        # The part has one state, so one client trains it, unless several do so in an order.
        ServiceSettings(max_clients=part_server.max_clients, session_seconds=limits.session_seconds),
        limits.wire,
        lambda: None if cfg.threads is None else torch.set_num_threads(cfg.threads),
    )
    # gRPC's health service takes a thread for each call, too.
    pool = ThreadPoolExecutor(service.num_threads + 4, thread_name_prefix="party")
    server = grpc.server(pool, handlers=[service], options=Patience().server_options(limits.wire))
    answers_health = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(answers_health, server)
    address = f"{cfg.host}:{add_port(server, f'{cfg.host}:{cfg.port}', identity)}"
    with ExitStack() as stack:
        stack.callback(_end, cfg, part_server)
        stack.callback(lambda: server.stop(_GRACE_SECONDS).wait(_GRACE_SECONDS))
        stack.callback(service.stop, f"the server of the {part_server.part_name} is ending", _GRACE_SECONDS)
        stack.callback(answers_health.enter_graceful_shutdown)
        server.start()
        for name in ("", _SERVICE_NAME):
            answers_health.set(name, health_pb2.HealthCheckResponse.SERVING)
        way = "in the clear" if identity is None else f"as {identity.name}"
        print(f"serving the {part_server.part_name} at {address} {way}; Ctrl-C or SIGTERM ends it", flush=True)
        if cfg.ready_file is not None:
            write_text(Path(cfg.ready_file), f"{address}\n")
        server.wait_for_termination()


def _end(cfg: DictConfig, part_server: PartServer) -> None:
    """Say what the server has done, and keep the part's state."""
    taken = f"{part_server.num_steps} steps"
    if cfg.folder is None or not part_server.num_steps:
        print(f"the {part_server.part_name} has taken {taken}", flush=True)
        return
    try:
        file = part_server.save(Path(cfg.folder))
    except OSError as error:
        # The exit status tells of the signal, and errors that follow one are not told.
        lost = f"what the {part_server.part_name} has learned since is not kept here, but in the client's last checkpoint"
        print(f"error: {error}; {lost}", file=sys.stderr, flush=True)
        return
    print(f"the {part_server.part_name} has taken {taken}; its state is in {file}", flush=True)
