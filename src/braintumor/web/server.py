"""How the service is started: where it listens, and that it stops in an orderly way."""

import contextlib
import ipaddress
import logging
import resource
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import uvicorn
from fastapi import FastAPI

from braintumor.errors import BrainTumorError
from braintumor.model import Model
from braintumor.web.app import create_app
from braintumor.web.protocol import DeadlineProtocol
from braintumor.web.settings import Settings

LOCAL: Final = ("localhost", "127.0.0.1", "[::1]")
STOP_SECONDS: Final = 10


def serve(models: Sequence[Model], settings: Settings, *, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Answer until the process is told to stop; what is being answered then is finished.

    Args:
        models: see `create_app`.
        settings: `hosts` are set here: for this machine alone, its own names.
        host: name or address of the interface to listen on.
        port: 0 for any that is free.
        ready: is told the address as soon as requests are answered.

    Raises:
        BrainTumorError: other machines could ask without a token, or the address is not to be had.
    """
    local = is_local(host)
    if not local and not settings.token:
        raise BrainTumorError(
            f"{host} can be reached from other machines: set a token in the environment variable BRAINTUMOR_TOKEN, and "
            "put a proxy with TLS in front; or listen on 127.0.0.1"
        )
    raise_file_limit()
    app = create_app(models, replace(settings, hosts=LOCAL if local else ()))
    server = Server(configuration(app, host, port), ready)
    with contextlib.suppress(KeyboardInterrupt, SystemExit):  # uvicorn exits where it cannot listen
        server.run()
    if not server.started:
        raise BrainTumorError(f"cannot listen on {host}, port {port}; choose another with --port")


def configuration(app: FastAPI, host: str, port: int) -> uvicorn.Config:
    """Return how uvicorn is to serve an application: nothing logged of requests, no trust in what proxies say."""
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # it tells pieces of what was sent
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        http=DeadlineProtocol,
        ws="none",
        lifespan="on",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=1024,
        timeout_graceful_shutdown=STOP_SECONDS,
        log_config=None,
    )


class Server(uvicorn.Server):
    """uvicorn's server, which says where it listens once it does."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[str], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        """Start to listen, then tell."""
        await super().startup(sockets)  # type: ignore[arg-type]
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self._ready(f"http://{f'[{host}]' if ':' in host else host}:{port}/")


def is_local(host: str) -> bool:
    """Tell whether only this machine can reach an interface."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def raise_file_limit() -> None:
    """Allow as many open connections as the system lets this process have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
