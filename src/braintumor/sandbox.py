"""How bytes from outside become slices: decoded in child processes, see `decoder`, with a deadline.

A file that takes too long, too much memory or kills its decoder is refused like a damaged one; whoever asked is
untouched, and a new child takes the place of the old one.
"""

import dataclasses
import json
import os
import queue
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import Any, Final, Self, TypeVar

import numpy as np

from braintumor.decoder import HEAD, LARGEST
from braintumor.errors import ImageError, Refusal
from braintumor.read import GZIP, SEVERAL, UNDECODABLE, volume_kind
from braintumor.scan import EVERYTHING, LARGEST_VOLUME, SERIES, Choice, Place, Scan, slice_name

DEADLINE_SECONDS: Final = 0.8
NEXT_SECONDS: Final = 0.1  # more, for each further slice of a file
MIB_PER_SECOND: Final = 64  # more time for large volumes, which are unpacked before the first slice
START_SECONDS: Final = 20.0
TOO_LONG: Final = "takes too long to decode; export it again without compression"
NOT_NOW: Final = "cannot be decoded now: this machine starts no further process; try again later"
LONGEST_MESSAGE: Final = 1 << 20  # bytes of JSON from a child
SECRETS: Final = "BRAINTUMOR_"
"""How the names of our variables in the environment begin; passwords are among them, and a child needs none."""
NONSENSE: Final = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What comes of an answer that no child gives unless its file has taken it over."""
Told = TypeVar("Told")


class Child:
    """One process that decodes, and the socket to it."""

    def __init__(self) -> None:
        self.socket, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "braintumor.decoder", str(theirs.fileno())]
            kept = {name: value for name, value in os.environ.items() if not name.startswith(SECRETS)}
            limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
            try:
                self.process = subprocess.Popen(
                    command,
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env=kept | limits,
                )
            except OSError:
                self.socket.close()
                raise
        self._files = 0

    def ask(self, content: bytes, asked: dict[str, Any], seconds: float) -> Iterator[tuple[dict[str, Any], bytearray]]:
        """Yield the child's messages about a file: one for each slice, and one that says that there are no more.

        Only the time spent waiting for the child counts.

        Raises:
            OSError: the time is over, or the process has ended.
            ValueError: it says what no child says, or something about another file.
        """
        self._files += 1
        text = json.dumps({**asked, "file": self._files}).encode()
        began = time.monotonic()
        self.socket.settimeout(seconds)
        self.socket.sendall(HEAD.pack(len(text)) + text + HEAD.pack(len(content)))
        self.socket.sendall(content)
        while True:
            answer = answered(self.socket, began + seconds, LONGEST_MESSAGE)
            pixels = answered(self.socket, began + seconds, LARGEST * PIXEL_BYTES)
            waited = time.monotonic() - began
            message: dict[str, Any] = json.loads(answer)
            if message["file"] != self._files:
                raise ValueError("an answer about another file")
            yield message, pixels
            if "shape" not in message:
                return
            began, seconds = time.monotonic(), seconds - waited + NEXT_SECONDS

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
        self._free: queue.SimpleQueue[Child | None] = queue.SimpleQueue()  # None is one that could not be started
        for child in self._all:
            self._free.put(child)
        self._started: set[Child] = set()

    def __enter__(self) -> Self:
        """Return the sandbox, whose children end with the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """End all children."""
        self.close()

    def read(self, content: bytes, name: str, choice: Choice = EVERYTHING) -> Scan:
        """Return the one wanted slice in a file's content, as `read.read` does.

        Raises:
            ImageError: as `read_all`, or there are several slices.
        """
        with closing(self.read_all(content, name, choice)) as remaining:
            scan, another = next(remaining, None), next(remaining, None)
        if scan is None or another is not None:
            raise ImageError(name, UNDECODABLE) if scan is None else ImageError(name, SEVERAL, Refusal.SEVERAL_SLICES)
        return scan

    def read_all(self, content: bytes, name: str, choice: Choice = EVERYTHING) -> Generator[Scan]:
        """Yield the wanted slices in a file's content, as `read.read_all` does.

        A child is kept until the last one: take them all, or close the iterator.

        Raises:
            ImageError: it cannot be read, has more than 16 million pixels or far more than its size can tell, or takes
                too long or too much memory.
        """

        def understood(answer: dict[str, Any], pixels: bytearray) -> Scan | None:
            return scan_of(answer, pixels, name) if "shape" in answer else None

        asked = {"name": name, "choice": dataclasses.asdict(choice)}
        with closing(self._messages(content, name, asked, understood)) as found:
            for scan in found:
                if scan is not None:
                    yield scan

    def describe(self, content: bytes, name: str) -> dict[str, Any]:
        """Return what `dicom.read.describe` says about a DICOM file's content, as the fields of a `dicom.series.File`.

        Raises:
            ImageError: it cannot be read.
        """

        def understood(answer: dict[str, Any], _: bytearray) -> dict[str, Any]:
            return dict(answer["described"])

        *_, described = self._messages(content, name, {"name": name, "describe": True}, understood)
        return described

    def _messages(
        self,
        content: bytes,
        name: str,
        asked: dict[str, Any],
        understood: Callable[[dict[str, Any], bytearray], Told],
    ) -> Generator[Told]:
        """Yield what a child says about a file, as it is understood; the last message too.

        Raises:
            ImageError: as `read_all`, or it cannot be understood, or there is no child.
        """
        child = self._free.get() or self._start()
        if child is None:
            self._free.put(None)
            raise ImageError(name, NOT_NOW, Refusal.BUSY)
        whole = False
        try:
            # the first answer of a child waits until it has started
            patience = self.deadline if child in self._started else START_SECONDS
            patience += volume_mib(content) / MIB_PER_SECOND
            for answer, pixels in child.ask(content, asked, patience):
                self._started.add(child)
                if "reason" in answer:
                    whole = True
                    raise ImageError(name, reason_of(answer), Refusal(answer.get("code", Refusal.UNDECODABLE)))
                told = understood(answer, pixels)
                whole = "shape" not in answer
                yield told
        except (OSError, *NONSENSE) as error:
            if isinstance(error, TimeoutError):
                raise ImageError(name, TOO_LONG, Refusal.TIMEOUT) from error
            raise ImageError(name, UNDECODABLE) from error
        finally:
            self._free.put(child if whole else self._replace(child))

    def _replace(self, child: Child) -> Child | None:
        """Return a new child after ending one, if it can be started now."""
        child.end()
        self._started.discard(child)
        self._all.remove(child)
        return self._start()

    def _start(self) -> Child | None:
        """Return a new child, None where the system starts none now."""
        try:
            child = Child()
        except OSError:
            return None
        self._all.append(child)
        return child

    def close(self) -> None:
        """End all children."""
        for child in self._all:
            child.end()


def volume_mib(content: bytes) -> float:
    """Return how large a volume is, as far as its file says without being parsed; 0 for an image.

    Source: RFC 1952 2.3.1, the size at the end of gzip data.
    """
    if volume_kind(content) is None:
        return 0.0
    size = int.from_bytes(content[-4:], "little") if content.startswith(GZIP) else len(content)
    return min(max(size, len(content)), LARGEST_VOLUME) / 2**20


def answered(stream: socket.socket, until: float, longest: int) -> bytearray:
    """Return one part of a child's message.

    Raises:
        OSError: the time is over, or the other side has gone.
        ValueError: it has more bytes than such a part can have.
    """
    (length,) = HEAD.unpack(filled(stream, bytearray(HEAD.size), until))
    if length > longest:
        raise ValueError(f"expected at most {longest:,} bytes, got {length:,}")
    return filled(stream, bytearray(length), until)


def filled(stream: socket.socket, buffer: bytearray, until: float) -> bytearray:
    """Return a buffer after filling it from a stream; raises as `answered`."""
    view = memoryview(buffer)
    while view:
        stream.settimeout(max(until - time.monotonic(), 1e-3))
        count = stream.recv_into(view)
        if not count:
            raise ConnectionError("the other side has gone")
        view = view[count:]
    return buffer


def reason_of(answer: dict[str, Any]) -> str:
    """Return the reason in a child's message; nothing that a terminal could take for more than text."""
    reason = answer["reason"]
    return reason if isinstance(reason, str) and reason.isprintable() and len(reason) <= LONGEST_REASON else UNDECODABLE


LONGEST_REASON: Final = 500  # letters


def scan_of(answer: dict[str, Any], pixels: bytearray, name: str) -> Scan:
    """Return the slice in a child's message about a file of this name.

    Raises:
        One of `NONSENSE`: it is none, or names another file or place.
    """
    values = np.frombuffer(pixels, np.float32).reshape(answer["shape"])
    spacing, notes = answer["spacing"], tuple(answer["notes"])
    place = answer["place"] and Place(**answer["place"])
    names = (name, place and slice_name(name, int(place.number), 2))
    if answer["source"] not in names or (place and place.volume != name and not SERIES.fullmatch(place.volume)):
        raise ValueError("an answer about another file")
    if not all(note.isprintable() for note in notes):
        raise ValueError("expected notes of letters")
    return Scan(values, spacing and tuple(spacing), answer["source"], notes, place, answer["origin"])


PIXEL_BYTES: Final = 4
