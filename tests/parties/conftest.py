"""A server that counts, and certificates for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch

from splitlearn.certificates import CertificateFiles, Identity, Role, make_certificates, read_identity
from splitlearn.parties import (
    Answer,
    Message,
    PartyError,
    PartyService,
    Patience,
    ServiceSettings,
    WireLimits,
    add_port,
    party_pb2,
)

QUICK = Patience(keepalive=1.0, keepalive_timeout=1.0, connect=5.0, reconnect=5.0, answer=20.0)
LIMITS = WireLimits(max_message_bytes=1 << 22)


@dataclass
class Counting:
    """Holds a number instead of a part: `step` adds a tensor's sum to it, once for each message."""

    total: float = 0.0
    numbers: list[int] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)
    greeted: list[str | None] = field(default_factory=list)
    ended: list[str | None] = field(default_factory=list)
    # Messages that are answered once another client has sent the same.
    together: list[Future[Answer]] = field(default_factory=list)


@dataclass
class CountingAnswerer:
    counting: Counting
    client: str | None

    def answer(self, message: Message) -> Answer | Future[Answer]:
        counting = self.counting
        counting.dropped += message.head.dropped
        match message.kind:
            case "hello":
                counting.greeted.append(self.client)
                if message.head.hello.plan.model_name == "another":
                    raise PartyError("the model is another", party_pb2.ERROR_KIND_PLAN, is_final=True)
                return party_pb2.Head(welcome=party_pb2.Welcome(num_steps=len(counting.numbers))), {}
            case "forward":
                return party_pb2.Head(outputs=party_pb2.Outputs()), {"doubled": message.tensors["values"] * 2}
            case "ask_state":
                return party_pb2.Head(state=party_pb2.State()), {"state": torch.zeros(100_000)}
            case "step":
                counting.numbers.append(message.head.step.number)
                counting.total += float(message.tensors["values"].sum())
            case "seed":
                time.sleep(message.head.seed.seed / 1000)
            case "zero_gradients":
                return self.wait_for_another()
            case "ask_norms":
                raise PartyError("there are no gradients", party_pb2.ERROR_KIND_STEP)
            case "close":
                pass
            case kind:
                raise KeyError(kind)
        return party_pb2.Head(done=party_pb2.Done(num_steps=len(counting.numbers))), {}

    def wait_for_another(self) -> Future[Answer]:
        own: Future[Answer] = Future()
        self.counting.together.append(own)
        if len(self.counting.together) == 2:
            for future in self.counting.together:
                future.set_result((party_pb2.Head(done=party_pb2.Done(text="together")), {}))
        return own

    def end(self) -> None:
        self.counting.ended.append(self.client)


@dataclass
class Served:
    """A server that runs."""

    counting: Counting
    service: PartyService
    server: grpc.Server
    port: int

    @property
    def target(self) -> str:
        return f"localhost:{self.port}"


def hello(**plan: Any) -> party_pb2.Head:
    return party_pb2.Head(hello=party_pb2.Hello(plan=party_pb2.Plan(**plan)))


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parties")
    make_certificates(folder / "ours", ["server", "alice", "bob"], ["localhost"])
    make_certificates(folder / "theirs", ["server", "alice"], ["localhost"])
    return folder


@pytest.fixture(scope="session")
def identity(certificates: Path) -> Callable[..., Identity]:
    def identity_of(name: str, authority: str = "ours") -> Identity:
        role = Role.SERVER if name == "server" else Role.CLIENT
        return read_identity(CertificateFiles.in_folder(certificates / authority / name), role)

    return identity_of


Serve = Callable[..., Served]


@pytest.fixture
def serve(identity: Callable[..., Identity]) -> Iterator[Serve]:
    """Starts servers, which are stopped after the test."""
    with ExitStack() as stack:

        def start(settings: ServiceSettings | None = None, own: Identity | None = None, limits: WireLimits = LIMITS) -> Served:
            counting = Counting()
            service = PartyService(partial(CountingAnswerer, counting), settings, limits)
            pool = ThreadPoolExecutor(service.num_threads)
            server = grpc.server(pool, handlers=[service], options=QUICK.server_options(limits))
            port = add_port(server, "localhost:0", own or identity("server"))
            server.start()
            stack.callback(lambda: server.stop(0).wait(5))
            stack.callback(service.stop, "the test is over", 1.0)
            return Served(counting, service, server, port)

        yield start
