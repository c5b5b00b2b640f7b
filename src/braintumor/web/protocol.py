"""How long a connection may keep the server waiting: uvicorn's HTTP/1.1, with deadlines that it lacks."""

import asyncio
from typing import Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS: Final = 5.0
WHOLE_SECONDS: Final = 180.0


class DeadlineProtocol(H11Protocol):
    """A connection that is closed where nobody asks anything on it, or takes the answer.

    The head of a request must have come within 5 seconds after the connection was made or the last answer was sent;
    request and answer together within 180. How fast bodies come is the business of `guard`.
    """

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._wait(HEAD_SECONDS)

    def handle_events(self) -> None:
        """Take what has come; a whole head starts the time of the request."""
        before = self.cycle
        try:
            super().handle_events()
        except h11.LocalProtocolError:  # nonsense after an answer that closes the connection
            self.transport.abort()
            return
        if self.cycle is not before and not self.cycle.response_complete:
            self._wait(WHOLE_SECONDS)

    def on_response_complete(self) -> None:
        """Begin to wait for the next request."""
        before = self.cycle
        super().on_response_complete()
        if self.cycle is before:
            self._wait(HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def _wait(self, seconds: float) -> None:
        """Close the connection after so many seconds, unless something happens before."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(seconds, self.transport.abort)
