"""How long a connection may keep the server waiting: uvicorn's HTTP/1.1, with deadlines that it lacks."""

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from braintumor.server.pace import Pace
from braintumor.server.settings import Settings

HEAD_SECONDS: Final = 5.0
LOOKS: Final = 10  # times that we look, within the seconds of silence, whether an answer is taken
UNSENT_BYTES: Final = 128 << 10
"""Of an answer that the system keeps besides those on their way. By default it takes megabytes at a time, which hides
for many seconds whether a slow client reads at all."""

RESET: Final = struct.pack("ii", 1, 0)
"""For the system: forget what is unsent when the connection is closed, and tell the client so; SO_LINGER."""


class HalfClosingTransport:
    """A transport that counts the bytes written to it, and hears clients out before it is closed.

    A client that still sends when its connection is closed is told of a broken connection, and may never read the
    answer that says why; so only our side is closed first, RFC 9112 9.6.

    Attributes:
        written: all so far, whether sent or not.
        lingers: whether only our side is closed.
    """

    def __init__(self, transport: asyncio.Transport, is_sending: Callable[[], bool]) -> None:
        self._transport = transport
        self._is_sending = is_sending
        self.written = 0
        self.lingers = False

    def write(self, data: bytes) -> None:
        """Write as the transport does."""
        self.written += len(data)
        self._transport.write(data)

    def close(self) -> None:
        """Close our side where the client still sends, and on the second call or else both."""
        if self.lingers or not self._is_sending():
            self._transport.close()
        else:
            self.lingers = True
            self._transport.write_eof()

    def is_closing(self) -> bool:
        """Tell whether nothing more can be written."""
        return self.lingers or self._transport.is_closing()

    def __getattr__(self, name: str) -> Any:
        """Return what else the transport has."""
        return getattr(self._transport, name)


class DeadlineProtocol(H11Protocol):
    """A connection that is closed where nobody asks anything on it, or takes the answer.

    The head of a request must have come within 5 seconds after its first byte. What still comes of a body after its
    answer is passed over, for as long as a window of `Settings` lasts. An answer must be taken at the pace that `Pace`
    asks for; how fast bodies come is the business of `guard`. Where there are too many connections, that one is closed
    whose client was silent longest.

    Attributes:
        active: when last a byte moved, by the loop's clock.
        is_sent_away: whether it is closed to make room, at the loop's next turn.
    """

    is_sent_away = False

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
        super().connection_made(HalfClosingTransport(transport, self._is_sending))  # type: ignore[arg-type]
        if len(self.connections) > self._most:
            self._make_room()
        self._update()

    def data_received(self, data: bytes) -> None:
        """Take what has come."""
        self.active = self.loop.time()
        if not self._patient.lingers:
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
        if self._unsent():
            self._watch()
        if not (self.cycle is None or self.cycle.response_complete):
            self._forget_deadline()
        elif self._is_sending():
            self._limit(self._settings.window_seconds)
        elif self.transport.is_closing():
            self._forget_deadline()
        elif self.conn.trailing_data[0]:
            self._limit(HEAD_SECONDS)
        else:
            self._forget_deadline()
            if self.timeout_keep_alive_task is None:
                self.timeout_keep_alive_task = self.loop.call_later(
                    self.timeout_keep_alive, self.timeout_keep_alive_handler
                )

    def _is_sending(self) -> bool:
        """Tell whether more of a body may come, or of what cannot be understood."""
        return self.conn.their_state in (h11.SEND_BODY, h11.ERROR)

    def _limit(self, seconds: float) -> None:
        """Close the connection after so many seconds; whatever comes meanwhile buys no more."""
        if self._deadline is None:
            self._deadline = self.loop.call_later(seconds, self.transport.abort)

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    @property
    def _patient(self) -> HalfClosingTransport:
        return self.transport  # type: ignore[return-value]

    def _unsent(self) -> int:
        """Return how many bytes of answers the client has not taken."""
        return self.transport.get_write_buffer_size()

    def _watch(self) -> None:
        """Look from now on whether the client takes what is to be sent, until it has."""
        if self._next_look is None:
            self._pace = Pace(self._settings)
            self._look_again()

    def _look_again(self) -> None:
        seconds, sent = self._settings.silent_seconds / LOOKS, self._patient.written - self._unsent()
        self._next_look = self.loop.call_later(seconds, self._look, sent, self.loop.time())

    def _look(self, sent: int, since: float) -> None:
        """Close the connection if the client takes too little; `sent` and `since` are those of the look before."""
        self._next_look = None
        now, moved = self.loop.time(), self._patient.written - self._unsent() - sent
        if moved:
            self.active = now
        if not self._unsent():  # taken, however slowly
            return
        if self._pace.keeps_up(moved, now - since):
            self._look_again()
        else:
            stream = self.transport.get_extra_info("socket")
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self.transport.abort()

    def _make_room(self) -> None:
        """Close the connection whose client was silent longest; this one if the service works for all others."""
        everyone: list[DeadlineProtocol] = list(self.connections)  # type: ignore[arg-type]
        present = [connection for connection in everyone if not connection.is_sent_away]
        if len(present) > self._most:
            waiting = [connection for connection in present if not connection.is_working]
            silent = min(waiting, key=lambda connection: connection.active)
            silent.is_sent_away = True
            silent.transport.abort()
