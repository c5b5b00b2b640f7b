"""Send responses as fast as the client takes them, and free them as they are sent."""

from collections import deque
from collections.abc import Sequence
from typing import Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from braintumor.server.memory import RequestMemory

PIECE_BYTES: Final = 64 << 10  # given to uvicorn at a time, which pauses while about as much is not sent


class StreamedResponse(Response):
    """A response of several pieces; the memory of its request gets their bytes back as they are sent.

    The body of the request is given back at once: with the response at hand it is no longer needed.
    """

    def __init__(self, pieces: Sequence[bytes], memory: RequestMemory, media_type: str = "application/json") -> None:
        self._pieces = deque(pieces)
        self._memory = memory
        length = sum(map(len, pieces))
        super().__init__(headers={"content-length": str(length)}, media_type=media_type)
        memory.give_back(memory.held - length)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the head and the pieces."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        while self._pieces:
            piece = self._pieces.popleft()
            for start in range(0, len(piece), PIECE_BYTES):
                body = piece[start : start + PIECE_BYTES]
                await send({"type": "http.response.body", "body": body, "more_body": True})
            self._memory.give_back(len(piece))
        await send({"type": "http.response.body"})
