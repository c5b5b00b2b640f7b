"""How long a connection may keep the server waiting: uvicorn's HTTP/1.1, with deadlines that it lacks."""

import asyncio
import socket
import struct
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from braintumor.web.pace import Pace
from braintumor.web.settings import Settings

HEAD_SECONDS: Final = 5.0
LOOKS: Final = 10  # times that we look, within the seconds of silence, whether an answer is taken
UNSENT_BYTES: Final = 128 << 10
"""Of an answer that the system keeps besides those on their way. By default it takes megabytes at a time, which hides
for many seconds whether a slow client reads at all."""

RESET: Final = struct.pack("ii", 1, 0)
"""For the system: forget what is unsent when the connection is closed, and tell the client so; SO_LINGER."""


class Counted:
    """A transport that counts the bytes that were written to it.

    Attributes:
        written: all so far, whether sent or not.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.written = 0

    def write(self, data: bytes) -> None:
        """Write as the transport does."""
        self.written += len(data)
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        """Return what else the transport has."""
        return getattr(self._transport, name)


class DeadlineProtocol(H11Protocol):
    """A connection that is closed where nobody asks anything on it, or takes the answer.

    The head of a request must have come within 5 seconds after its first byte, and what is still to come of a body
    within 5 seconds after its answer. An answer must be taken at the pace that `Pace` asks for; how fast bodies come is
    the business of `guard`. Where there are too many connections, that one is closed whose client was silent longest.

    Attributes:
        active: when last a byte moved, by the loop's clock.
    """

    _deadline: asyncio.TimerHandle | None = None
    _next_look: asyncio.TimerHandle | None = None
    _pace: Pace

    def __init__(self, *arguments: Any, settings: Settings, connections: int, **named: Any) -> None:
        """Create as uvicorn does; `connections` is how many there may be at a time."""
        super().__init__(*arguments, **named)
        self.timeout_keep_alive = settings.keep_alive_seconds  # type: ignore[assignment]  # uvicorn asks for whole ones
        self._settings = settings
        self._most = connections
        self.active = self.loop.time()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        stream = transport.get_extra_info("socket")
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        super().connection_made(Counted(transport))  # type: ignore[arg-type]
        if len(self.connections) > self._most:
            self._make_room()
        self._update()

    def data_received(self, data: bytes) -> None:
        """Take what has come."""
        self.active = self.loop.time()
        super().data_received(data)
        self._update()

    def handle_events(self) -> None:
        """Take the parts of a request that have come."""
        try:
            super().handle_events()
        except h11.LocalProtocolError:  # nonsense after an answer that closes the connection
            self.transport.abort()

    def pause_writing(self) -> None:
        """Begin to look whether the answer is taken."""
        super().pause_writing()
        self._watch()

    def on_response_complete(self) -> None:
        """Begin to wait for the next request."""
        super().on_response_complete()
        self._update()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._forget_deadline()
        if self._next_look is not None:
            self._next_look.cancel()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    @property
    def is_working(self) -> bool:
        """Whether it is the service that the client waits for."""
        cycle = self.cycle
        return cycle is not None and not cycle.more_body and not cycle.response_complete and not self._unsent()

    def _update(self) -> None:
        """Set the deadlines for what is waited for now."""
        if self._unsent():
            self._watch()
        if self.transport.is_closing() or not (self.cycle is None or self.cycle.response_complete):
            self._forget_deadline()
        elif self.conn.their_state is not h11.IDLE or self.conn.trailing_data[0]:  # a head, or the rest of a body
            if self._deadline is None:
                self._deadline = self.loop.call_later(HEAD_SECONDS, self.transport.abort)
        else:
            self._forget_deadline()
            if self.timeout_keep_alive_task is None:
                self.timeout_keep_alive_task = self.loop.call_later(
                    self.timeout_keep_alive, self.timeout_keep_alive_handler
                )

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _unsent(self) -> int:
        """Return how many bytes of answers the client has not taken."""
        return self.transport.get_write_buffer_size()

    def _watch(self) -> None:
        """Look from now on whether the client takes what is to be sent, until it has."""
        if self._next_look is None:
            self._pace = Pace(self._settings)
            self._look_again()

    def _look_again(self) -> None:
        counted: Counted = self.transport  # type: ignore[assignment]
        seconds, sent = self._settings.silent_seconds / LOOKS, counted.written - self._unsent()
        self._next_look = self.loop.call_later(seconds, self._look, sent, self.loop.time())

    def _look(self, sent: int, since: float) -> None:
        """Close the connection if the client takes too little; `sent` and `since` are those of the look before."""
        counted: Counted = self.transport  # type: ignore[assignment]
        self._next_look = None
        now, moved = self.loop.time(), counted.written - self._unsent() - sent
        if moved:
            self.active = now
        if not self._pace.keeps_up(moved, now - since):
            stream = self.transport.get_extra_info("socket")
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self.transport.abort()
        elif self._unsent():
            self._look_again()

    def _make_room(self) -> None:
        """Close the connection whose client was silent longest; this one if the service works for all others."""
        present: list[DeadlineProtocol] = [each for each in self.connections if not each.transport.is_closing()]  # type: ignore[misc]
        if len(present) > self._most:
            silent = [each for each in present if not each.is_working]
            min(silent, key=lambda each: each.active).transport.abort()
