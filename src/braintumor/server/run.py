"""Start the service, listen on its address and stop in an orderly way."""

import asyncio
import contextlib
import errno
import ipaddress
import logging
import os
import resource
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

import uvicorn
from fastapi import FastAPI

from braintumor.errors import BrainTumorError
from braintumor.models.session import Model
from braintumor.server.app import create_app
from braintumor.server.protocol import DeadlineProtocol
from braintumor.server.settings import Settings

LOCAL: Final = ("localhost", "127.0.0.1", "[::1]")
LAST_PORT: Final = 65_535
NO_SUCH_ADDRESS: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
"""Errors for ::1, to which localhost may resolve, on a system without IPv6; no failure if there is 127.0.0.1."""
STOP_SECONDS: Final = 10  # until uvicorn gives up on requests, and reports an error
ABORT_SECONDS: Final = 9  # less: a client that takes a response slowly must not make the end look like a failure
WAITING_CONNECTIONS: Final = 1024  # that the kernel keeps until they are accepted
MOST_CONNECTIONS: Final = 2048
OWN_FILES: Final = 40
"""Open files that are not connections of clients: about 20 once the service has started, more while a decoder starts or
a page is sent."""


def serve(models: Sequence[Model], settings: Settings, *, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve until the process is told to stop; requests in progress are then finished.

    Args:
        models: see `create_app`.
        settings: `hosts` is set here, on an address of this machine alone to its own names.
        host: name or address of the interface to listen on.
        port: 0 for any that is free.
        ready: called with the address as soon as requests are answered.

    Raises:
        BrainTumorError: other machines could use the service without a token, no client could send this token, the
            address is not available, or no file can be decoded here.
    """
    local = is_local(host)
    if not local and not settings.token:
        raise BrainTumorError(
            f"{host} can be reached from other machines: set a token in the environment variable BRAINTUMOR_TOKEN, and "
            "put a proxy with TLS in front; or listen on 127.0.0.1"
        )
    _check_token(settings.token)
    if not settings.keep_alive_seconds > 0:
        raise BrainTumorError(f"expected more than 0 keep_alive_seconds, got {settings.keep_alive_seconds:g}")
    _raise_file_limit()
    app = create_app(models, replace(settings, hosts=LOCAL if local else ()))
    server = Server(configuration(app, host, port), ready)
    with contextlib.suppress(KeyboardInterrupt, SystemExit):  # uvicorn exits where the application does not start
        server.run()
    if not server.started:
        failure: Exception = app.state.failure
        if isinstance(failure, OSError):
            raise BrainTumorError(f"cannot start the processes that decode files ({failure.strerror})") from failure
        raise failure


def _check_token(token: str) -> None:
    """Check that clients can send a token.

    Raises:
        BrainTumorError: it begins or ends with a blank, or has a line break or another unprintable character.
    """
    if token != token.strip() or not token.isprintable():
        raise BrainTumorError(
            "the token in the environment variable BRAINTUMOR_TOKEN begins or ends with a blank, or has a line break "
            "or another character that cannot be sent: set one of letters and digits"
        )


def configuration(app: FastAPI, host: str, port: int) -> uvicorn.Config:
    """Return the settings of uvicorn: no logging of requests, no trust in the headers of proxies."""
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # until it has started: earlier errors are raised
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # it logs pieces of what was sent
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        loop="asyncio",
        http=partial(DeadlineProtocol, settings=app.state.settings, connections=connections()),  # type: ignore[arg-type]
        ws="none",
        lifespan="on",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=1,  # connections accepted at a time: before the next, room is made for them
        timeout_graceful_shutdown=STOP_SECONDS,
        log_config=None,
    )


class Server(uvicorn.Server):
    """uvicorn's server, which takes its address before it starts and reports it once it answers.

    Raises:
        BrainTumorError: the address is not available.
    """

    def __init__(self, config: uvicorn.Config, ready: Callable[[str], None]) -> None:
        super().__init__(config)
        self._ready = ready
        self._bound = bind_sockets(config.host, config.port)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to listen, then report the address."""
        try:
            await super().startup(self._bound)
        finally:
            if not self.started:
                _close_all(self._bound)
        for listening in self._bound:
            listening.listen(WAITING_CONNECTIONS)  # uvicorn has called it with its own backlog, see `configuration`
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        host, port = self._bound[0].getsockname()[:2]
        self._ready(f"http://{f'[{host}]' if ':' in host else host}:{port}/")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish requests in progress, within seconds."""
        asyncio.get_running_loop().call_later(ABORT_SECONDS, self._abort)
        await super().shutdown(sockets)

    def _abort(self) -> None:
        for connection in self.server_state.connections:
            connection.transport.abort()


def bind_sockets(host: str, port: int) -> list[socket.socket]:
    """Return a socket for each address of a host; clients that connect wait until the service has started.

    They are bound before the models are warmed up, so that an address in use is reported at once.

    Raises:
        BrainTumorError: there is no such host, or the address or port is not available.
    """
    if not 0 <= port <= LAST_PORT:  # getaddrinfo would take another one
        raise BrainTumorError(f"cannot listen on {host}, port {port}; expected a --port from 0 to {LAST_PORT}")
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise _cannot_listen(host, port, str(error.strerror)) from error
    sockets: list[socket.socket] = []
    for number, (family, _, _, _, address) in enumerate(addresses, start=1):
        try:
            sockets.append(socket.create_server(address, family=family, backlog=WAITING_CONNECTIONS))
        except OSError as error:
            if error.errno in NO_SUCH_ADDRESS and (sockets or number < len(addresses)):
                continue
            _close_all(sockets)
            raise _cannot_listen(host, port, os.strerror(error.errno or 0)) from error
    return sockets


def _cannot_listen(host: str, port: int, reason: str) -> BrainTumorError:
    """Return the error for an address that is not available."""
    return BrainTumorError(f"cannot listen on {host}, port {port} ({reason}); choose another with --host or --port")


def _close_all(sockets: list[socket.socket]) -> None:
    for listening in sockets:
        listening.close()


def is_local(host: str) -> bool:
    """Tell whether a host name or address can only be reached from this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _raise_file_limit() -> None:
    """Raise the limit on open files, and so on connections, as far as the system allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def connections() -> int:
    """Return how many connections there may be at a time, leaving enough open files for decoders and pages."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_CONNECTIONS if soft == resource.RLIM_INFINITY else max(1, min(MOST_CONNECTIONS, soft - OWN_FILES))
