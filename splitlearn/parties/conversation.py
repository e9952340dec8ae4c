"""One client's conversation with the holder of a part: every message gets an answer, and errors are sentences."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from functools import partial

import torch

from splitlearn.parties.errors import PartyError
from splitlearn.parties.part_server import PartServer
from splitlearn.parties.part_work import Answer, Session
from splitlearn.parties.protocol import party_pb2 as pb
from splitlearn.parties.wire import Message
from splitlearn.redaction import printable

_LONGEST_SENTENCE = 2_000


class Conversation:
    """Takes the messages of one client in order.

    Args:
        server: the holder of the part.
        client: the client's name, from its certificate.

    Attributes:
        session: what the server keeps for the client; None before it has greeted.
    """

    def __init__(self, server: PartServer, client: str) -> None:
        self._server = server
        self._client = client
        self.session: Session | None = None
        self._has_ended = False

    def answer(self, message: Message) -> Answer | Future[Answer]:
        """Return the answer to a message; an error is one, too. It is a future if other clients must do something first."""
        order = self._server.order
        if order is None or self.session is None or message.kind == "close":
            return self._settle(message)
        return order.admit(self._client, message, partial(self._settle, message))

    def _settle(self, message: Message) -> Answer:
        tensors: Mapping[str, torch.Tensor]
        try:
            head, tensors = self._carry_out(message)
        except PartyError as error:
            head, tensors = _error(str(error), error.kind, error.is_final), {}
        except torch.OutOfMemoryError:
            sentence = f"the server of the {self._server.part_name} has too little memory for this; send fewer rows or tokens"
            head, tensors = _error(sentence, pb.ERROR_KIND_RESOURCE, is_final=True), {}
        # Whatever it is, it must not end the server: other clients go on.
        except Exception as error:
            sentence = f"the server of the {self._server.part_name} failed: {type(error).__name__}: {error}"
            head, tensors = _error(sentence, pb.ERROR_KIND_INTERNAL, is_final=True), {}
        head.call = message.head.call
        return head, tensors

    def end(self, is_done: bool = False) -> None:
        """Let go of what the server keeps for the client.

        Args:
            is_done: whether the client has said farewell.
        """
        if self.session is None or self._has_ended:
            return
        self._has_ended = True
        self._server.forget(self.session)
        if self._server.order is not None:
            self._server.order.leave(self._client, is_lost=not is_done)

    def _carry_out(self, message: Message) -> Answer:
        if message.kind == "hello":
            if self.session is not None:
                raise PartyError(f"{self._client} has greeted already", is_final=True)
            self.session, answer = self._server.greet(message, self._client)
            return answer
        if self.session is None:
            raise PartyError(f"{self._client} must begin with hello, not {message.kind!r}", is_final=True)
        if message.kind == "close":
            self.end(is_done=True)
            return pb.Head(done=pb.Done(num_steps=self._server.num_steps)), {}
        return self._server.answer(self.session, message)


def _error(sentence: str, kind: int, is_final: bool) -> pb.Head:
    said = printable(" ".join(sentence.split()))[:_LONGEST_SENTENCE]
    return pb.Head(error=pb.Error(kind=pb.ErrorKind.ValueType(kind), sentence=said, is_final=is_final))
