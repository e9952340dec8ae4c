"""The holder of a part: it greets clients whose plan agrees with its own, and answers their messages."""

from __future__ import annotations

import json
import time
from pathlib import Path

from splitlearn.files import write_json
from splitlearn.parties.errors import PartyError
from splitlearn.parties.forward_checks import ServerLimits
from splitlearn.parties.part_work import Answer, PartWork, Session
from splitlearn.parties.plan import difference
from splitlearn.parties.protocol import PROTOCOL_VERSION
from splitlearn.parties.protocol import party_pb2 as pb
from splitlearn.parties.served_part import ServedPart
from splitlearn.parties.wire import Message
from splitlearn.parties.wire_checks import WireError
from splitlearn.training import WholeFileCheckpointIO


class PartServer:
    """Holds a part and does with it what clients ask. It knows neither text nor labels.

    Args:
        served: the part.
        limits: what a client may ask for.

    Attributes:
        part_name: the part's name.
        served: the part.
    """

    def __init__(self, served: ServedPart, limits: ServerLimits | None = None) -> None:
        self.served = served
        self.part_name = served.name
        self.limits = limits or ServerLimits()
        self.run_id = ""
        self._work: PartWork | None = None

    @property
    def num_steps(self) -> int:
        """How many steps the part has taken."""
        return 0 if self._work is None else self._work.num_steps

    def greet(self, message: Message, client: str) -> tuple[Session, Answer]:
        """Begin a session with a client whose plan agrees with this server's.

        Raises:
            PartyError: it does not; the sentence says how.
        """
        hello = message.head.hello
        if hello.protocol_version != PROTOCOL_VERSION:
            raise PartyError(
                f"{client} speaks version {hello.protocol_version} of the protocol and this server version {PROTOCOL_VERSION}; "
                "use one release of splitlearn on both sides",
                pb.ERROR_KIND_PLAN,
                is_final=True,
            )
        problem = difference(self.served.plan, hello.plan, client, "at the server")
        if problem is not None:
            raise PartyError(problem, pb.ERROR_KIND_PLAN, is_final=True)
        prepared = self.served.prepare(dict(hello.seeds))
        self._work = self._work or PartWork(self.served, prepared, self.limits)
        session = Session(client, must_load=self.num_steps > 0 and hello.run_id != self.run_id)
        self.run_id = hello.run_id
        groups = [
            pb.Group(
                name=group["name"],
                learning_rate=group["lr"],
                weight_decay=group["weight_decay"],
                tensors=prepared.owner.names_of(group["name"]),
            )
            for group in prepared.owner.group_settings()
        ]
        welcome = pb.Welcome(
            protocol_version=PROTOCOL_VERSION,
            plan=self.served.plan,
            num_steps=self.num_steps,
            groups=groups,
            limits=self.limits.to_message(),
            receipt=json.dumps(self.served.receipt.to_dict()),
        )
        return session, (pb.Head(welcome=welcome), {})

    def answer(self, session: Session, message: Message) -> Answer:
        """Carry out a message.

        Raises:
            PartyError: it cannot be carried out; the sentence says why.
        """
        handler = None if self._work is None else self._work.handlers.get(message.kind)
        if handler is None:
            raise PartyError(f"this server knows no message {message.kind!r}", is_final=True)
        for number in message.head.dropped:
            session.pending.pop(number, None)
        began = time.perf_counter()
        try:
            head, tensors = handler(session, message)
        except WireError as error:
            raise PartyError(str(error)) from error
        head.seconds = time.perf_counter() - began
        return head, tensors

    def save(self, folder: Path) -> Path:
        """Keep the part's state, and a summary of what the server has done.

        Trained tensors and optimizer state have the unsplit model's names.

        Args:
            folder: where to write.

        Returns:
            The file of the state.

        Raises:
            OSError: the folder cannot be written or the disk is full.
        """
        state = {} if self.served.prepared is None else self.served.prepared.owner.state()
        file = folder / f"{self.part_name}.ckpt"
        WholeFileCheckpointIO().save_checkpoint({**state, "run_id": self.run_id, "part": self.part_name}, file)
        loading = self.served.receipt.to_dict()
        summary = {"part": self.part_name, "num_steps": self.num_steps, "run_id": self.run_id, "loading": loading}
        write_json(folder / "summary.json", summary)
        return file

    def forget(self, session: Session) -> None:
        """End a session: its graphs and caches are let go."""
        session.pending.clear()
        for generation in session.generations.values():
            generation.end()
        session.generations.clear()
