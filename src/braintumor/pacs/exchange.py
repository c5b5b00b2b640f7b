"""Bound one exchange with an archive in time, from connecting to the last byte, and end it when the watcher stops.

`requests` and urllib3 only bound the wait for each byte: a header or body that drips could hold a watcher for ever. So
each exchange runs in a thread of its own, and its connection is shut down when its time is over.
"""

import contextlib
import os
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final, TypeVar

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from braintumor.errors import ExchangeStoppedError, ExchangeTimeoutError

CONNECT_SECONDS: Final = 5.0
SILENT_SECONDS: Final = 30.0  # without a byte, sent or received
LOOK_SECONDS: Final = 0.1  # between two looks of a waiting caller whether to stop
STOP_SECONDS: Final = 5.0  # for exchanges that are under way when we are told to stop, such as storing results

Outcome = TypeVar("Outcome")
_thread = threading.local()


@dataclass(eq=False)
class _Exchange:
    """An exchange that is under way.

    Attributes:
        connection: that it uses.
        stream: the socket of the connection, once there is one; the connection may forget it before the last byte.
        is_over: whether its time is over.
    """

    connection: HTTPConnection | None = None
    stream: socket.socket | None = None
    is_over: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def use(self, connection: HTTPConnection) -> None:
        """Record which connection is used.

        Raises:
            OSError: the time of the exchange is over.
        """
        with self.lock:
            if self.is_over:
                raise TimeoutError
            self.connection = connection
            self.stream = connection.sock or self.stream

    def end(self) -> None:
        """Make every wait for the connection end."""
        with self.lock:
            self.is_over = True
            # the socket that was recorded, and the one that the connection has now, should it have connected again
            streams = {self.stream, self.connection and self.connection.sock} - {None}
        for stream in streams:
            with contextlib.suppress(OSError, AttributeError):
                _shut_down(stream)


def _shut_down(stream: Any) -> None:
    """Shut a connection down for every thread that waits for it, whatever lies above it, such as TLS."""
    # `close` would not wake a thread that waits in `recv`. The descriptor is duplicated, since the `shutdown` of a TLS
    # socket would also take the TLS state away from the thread that is reading.
    with socket.socket(fileno=os.dup(stream.fileno())) as same:
        same.shutdown(socket.SHUT_RDWR)


class _Noted(HTTPConnection):
    """A connection that registers with the exchange of its thread, and that may be slow to send."""

    def connect(self) -> None:
        # before, so that no connection is begun when the time is over; and after, since only now there is a socket
        _note(self)
        super().connect()
        _note(self)
        self._allow_silence()

    def request(self, *arguments: Any, **options: Any) -> None:
        _note(self)
        self._allow_silence()
        super().request(*arguments, **options)

    def _allow_silence(self) -> None:
        """Let sending wait as long as receiving; urllib3 sends within the time that connecting may take."""
        if self.sock is not None:
            self.sock.settimeout(SILENT_SECONDS)


class _NotedSecure(_Noted, HTTPSConnection):
    """A `_Noted` connection over TLS."""


def _note(connection: HTTPConnection) -> None:
    exchange: _Exchange | None = getattr(_thread, "exchange", None)
    if exchange is not None:
        exchange.use(connection)


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Noted


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _NotedSecure


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}


def bounded_session() -> requests.Session:
    """Return a session whose exchanges can be ended by `Exchanges`."""
    session = requests.Session()
    session.mount("http://", _Adapter())
    session.mount("https://", _Adapter())
    return session


class Exchanges:
    """Runs exchanges as if in the calling thread; safe in several threads.

    Attributes:
        should_stop: tells whether we were told to stop; exchanges under way then have 5 seconds more, all together.
    """

    def __init__(self, seconds: float) -> None:
        self.should_stop: Callable[[], bool] = lambda: False
        self._seconds = seconds
        self._stop_deadline: float | None = None

    def run(self, work: Callable[[], Outcome]) -> Outcome:
        """Return what the work returns, which is one exchange of a `bounded_session`; raise what it raises.

        Raises:
            ExchangeTimeoutError: it was not over in time.
            ExchangeStoppedError: we were told to stop.
        """
        exchange, future = _Exchange(), Future[Outcome]()
        # a daemon, since a look-up of a host name cannot be ended and must not keep the program alive
        threading.Thread(target=_work, args=(work, exchange, future), daemon=True).start()
        deadline = monotonic() + self._seconds
        while True:
            is_late, is_stopped = monotonic() > deadline, self._is_stopped()
            # a reply that has just come counts, even if the time is over
            if wait([future], 0 if is_late or is_stopped else LOOK_SECONDS).done:
                return future.result()
            if is_late or is_stopped:
                exchange.end()
                raise ExchangeTimeoutError if is_late else ExchangeStoppedError

    def _is_stopped(self) -> bool:
        """Tell whether the seconds that exchanges have after we were told to stop are over."""
        if self._stop_deadline is None and self.should_stop():
            self._stop_deadline = monotonic() + STOP_SECONDS
        return self._stop_deadline is not None and monotonic() > self._stop_deadline


def _work(work: Callable[[], Outcome], exchange: _Exchange, future: "Future[Outcome]") -> None:
    _thread.exchange = exchange
    try:
        future.set_result(work())
    except BaseException as error:
        future.set_exception(error)
