"""What every request passes before it is answered, and every answer on its way out."""

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final
from urllib.parse import urlsplit

from starlette.responses import JSONResponse

from braintumor.web.settings import Settings

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

HEADERS: Final = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
ENCODED: Final = [(name.encode(), value.encode()) for name, value in HEADERS.items()]


class TooLargeError(Exception):
    """A body above the limit."""


class TooSlowError(Exception):
    """A body that did not come in time."""


class CrowdedError(Exception):
    """More bytes in all requests together than are held."""


class Guard:
    """The door of the service: who may ask, how large and how fast a body is, and the headers of every answer.

    Errors of bodies that come too large, too slowly or in too great a crowd are answered here, whatever the
    application made of them. `observe` is told path, status and seconds of every answer.
    """

    def __init__(self, app: App, settings: Settings, observe: Callable[[str, int, float], None]) -> None:
        self.app = app
        self.settings = settings
        self._observe = observe
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or let the application do so."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, began = False, time.monotonic()

        async def sent(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                self._observe(scope["path"], message["status"], time.monotonic() - began)
                message = {**message, "headers": [*message.get("headers", ()), *ENCODED]}
            await send(message)

        refusal = self.refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, sent)
            return
        body = Body(self, receive)
        try:
            await self.app(scope, body.receive, sent)
        except (TooLargeError, TooSlowError, CrowdedError) as error:
            if started:
                raise
            await problem_of(error, self.settings)(scope, receive, sent)
        finally:
            self._held -= body.bytes

    def refusal(self, scope: Scope) -> JSONResponse | None:
        """Return why a request is not even read, or None."""
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get(b"host", "")
        if self.settings.hosts and name_of(host) not in self.settings.hosts:
            return problem(403, f"ask for this service as {' or '.join(self.settings.hosts)}")
        origin = headers.get(b"origin")
        if origin is not None and scope["method"] != "GET" and urlsplit(origin).netloc != host:
            return problem(403, "pages of other sites may not use this service")
        if self.settings.token and scope["path"].startswith(("/v1/", "/metrics")):
            sent = headers.get(b"authorization", "")
            if not hmac.compare_digest(sent.encode(), f"Bearer {self.settings.token}".encode()):
                return problem(401, "send the token of this service: Authorization: Bearer TOKEN", **AUTHENTICATE)
        length = headers.get(b"content-length", "0")
        if not length.isdigit() or int(length) > self.settings.request_bytes:
            return too_large(self.settings)
        return None

    def hold(self, count: int) -> None:
        """Count bytes of a body.

        Raises:
            CrowdedError: all requests together have too many.
        """
        self._held += count
        if self._held > self.settings.held_bytes:
            raise CrowdedError


class Body:
    """The body of one request while it comes in."""

    def __init__(self, guard: Guard, receive: Receive) -> None:
        self._guard = guard
        self._receive = receive
        self._until = asyncio.get_running_loop().time() + guard.settings.upload_seconds
        self._more = True
        self.bytes = 0

    async def receive(self) -> Message:
        """Return the next piece of it.

        Raises:
            TooLargeError: it has more bytes than a request may have.
            TooSlowError: it has not come in time.
            CrowdedError: all requests together have too many bytes.
        """
        if not self._more:  # nothing but the client's leaving can follow
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._until):
                message = await self._receive()
        except TimeoutError:
            raise TooSlowError from None
        if message["type"] == "http.request":
            count = len(message.get("body", b""))
            self.bytes += count
            self._guard.hold(count)
            if self.bytes > self._guard.settings.request_bytes:
                raise TooLargeError
            self._more = message.get("more_body", False)
        return message


AUTHENTICATE: Final = {"www-authenticate": "Bearer"}


def problem(status: int, detail: str, **headers: str) -> JSONResponse:
    """Return an answer that says what is wrong; the connection is closed after it, since a body may still come."""
    return JSONResponse({"detail": detail, "refused": []}, status, {**headers, "connection": "close"})


def too_large(settings: Settings) -> JSONResponse:
    """Return the answer to a body above the limit."""
    return problem(413, f"more than {settings.request_bytes >> 20} MiB in one request; send the files in several")


def problem_of(error: TooLargeError | TooSlowError | CrowdedError, settings: Settings) -> JSONResponse:
    """Return the answer to a body that could not be taken."""
    if isinstance(error, TooLargeError):
        return too_large(settings)
    if isinstance(error, TooSlowError):
        return problem(408, f"the request did not come whole within {settings.upload_seconds:g} seconds")
    return problem(503, "too much is being sent at the moment; try again", **{"retry-after": "1"})


def name_of(host: str) -> str:
    """Return the name in a Host header, without its port."""
    name, _, port = host.rpartition(":")
    return name.lower() if name and port.isdigit() else host.lower()
