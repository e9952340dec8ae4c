"""The sessions of a server: at most one for each client, and none that nobody comes back to."""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable

from splitlearn.naming import named
from splitlearn.parties.errors import PartyError
from splitlearn.parties.mailbox import Mailbox
from splitlearn.parties.protocol import party_pb2 as pb
from splitlearn.parties.service_settings import Answerer, ServiceSettings

_log = logging.getLogger(__name__)


class Mailboxes:
    """Mailboxes by their tokens.

    Args:
        settings: how many there may be, and for how long one waits for its client.
        max_bytes: how much may wait in each.
        on_removal: called with each whose session has ended.
    """

    def __init__(self, settings: ServiceSettings, max_bytes: int, on_removal: Callable[[Mailbox], None]) -> None:
        self._settings = settings
        self._max_bytes = max_bytes
        self._on_removal = on_removal
        self._mailboxes: dict[str, Mailbox] = {}
        self._lock = threading.RLock()
        self._refusal = ""

    def all(self) -> list[Mailbox]:
        """Return those that there are."""
        with self._lock:
            return list(self._mailboxes.values())

    def refuse_new(self, sentence: str) -> None:
        """Begin no further session.

        Args:
            sentence: what clients are told who want one.
        """
        self._refusal = sentence

    def find(self, token: str, client: str | None) -> Mailbox:
        """Return the mailbox of a client whose connection broke.

        Args:
            token: that it was given.
            client: the name in its certificate; None in the clear.

        Raises:
            PartyError: there is none.
        """
        with self._lock:
            mailbox = self._mailboxes.get(token)
        if mailbox is None or mailbox.client != client or mailbox.welcome is None:
            raise PartyError(
                f"the session of {client or 'this client'} is over: it had no connection for more than "
                f"{self._settings.session_seconds:g} s, or the server was started anew; resume both sides from "
                "checkpoints of the same step",
                pb.ERROR_KIND_SESSION,
                is_final=True,
            )
        return mailbox

    def begin(self, client: str | None, answerer: Answerer) -> Mailbox:
        """Return a new mailbox; the client's former one is removed if it has no connection to it.

        Args:
            client: the name in its certificate; None in the clear.
            answerer: whoever answers the client's messages.

        Raises:
            PartyError: no new ones are begun, the client has one that is connected, or there are too many.
        """
        with self._lock:
            if self._refusal:
                raise PartyError(self._refusal, pb.ERROR_KIND_DRAINING, is_final=True)
            for former in [mailbox for mailbox in self.all() if client is not None and mailbox.client == client]:
                if former.is_connected:
                    said = f"{client} has a session already; if its process has ended, the server will notice within a minute"
                    raise PartyError(said, pb.ERROR_KIND_BUSY, is_final=True)
                # The process was started anew: nobody has the token any more.
                self.remove(former)
            if client is None and len(self._mailboxes) >= self._settings.max_clients:
                # In the clear nobody has a name: who is away gives way to who comes.
                for former in [mailbox for mailbox in self.all() if mailbox.client is None and not mailbox.is_connected][:1]:
                    self.remove(former)
            if len(self._mailboxes) >= self._settings.max_clients:
                said = f"{len(self._mailboxes)} clients have sessions, and no more may ({named('max_clients')} of the server)"
                raise PartyError(said, pb.ERROR_KIND_LIMIT, is_final=True)
            mailbox = Mailbox(secrets.token_urlsafe(24), client, answerer, self._max_bytes)
            self._mailboxes[mailbox.token] = mailbox
            return mailbox

    def remove(self, mailbox: Mailbox) -> None:
        """End a session, once."""
        with self._lock:
            is_there = self._mailboxes.pop(mailbox.token, None) is not None
        if is_there:
            mailbox.end()
            self._on_removal(mailbox)

    def remove_expired(self) -> None:
        """End the sessions whose clients have had no connection for too long."""
        for mailbox in self.all():
            seconds = mailbox.seconds_alone()
            if seconds > self._settings.session_seconds:
                _log.warning("%s has had no connection for %.0f s; its session is over", mailbox.title, seconds)
                self.remove(mailbox)
