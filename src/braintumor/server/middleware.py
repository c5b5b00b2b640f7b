"""Check every request before the application sees it, and add the security headers to every response."""

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

# The viewer loads nothing from elsewhere and must not be framed. Responses hold images of patients: nothing is cached.
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
"""A valid Host header; RFC 9112 3.2 asks for status 400 for any other."""
AUTHENTICATE: Final = {"www-authenticate": "Bearer"}


class RequestLimits:
    """ASGI middleware that checks who may ask and how large and fast bodies are, and adds headers to every response.

    Errors of bodies that are too large or too slow, or for which there is no memory, are answered here, whatever the
    application makes of them. A client that leaves before it has sent its body is no error. HEAD is answered as GET;
    the server leaves out the content. `observe` is called with path, status and seconds of every response.

    The application finds the `RequestMemory` of its request in the scope under "memory".
    """

    def __init__(self, app: App, settings: Settings, observe: Callable[[str, int, float], None]) -> None:
        self.app = app
        self.settings = settings
        self._observe = observe
        self._budget = MemoryBudget(settings.held_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or let the application do so."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        memory = RequestMemory(self._budget)
        scope = {**scope, "memory": memory, "method": "GET" if scope["method"] == "HEAD" else scope["method"]}
        has_started, began = False, time.monotonic()

        async def sent(message: Message) -> None:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started = True
                self._observe(scope["path"], message["status"], time.monotonic() - began)
                message = {**message, "headers": [*message.get("headers", ()), *ENCODED]}
            await send(message)

        try:
            self.check(scope)
            await self.app(scope, Body(memory, self.settings, receive).receive, sent)
        except ProblemError as error:
            if has_started:
                raise  # too late for another status: the server cuts the connection, so that the client sees an error
            await problem_answer(error)(scope, receive, sent)
        except ClientDisconnect:
            return
        finally:
            memory.give_back(memory.held)  # however the request ended, or the budget would shrink with every error

    def check(self, scope: Scope) -> None:
        """Raise a `ProblemError` for a request whose body is not even read."""
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get(b"host", "")
        # A page may have its own name point to this machine (DNS rebinding). The browser then takes our responses for
        # those of the page's site; its Host header still holds the page's name.
        if self.settings.hosts and _name_of(host) not in self.settings.hosts:
            raise _problem(403, f"ask for this service as {' or '.join(self.settings.hosts)}")
        if not HOST.fullmatch(host):
            raise _problem(400, "expected a Host header with a name or an address, and perhaps a port")
        # A page of any site can make the browser send a form here (CSRF); the browser names the site in Origin.
        origin = headers.get(b"origin")
        if origin is not None and scope["method"] != "GET" and _site_of(origin) != host:
            raise _problem(403, "pages of other sites may not use this service")
        # The viewer itself needs no token: it asks the user for it. Health checks need none either.
        needs_token = self.settings.token and scope["path"].startswith(("/v1/", "/metrics"))
        if needs_token and not is_token(headers.get(b"authorization", ""), self.settings.token):
            raise _problem(401, "send the token of this service: Authorization: Bearer TOKEN", **AUTHENTICATE)
        # what is announced is refused at once; what comes without a length is counted in `Body`
        length = headers.get(b"content-length", "0")
        if not DIGITS.fullmatch(length):
            raise _problem(400, "expected a Content-Length header of digits")
        if int(length) > self.settings.request_bytes:
            raise _too_large(self.settings)


class Body:
    """The body of one request while it arrives."""

    def __init__(self, memory: RequestMemory, settings: Settings, receive: Receive) -> None:
        self._memory = memory
        self._settings = settings
        self._receive = receive
        self._pace = Pace(settings)
        self._is_incomplete = True
        self._bytes = 0

    async def receive(self) -> Message:
        """Return the next message of the body.

        Raises:
            ProblemError: the body is larger than allowed, the client is too slow, or all requests together hold too
                many bytes.
        """
        if not self._is_incomplete:  # all that can follow is that the client leaves, and it may take its time
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
            self._memory.take(count)
            if self._bytes > self._settings.request_bytes:
                raise _too_large(self._settings)
            self._is_incomplete = message.get("more_body", False)
            if not self._pace.keeps_up(count, time.monotonic() - began) and self._is_incomplete:
                raise _too_slow(self._settings)
        return message


def _problem(status: int, detail: str, **headers: str) -> ProblemError:
    """Return the error of a request; the connection is closed after the response, since a body may still come."""
    return ProblemError(status, detail, headers={**headers, "connection": "close"})


def _too_large(settings: Settings) -> ProblemError:
    return _problem(413, f"more than {settings.request_bytes >> 20} MiB in one request; send the files in several")


def _too_slow(settings: Settings) -> ProblemError:
    slowest = f"{settings.slowest_bytes >> 10} KiB a second over {settings.window_seconds:g} seconds"
    return _problem(
        408, f"the request came too slowly: nothing for {settings.silent_seconds:g} seconds, or less than {slowest}"
    )


def problem_answer(error: ProblemError) -> JSONResponse:
    """Return the JSON response for an error, as `ProblemAnswer`."""
    return JSONResponse({"detail": error.detail, "refused": error.refused}, error.status, error.headers)


def _name_of(host: str) -> str:
    """Return the host name in a Host header, without the port."""
    name, _, port = host.rpartition(":")
    return name.lower() if name and DIGITS.fullmatch(port) else host.lower()


def _site_of(origin: str) -> str | None:
    """Return the host name and port in an Origin header, None if it is not valid."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


def is_token(authorization: str, token: str) -> bool:
    """Tell whether the value of an Authorization header, its bytes read as Latin-1, contains the token.

    Characters outside ASCII may come as UTF-8, as most programs send them, or as Latin-1, as Python's own client does.
    """
    scheme, _, sent = authorization.partition(" ")
    # `sent.encode("latin-1")` gives back the bytes on the wire. Both comparisons are made, each in constant time: how
    # long the check takes must not tell how much of a guess is right.
    matches = [hmac.compare_digest(sent.strip().encode(encoding), token.encode()) for encoding in ("latin-1", "utf-8")]
    return scheme.lower() == "bearer" and any(matches)
