"""How bytes from outside become slices: decoded in child processes with a memory limit and a deadline.

A file that takes too long, too much memory or kills its decoder is refused like a damaged one; whoever asked is
untouched, and a new child takes the place of the old one.
"""

import json
import os
import queue
import resource
import socket
import struct
import subprocess
import sys
import time
from types import TracebackType
from typing import Final, Self

import numpy as np

from braintumor.errors import ImageError
from braintumor.read import read
from braintumor.scan import Scan

DEADLINE_SECONDS: Final = 0.8
START_SECONDS: Final = 20.0
MEMORY_BYTES: Final = 640 << 20  # address space, libraries included
LARGEST: Final = 16_000_000  # pixels
USUAL: Final = 1_000_000
PIXELS_PER_BYTE: Final = 200
"""A file of more than the usual number of pixels may hold so many for each of its bytes: pictures of anything need far
more bytes than that, blank ones that are packed to fill a decoder's memory far less."""
DAMAGED: Final = "damaged, or of a kind that cannot be decoded; export it again as PNG"
TOO_LONG: Final = "takes too long to decode; export it again as PNG"
HEAD: Final = struct.Struct("<Q")
"""Before the content of a file, and before each of the two parts of an answer: its length in bytes."""


class Child:
    """One process that decodes, and the socket to it."""

    def __init__(self) -> None:
        self.socket, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", __name__, str(theirs.fileno())]
            limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
            self.process = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, **limits},
            )

    def ask(self, content: bytes, until: float) -> tuple[dict[str, object], bytes]:
        """Return the two parts of the answer to a file's content.

        Raises:
            OSError: the time is over, or the process has ended.
        """
        self.socket.settimeout(max(until - time.monotonic(), 1e-3))
        self.socket.sendall(HEAD.pack(len(content)) + content)
        answer, pixels = (received(self.socket, until) for _ in range(2))
        return json.loads(answer), pixels

    def end(self) -> None:
        """Kill the process; it holds nothing worth keeping."""
        self.process.kill()
        self.process.wait()
        self.socket.close()


class Sandbox:
    """Children that decode files; calls from several threads are safe, each is answered by one child.

    Attributes:
        deadline: seconds for one file, without waiting for a free child.
    """

    def __init__(self, children: int = 2, deadline: float = DEADLINE_SECONDS) -> None:
        self.deadline = deadline
        self._all = [Child() for _ in range(children)]
        self._free: queue.SimpleQueue[Child] = queue.SimpleQueue()
        for child in self._all:
            self._free.put(child)
        self._started: set[Child] = set()

    def __enter__(self) -> Self:
        """Return the sandbox, whose children end with the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all children."""
        self.close()

    def read(self, content: bytes, name: str) -> Scan:
        """Return the slice in a file's content, as `read.read` does.

        Raises:
            ImageError: it cannot be read, has more than 16 million pixels or far more than its size can tell, or takes
                too long or too much memory.
        """
        child = self._free.get()
        try:
            # the first answer of a child waits until it has started
            patience = self.deadline if child in self._started else START_SECONDS
            answer, pixels = child.ask(content, time.monotonic() + patience)
            self._started.add(child)
        except (OSError, ValueError) as error:
            late = isinstance(error, TimeoutError)
            child = self._replace(child)
            raise ImageError(name, TOO_LONG if late else DAMAGED) from error
        finally:
            self._free.put(child)
        if "reason" in answer:
            raise ImageError(name, str(answer["reason"]))
        shape = answer["shape"]
        assert isinstance(shape, list)
        return Scan(np.frombuffer(pixels, np.float32).reshape(shape), source=name)

    def _replace(self, child: Child) -> Child:
        """Return a new child after ending one."""
        child.end()
        self._started.discard(child)
        self._all.remove(child)
        fresh = Child()
        self._all.append(fresh)
        return fresh

    def close(self) -> None:
        """End all children."""
        for child in self._all:
            child.end()


def received(stream: socket.socket, until: float = float("inf")) -> bytes:
    """Return one part of a message.

    Raises:
        OSError: the time is over, or the other side has gone.
    """
    (length,) = HEAD.unpack(exactly(stream, HEAD.size, until))
    return exactly(stream, length, until)


def exactly(stream: socket.socket, length: int, until: float) -> bytes:
    """Return so many bytes; raises as `received`."""
    content = bytearray(length)
    view = memoryview(content)
    while view:
        if until < float("inf"):
            stream.settimeout(max(until - time.monotonic(), 1e-3))
        count = stream.recv_into(view)
        if not count:
            raise ConnectionError("the other side has gone")
        view = view[count:]
    return bytes(content)


def serve(stream: socket.socket) -> None:
    """Answer files until the other side goes: a JSON object with `shape` or `reason`, and the float32 pixels."""
    while True:
        try:
            content = received(stream)
        except OSError:
            return
        try:
            answer, pixels = decoded(content)
        except Exception:  # whatever a file does to its decoder is a refusal
            answer, pixels = {"reason": DAMAGED}, b""
        text = json.dumps(answer).encode()
        stream.sendall(HEAD.pack(len(text)) + text + HEAD.pack(len(pixels)) + pixels)


def decoded(content: bytes) -> tuple[dict[str, object], bytes]:
    """Return what `serve` answers for a file's content."""
    try:
        scan = read(content, largest=min(LARGEST, max(USUAL, PIXELS_PER_BYTE * len(content))))
    except ImageError as error:
        return {"reason": error.reason}, b""
    return {"shape": list(scan.pixels.shape)}, scan.pixels.tobytes()


def confine() -> None:
    """Give this process a memory limit, and take from it writing files, starting processes and core dumps."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    for kind in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE, resource.RLIMIT_NPROC):
        resource.setrlimit(kind, (0, 0))


def main() -> None:
    """Be a child: decode what comes over the socket whose number is the argument."""
    with socket.socket(fileno=int(sys.argv[1])) as stream:
        confine()
        serve(stream)


if __name__ == "__main__":
    main()
