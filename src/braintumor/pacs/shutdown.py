"""Stop a watching program on SIGTERM or SIGINT, at once and without losing what is under way."""

import os
import select
import signal
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from types import FrameType


class Stop:
    """A flag to stop, which a signal handler can set and several threads can wait for.

    It is a pipe: `threading.Event` takes a lock that the interrupted thread may hold, and would wait for itself for
    ever. Nobody reads the byte, so the pipe stays readable, for every thread.
    """

    def __init__(self) -> None:
        self._read, self._write = os.pipe()

    def set(self) -> None:
        """Set the flag."""
        os.write(self._write, b"x")

    def wait(self, seconds: float = 0.0) -> bool:
        """Wait at most so many seconds and return whether to stop."""
        return bool(select.select([self._read], [], [], seconds)[0])

    def close(self) -> None:
        """Close the pipe."""
        os.close(self._read)
        os.close(self._write)


@contextmanager
def stopping() -> Iterator[Stop]:
    """Yield a flag that SIGTERM or SIGINT sets; the second signal of a kind ends the program as usual."""
    with closing(Stop()) as stop:
        if threading.current_thread() is not threading.main_thread():  # elsewhere Python allows no handlers
            yield stop
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

        def finish(number: int, _: FrameType | None) -> None:
            stop.set()
            signal.signal(number, before[signal.Signals(number)])  # so that an impatient user is not ignored

        for number in before:
            signal.signal(number, finish)
        try:
            yield stop
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
