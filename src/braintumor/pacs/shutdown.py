"""How a program that watches is told to stop: by SIGTERM or SIGINT, at once and without losing what is under way."""

import os
import select
import signal
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from types import FrameType


class Stop:
    """Whether to stop. It can be set in a signal handler, where `threading.Event` could wait for itself for ever."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()

    def set(self) -> None:
        """Stop."""
        os.write(self._write, b"x")

    def wait(self, seconds: float = 0.0) -> bool:
        """Return whether to stop, after so many seconds at most."""
        return bool(select.select([self._read], [], [], seconds)[0])

    def close(self) -> None:
        """Close the pipe that it is."""
        os.close(self._read)
        os.close(self._write)


@contextmanager
def stopping() -> Iterator[Stop]:
    """Yield what SIGTERM or SIGINT sets; the second one ends the program as usual."""
    with closing(Stop()) as stop:
        if threading.current_thread() is not threading.main_thread():
            yield stop
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

        def finish(number: int, _: FrameType | None) -> None:
            stop.set()
            signal.signal(number, before[signal.Signals(number)])

        for number in before:
            signal.signal(number, finish)
        try:
            yield stop
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
