"""The holder of a part: it greets clients whose plan agrees with its own, and answers their messages."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from splitlearn.files import write_json
from splitlearn.memory import MemoryTracker
from splitlearn.naming import named
from splitlearn.parties.client_order import ClientOrder, Sharing, make_order
from splitlearn.parties.errors import PartyError
from splitlearn.parties.forward_checks import ServerLimits
from splitlearn.parties.kept_state import kept_state_file, load_kept_state
from splitlearn.parties.part_work import Answer, PartWork, Session
from splitlearn.parties.plan import difference, with_order
from splitlearn.parties.protocol import PROTOCOL_VERSION
from splitlearn.parties.protocol import party_pb2 as pb
from splitlearn.parties.served_part import ServedPart
from splitlearn.parties.shared_work import SharedWork
from splitlearn.parties.wire import Message
from splitlearn.parties.wire_checks import WireError
from splitlearn.randomness import NamedGenerators
from splitlearn.training import SharedSteps, WholeFileCheckpointIO


class PartServer:
    """Holds a part and does with it what clients ask. It does not know the text, and labels only if it holds the top.

    Args:
        served: the part.
        limits: what a client may ask for.
        sharing: how several clients train it; None trains it for one at a time.

    Attributes:
        part_name: the part's name.
        served: the part.
        order: says which of several clients goes first; None for one client.

    Raises:
        ValueError: adapters or a choice of tensors do not fit the part.
    """

    def __init__(self, served: ServedPart, limits: ServerLimits | None = None, sharing: Sharing | None = None) -> None:
        self.served = served
        self.part_name = served.name
        self.limits = limits or ServerLimits()
        self.run_id = ""
        self._work: PartWork | None = None
        self.order: ClientOrder | None = None
        self._sharing = sharing
        self._steps: SharedSteps | None = None
        self._sessions: dict[str, Session] = {}
        # What the client of the run has told, so that the part can be prepared without it.
        self._seeds: dict[str, int] = {}
        self._tracker = MemoryTracker()
        if sharing is not None:
            self._share(sharing)

    def _share(self, sharing: Sharing) -> None:
        # Not from the seeds of the client that comes first: it is not always the same.
        prepared = self.served.prepare(NamedGenerators(sharing.seed))
        self._steps = self.served.share_steps(sharing.num_steps)
        self._work = SharedWork(self.served, prepared, self.limits, self._steps)
        self.order = make_order(sharing, self._steps)
        self.served.plan = with_order(self.served.plan, sharing.order)

    def go_on(self, content: Mapping[str, Any]) -> None:
        """Go on from what `save` has kept; the client of the run sends a state of its own as it goes on, too.

        Args:
            content: from `read_kept_state`.

        Raises:
            CheckpointError: it does not fit the part.
            ValueError: several clients train the part.
        """
        if self._sharing is not None:
            raise ValueError(
                f"{named('state')} is given, but several clients train the {self.part_name}; leave it null, or {named('order')}"
            )
        self._seeds = dict(content.get("seeds") or {})
        prepared = self.served.prepare(NamedGenerators(0, self._seeds))
        load_kept_state(prepared.owner, content, self.served.plan.model_digest)
        self._work = PartWork(self.served, prepared, self.limits)
        self._work.num_steps, self.run_id = content["num_steps"], content["run_id"]

    @property
    def max_clients(self) -> int:
        """How many clients may have sessions at a time."""
        return 1 if self._sharing is None else len(self._sharing.clients)

    @property
    def num_steps(self) -> int:
        """How many steps the part has taken."""
        if self._steps is not None:
            return self._steps.num_steps
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
        if hello.measures and self._sharing is not None:
            # It would have to wait for its turn, and its turn would then be over.
            raise PartyError(
                f"several clients train the {self.part_name} at this server, which serves none that only measures: "
                "have one started without clients and order, and take ckpt=last or ckpt=best, whose state it is then given",
                pb.ERROR_KIND_PLAN,
                is_final=True,
            )
        if self.served.prepared is None:
            self._seeds = dict(hello.seeds)
        generators = NamedGenerators(0, dict(hello.seeds))
        prepared = self.served.prepare(generators)
        self._work = self._work or PartWork(self.served, prepared, self.limits)
        session = self._begin(client, hello.run_id, generators)
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
            is_shared=self._sharing is not None,
        )
        return session, (pb.Head(welcome=welcome), {})

    def _begin(self, client: str, run_id: str, generators: NamedGenerators) -> Session:
        """Return the session of a client that agrees with this server.

        Raises:
            PartyError: it is none of those that train the part, or has done so before.
        """
        if self._sharing is None:
            return Session(client, must_load=self.num_steps > 0 and run_id != self.run_id)
        names = ", ".join(self._sharing.clients)
        if client not in self._sharing.clients:
            said = f"{client} is none of the clients that train the {self.part_name}, which are {names}"
            raise PartyError(said, pb.ERROR_KIND_IDENTITY, is_final=True)
        if client in self._sessions:
            raise PartyError(
                f"{client} has had its run with this {self.part_name}; for another, or to go on, have the server started anew",
                pb.ERROR_KIND_STEP,
                is_final=True,
            )
        # Each client's dropout and noise are its own, whichever client comes first.
        session = Session(client, generators=generators, boundaries=self.served.make_boundaries(generators))
        self._sessions[client] = session
        return session

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
        if message.kind not in ("ask_state", "load_state"):
            # A state is of one moment.
            session.states.forget()
        began = time.perf_counter()
        try:
            head, tensors = handler(session, message)
        except WireError as error:
            raise PartyError(str(error)) from error
        head.seconds = time.perf_counter() - began
        # Graphs and gradients that the message has left are there now.
        self._tracker.sample()
        if head.HasField("done"):
            head.done.peak_rss_bytes = self._tracker.peak_rss_bytes
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
        file = kept_state_file(folder, self.served.names)
        beside = {"run_id": self.run_id, "part": self.part_name, "base": self.served.plan.model_digest, "seeds": self._seeds}
        WholeFileCheckpointIO().save_checkpoint({**state, **beside}, file)
        loading = self.served.receipt.to_dict()
        summary = {"part": self.part_name, "num_steps": self.num_steps, "run_id": self.run_id, "loading": loading}
        summary["peak_rss_bytes"] = self._tracker.peak_rss_bytes
        if self._sharing is not None:
            steps = {name: session.num_steps for name, session in self._sessions.items()}
            summary |= {"order": self._sharing.order, "clients": steps}
        write_json(folder / "summary.json", summary)
        return file

    def forget(self, session: Session) -> None:
        """End a session: its graphs, caches and pieces of states are let go."""
        session.pending.clear()
        session.states.forget()
        for generation in session.generations.values():
            generation.end()
        session.generations.clear()
