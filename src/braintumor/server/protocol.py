"""Bound how long a connection may keep the server waiting: uvicorn's HTTP/1.1 with the deadlines that it lacks.

A connection is in one of these states, and `_update` sets the timer that belongs to it:

    waiting for a request        uvicorn's keep-alive timer
    receiving the head           `HEAD_SECONDS` from its first byte
    receiving a body             no timer here: `middleware.Body` keeps the pace
    answering                    none: the service's own limit
    answered, body still coming  `Settings.window_seconds`
    sending                      `_look`, several times within `Settings.silent_seconds`, beside the others
"""

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from braintumor.server.pace import Pace
from braintumor.server.settings import Settings

HEAD_SECONDS: Final = 5.0  # for the head of a request, from its first byte
LOOKS: Final = 10  # at the progress of a response, within the seconds of silence that are allowed
UNSENT_BYTES: Final = 128 << 10
"""Of a response that the kernel buffers besides those on their way. By default it takes megabytes at a time, which
hides for many seconds whether a slow client reads at all."""

RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER with no time: closing drops what is unsent and resets the connection, so that the kernel keeps nothing."""


class HalfClosingTransport:
    """A transport that counts the bytes written to it, and lets clients finish sending before it is closed.

    If a connection is closed while the client still sends, the client's system reports a broken connection, and it may
    never read the response that says why. So only our side is closed first (RFC 9112 9.6).

    Attributes:
        written: bytes so far, whether sent or not.
        lingers: whether only our side is closed.
    """

    def __init__(self, transport: asyncio.Transport, is_sending: Callable[[], bool]) -> None:
        self._transport = transport
        self._is_sending = is_sending
        self.written = 0
        self.lingers = False

    def write(self, data: bytes) -> None:
        """Count the bytes and write them."""
        self.written += len(data)
        self._transport.write(data)

    def close(self) -> None:
        """Close our side if the client still sends; otherwise, or on a second call, both."""
        if self.lingers or not self._is_sending():
            self._transport.close()
        else:
            self.lingers = True
            self._transport.write_eof()

    def is_closing(self) -> bool:
        """Tell whether nothing more can be written."""
        return self.lingers or self._transport.is_closing()

    def __getattr__(self, name: str) -> Any:
        """Delegate everything else to the transport."""
        return getattr(self._transport, name)


class DeadlineProtocol(H11Protocol):
    """A connection that is closed if its client sends no request, or does not take the response.

    The head of a request must arrive within 5 seconds after its first byte. What still arrives of a body after the
    response is passed over for `window_seconds`. A response must be taken at the pace that `Pace` demands; the pace of
    bodies is the business of `middleware`. If there are too many connections, the one whose client was silent longest
    is closed.

    Attributes:
        active: when a byte last moved, on the loop's clock.
        is_sent_away: whether it is being closed to make room, which happens in the loop's next turn.
    """

    is_sent_away = False

    _deadline: asyncio.TimerHandle | None = None
    _next_look: asyncio.TimerHandle | None = None
    _pace: Pace

    def __init__(self, *arguments: Any, settings: Settings, connections: int, **named: Any) -> None:
        """Create the connection as uvicorn does; `connections` is how many there may be at a time."""
        super().__init__(*arguments, **named)
        self.timeout_keep_alive = settings.keep_alive_seconds  # type: ignore[assignment]  # uvicorn asks for whole ones
        self._settings = settings
        self._most = connections
        self.active = self.loop.time()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start to wait for a request."""
        stream = transport.get_extra_info("socket")
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        super().connection_made(HalfClosingTransport(transport, self._is_sending))  # type: ignore[arg-type]
        if len(self.connections) > self._most:
            self._make_room()
        self._update()

    def data_received(self, data: bytes) -> None:
        """Take bytes that have arrived."""
        self.active = self.loop.time()
        if not self._own_transport.lingers:  # the response is complete: the rest of the body is dropped unread
            super().data_received(data)
            self._update()

    def handle_events(self) -> None:
        """Handle the parts of a request that have arrived."""
        try:
            super().handle_events()
        except h11.LocalProtocolError:  # malformed bytes after a response that closes the connection
            self.transport.abort()

    def pause_writing(self) -> None:
        """Start to watch whether the response is taken."""
        super().pause_writing()
        self._watch()

    def on_response_complete(self) -> None:
        """Start to wait for the next request."""
        super().on_response_complete()
        self._update()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel all timers."""
        self._forget_deadline()
        if self._next_look is not None:
            self._next_look.cancel()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    @property
    def is_working(self) -> bool:
        """Whether the client waits for the service, and not the other way round."""
        cycle = self.cycle
        return cycle is not None and not cycle.more_body and not cycle.response_complete and not self._unsent()

    def _update(self) -> None:
        """Set the timer for the state of the connection, see the top of this module."""
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
        """Tell whether more of a body may arrive, or of a message that h11 cannot parse."""
        return self.conn.their_state in (h11.SEND_BODY, h11.ERROR)

    def _limit(self, seconds: float) -> None:
        """Close the connection after so many seconds, unless a deadline is set already."""
        if self._deadline is None:  # bytes that arrive must not move it: dripping would keep the connection for ever
            self._deadline = self.loop.call_later(seconds, self.transport.abort)

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    @property
    def _own_transport(self) -> HalfClosingTransport:
        return self.transport  # type: ignore[return-value]

    def _unsent(self) -> int:
        """Return how many bytes of responses the client has not taken."""
        return self.transport.get_write_buffer_size()

    def _watch(self) -> None:
        """Watch from now on whether the client takes the response, until it has."""
        if self._next_look is None:
            self._pace = Pace(self._settings)
            self._look_again()

    def _look_again(self) -> None:
        seconds, sent = self._settings.silent_seconds / LOOKS, self._own_transport.written - self._unsent()
        self._next_look = self.loop.call_later(seconds, self._look, sent, self.loop.time())

    def _look(self, sent: int, since: float) -> None:
        """Close the connection if the client took too little since the last look, when `sent` bytes had gone."""
        self._next_look = None
        now, moved = self.loop.time(), self._own_transport.written - self._unsent() - sent
        if moved:
            self.active = now
        if not self._unsent():  # taken, however slowly
            return
        if self._pace.keeps_up(moved, now - since):
            self._look_again()
        else:
            # `abort` only drops the buffer of this process; without a reset the kernel would go on sending its own
            stream = self.transport.get_extra_info("socket")
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self.transport.abort()

    def _make_room(self) -> None:
        """Close the connection whose client was silent longest; this one if the service is working for all others."""
        everyone: list[DeadlineProtocol] = list(self.connections)  # type: ignore[arg-type]
        present = [connection for connection in everyone if not connection.is_sent_away]
        if len(present) > self._most:
            # never empty: this connection is new, so the service does not work for it
            waiting = [connection for connection in present if not connection.is_working]
            silent = min(waiting, key=lambda connection: connection.active)
            silent.is_sent_away = True
            silent.transport.abort()
