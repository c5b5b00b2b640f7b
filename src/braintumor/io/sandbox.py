"""How bytes from outside become slices: decoded in child processes without rights, see `decoder` and `confinement`.

A file that takes too much of a processor's time or memory, or makes its decoder crash, is refused like a damaged one;
whoever asked is untouched, and a new child takes the place of the old one. A decoder that is killed or stopped from
outside, or gets no processor, says nothing about its file, which is so tried once more.
"""

import dataclasses
import logging
import queue
from collections.abc import Callable, Generator
from contextlib import closing
from itertools import islice
from threading import Event
from typing import Any, Final, Self, TypeVar

from braintumor.errors import (
    MALFORMED_ERRORS,
    BrainTumorError,
    ChildCrashedError,
    ChildLostError,
    DecodeTimeoutError,
    ImageError,
    Refusal,
)
from braintumor.io.child import Child
from braintumor.io.confinement import PROTECTIONS
from braintumor.io.read import GZIP, SEVERAL, UNDECODABLE, volume_kind
from braintumor.io.replies import refusal_of, scan_of
from braintumor.io.scan import ALL_SLICES, LARGEST_VOLUME, Scan, SliceSelection

DEADLINE_SECONDS: Final = 0.8
MIB_PER_SECOND: Final = 64  # more time for large volumes, which are unpacked before the first slice
ATTEMPTS: Final = 2

TOO_LONG: Final = "takes too long to decode; export it again without compression"
NOT_NOW: Final = "cannot be decoded now: this machine is busy, or its decoder was stopped; try again later"

Told = TypeVar("Told")
_log = logging.getLogger(__name__)
_warned: Final = Event()


class Sandbox:
    """Children that decode files; calls from several threads are safe, each is answered by one child.

    Attributes:
        deadline: seconds of a processor's time for one file.
    """

    def __init__(self, children: int = 2, deadline: float = DEADLINE_SECONDS) -> None:
        self.deadline = deadline
        self._closed = False
        self._all = [Child() for _ in range(children)]
        self._free: queue.SimpleQueue[Child | None] = queue.SimpleQueue()  # None is one that could not be started
        for child in self._all:
            self._free.put(child)

    def __enter__(self) -> Self:
        """Return the sandbox, whose children end with the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """End all children."""
        self.close()

    def missing_protections(self) -> tuple[str, ...]:
        """Return which of `PROTECTIONS` this system does not give; waits until a child has started.

        Raises:
            ChildLostError: none starts.
        """
        child = self._living()
        if child is None:
            raise ChildLostError
        try:
            return tuple(name for name in PROTECTIONS if name not in child.protections())
        finally:
            self._free.put(child)

    def read(self, content: bytes, name: str, choice: SliceSelection = ALL_SLICES) -> Scan:
        """Return the one wanted slice in a file's content, as `read.read` does.

        Raises:
            ImageError: as `read_all`, or there are several slices.
        """
        with closing(self.read_all(content, name, choice)) as remaining:
            scan, another = next(remaining, None), next(remaining, None)
        if scan is None:
            raise ImageError(name, UNDECODABLE)
        if another is not None:
            raise ImageError(name, SEVERAL, Refusal.SEVERAL_SLICES)
        return scan

    def read_all(self, content: bytes, name: str, choice: SliceSelection = ALL_SLICES) -> Generator[Scan]:
        """Yield the wanted slices in a file's content, as `read.read_all` does.

        A child is kept until the last one: take them all, or close the iterator.

        Raises:
            ImageError: it cannot be read, has more than 16 million pixels or far more than its size can tell, takes too
                long or too much memory, or cannot be decoded now.
        """

        def understood(answer: dict[str, Any], pixels: bytearray) -> Scan | None:
            return scan_of(answer, pixels, name) if "shape" in answer else None

        asked = {"name": name, "choice": dataclasses.asdict(choice)}
        with closing(self._messages(content, name, asked, understood)) as slices:
            for scan in slices:
                if scan is not None:
                    yield scan

    def describe(self, content: bytes, name: str) -> dict[str, Any]:
        """Return what `dicom.read.describe` says about a DICOM file's content, as the fields of a `dicom.series.File`.

        Raises:
            ImageError: it cannot be read, or not now.
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

        After a child is lost another one is asked, and what it repeats is left out.

        Raises:
            ImageError: as `read_all`, or it cannot be understood, or there is no child.
        """
        given = 0
        for _ in range(ATTEMPTS):
            try:
                with closing(self._attempt(content, name, asked, understood)) as messages:
                    for message in islice(messages, given, None):
                        given += 1
                        yield message
                return
            except ChildLostError as error:
                lost = error
        raise ImageError(name, NOT_NOW, Refusal.BUSY) from lost

    def _attempt(
        self,
        content: bytes,
        name: str,
        asked: dict[str, Any],
        understood: Callable[[dict[str, Any], bytearray], Told],
    ) -> Generator[Told]:
        """Yield what one child says about a file, as `_messages`.

        Raises:
            ChildLostError: the child is, or there is none.
        """
        child = self._living()
        if child is None:
            self._free.put(None)
            raise ChildLostError
        whole = False
        try:
            self._warn(child)
            for answer, pixels in child.ask(content, asked, self.deadline + _volume_mib(content) / MIB_PER_SECOND):
                if "reason" in answer:
                    whole = True
                    raise refusal_of(answer, name)
                told = understood(answer, pixels)
                whole = "shape" not in answer
                yield told
        except DecodeTimeoutError as error:
            raise ImageError(name, TOO_LONG, Refusal.TIMEOUT) from error
        except (ChildCrashedError, *MALFORMED_ERRORS) as error:
            raise ImageError(name, UNDECODABLE) from error
        finally:
            self._free.put(child if whole else self._replace(child))

    def _living(self) -> Child | None:
        """Return a free child that has not ended while nobody asked it anything; waits for one."""
        child = self._free.get() or self._start()
        return child if child is None or child.is_alive else self._replace(child)

    def _warn(self, child: Child) -> None:
        """Say once in the process what this system lacks to confine children.

        Raises:
            ChildLostError: the child does not start.
        """
        missing = [name for name in PROTECTIONS if name not in child.protections()]
        if missing and not _warned.is_set():
            _warned.set()
            _log.warning(
                "this system offers no %s: files from outside are decoded with more rights", " and no ".join(missing)
            )

    def _replace(self, child: Child) -> Child | None:
        """Return a new child after ending one, if it can be started now."""
        child.end()
        self._all.remove(child)
        return self._start()

    def _start(self) -> Child | None:
        """Return a new child, None where the system starts none now."""
        if self._closed:
            return None
        try:
            child = Child()
        except OSError:
            return None
        self._all.append(child)
        return child

    def close(self) -> None:
        """End all children, what they are doing too: who waits for it is told that it cannot be decoded now."""
        self._closed = True
        for child in list(self._all):
            child.end()


def require_confinement() -> None:
    """Raise where decoders cannot be confined wholly.

    Raises:
        BrainTumorError: with what is missing.
    """
    with Sandbox(1) as sandbox:
        try:
            missing = sandbox.missing_protections()
        except ChildLostError as error:
            raise BrainTumorError(
                "no process for decoding starts; see how many processes and how much memory this account may have"
            ) from error
    if missing:
        raise BrainTumorError(
            f"this system offers no {' and no '.join(missing)} to confine the processes that decode files; use a Linux "
            "kernel of 5.13 or later with both, or start without --require_confinement"
        )


def _volume_mib(content: bytes) -> float:
    """Return how large a volume is, as far as its file says without being parsed; 0 for an image.

    Source: RFC 1952 2.3.1, the size at the end of gzip data.
    """
    if volume_kind(content) is None:
        return 0.0
    size = int.from_bytes(content[-4:], "little") if content.startswith(GZIP) else len(content)
    return min(max(size, len(content)), LARGEST_VOLUME) / 2**20
