"""What every request passes before it is answered, and every answer on its way out."""

import asyncio
import hmac
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final
from urllib.parse import urlsplit

from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse

from braintumor.errors import ProblemError
from braintumor.server.memory import MemoryBudget, RequestMemory
from braintumor.server.pace import Pace
from braintumor.server.settings import Settings

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
DIGITS: Final = re.compile("[0-9]+")
HOST: Final = re.compile(r"(?:[A-Za-z0-9._~%-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?")
"""What a Host header may be; RFC 9112 3.2 asks for 400 for what is none."""
AUTHENTICATE: Final = {"www-authenticate": "Bearer"}


class RequestLimits:
    """The door of the service: who may ask, how large and how fast a body is, and the headers of every answer.

    Errors of bodies that come too large, too slowly or in too great a crowd are answered here, whatever the
    application made of them; a client that leaves before it has sent its body is no error. HEAD is answered as GET,
    the server leaves out the content. `observe` is told path, status and seconds of every answer.

    The application finds what its request holds, a `RequestMemory`, in the scope under "share".
    """

    def __init__(self, app: App, settings: Settings, observe: Callable[[str, int, float], None]) -> None:
        self.app = app
        self.settings = settings
        self._observe = observe
        self._shares = MemoryBudget(settings.held_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or let the application do so."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        share = RequestMemory(self._shares)
        scope = {**scope, "share": share, "method": "GET" if scope["method"] == "HEAD" else scope["method"]}
        started, began = False, time.monotonic()

        async def sent(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                self._observe(scope["path"], message["status"], time.monotonic() - began)
                message = {**message, "headers": [*message.get("headers", ()), *ENCODED]}
            await send(message)

        try:
            self.check(scope)
            await self.app(scope, Body(share, self.settings, receive).receive, sent)
        except ProblemError as error:
            if started:
                raise
            await problem_answer(error)(scope, receive, sent)
        except ClientDisconnect:
            return
        finally:
            share.give_back(share.held)

    def check(self, scope: Scope) -> None:
        """Raise a `ProblemError` for a request that is not even read."""
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get(b"host", "")
        if self.settings.hosts and _name_of(host) not in self.settings.hosts:
            raise _problem(403, f"ask for this service as {' or '.join(self.settings.hosts)}")
        if not HOST.fullmatch(host):
            raise _problem(400, "expected a Host header with a name or an address, and perhaps a port")
        origin = headers.get(b"origin")
        if origin is not None and scope["method"] != "GET" and _site_of(origin) != host:
            raise _problem(403, "pages of other sites may not use this service")
        is_closed = self.settings.token and scope["path"].startswith(("/v1/", "/metrics"))
        if is_closed and not is_token(headers.get(b"authorization", ""), self.settings.token):
            raise _problem(401, "send the token of this service: Authorization: Bearer TOKEN", **AUTHENTICATE)
        length = headers.get(b"content-length", "0")
        if not DIGITS.fullmatch(length):
            raise _problem(400, "expected a Content-Length header of digits")
        if int(length) > self.settings.request_bytes:
            raise _too_large(self.settings)


class Body:
    """The body of one request while it comes in."""

    def __init__(self, share: RequestMemory, settings: Settings, receive: Receive) -> None:
        self._share = share
        self._settings = settings
        self._receive = receive
        self._pace = Pace(settings)
        self._more = True
        self._bytes = 0

    async def receive(self) -> Message:
        """Return the next piece of it.

        Raises:
            ProblemError: it has more bytes than a request may have, the client does not keep up the pace, or all
                requests together have too many bytes.
        """
        if not self._more:  # nothing but the client's leaving can follow
            return await self._receive()
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._settings.silent_seconds):
                message = await self._receive()
        except TimeoutError:
            raise _too_slow(self._settings) from None
        if message["type"] == "http.request":
            count = len(message.get("body", b""))
            self._bytes += count
            self._share.take(count)
            if self._bytes > self._settings.request_bytes:
                raise _too_large(self._settings)
            self._more = message.get("more_body", False)
            if not self._pace.keeps_up(count, time.monotonic() - began) and self._more:
                raise _too_slow(self._settings)
        return message


def _problem(status: int, detail: str, **headers: str) -> ProblemError:
    """Return what is wrong with a request; the connection is closed after the answer, since a body may still come."""
    return ProblemError(status, detail, headers={**headers, "connection": "close"})


def _too_large(settings: Settings) -> ProblemError:
    return _problem(413, f"more than {settings.request_bytes >> 20} MiB in one request; send the files in several")


def _too_slow(settings: Settings) -> ProblemError:
    slowest = f"{settings.slowest_bytes >> 10} KiB a second over {settings.window_seconds:g} seconds"
    return _problem(408, f"nothing came for {settings.silent_seconds:g} seconds, or less than {slowest}")


def problem_answer(error: ProblemError) -> JSONResponse:
    """Return the answer to a request that is not answered, as `ProblemAnswer`."""
    return JSONResponse({"detail": error.detail, "refused": error.refused}, error.status, error.headers)


def _name_of(host: str) -> str:
    """Return the name in a Host header, without its port."""
    name, _, port = host.rpartition(":")
    return name.lower() if name and DIGITS.fullmatch(port) else host.lower()


def _site_of(origin: str) -> str | None:
    """Return name and port in an Origin header, None where it is none."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


def is_token(authorization: str, token: str) -> bool:
    """Tell whether the value of an Authorization header, its bytes read as Latin-1, gives the token.

    Letters outside ASCII may come as UTF-8, as most programs send them, or as Latin-1, as Python's own client does.
    """
    scheme, _, sent = authorization.partition(" ")
    same = [hmac.compare_digest(sent.strip().encode(letters), token.encode()) for letters in ("latin-1", "utf-8")]
    return scheme.lower() == "bearer" and any(same)
