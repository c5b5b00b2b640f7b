"""Decode bytes from outside in child processes without rights, see `worker` and `confinement`.

A file that takes too much of a processor's time or memory, or makes its decoder crash, is refused like a damaged one;
the calling process is unharmed, and a new child takes the place of the old one. A decoder that is killed or stopped
from outside, or gets no processor, says nothing about its file, which is therefore tried once more.
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

Reply = TypeVar("Reply")
_log = logging.getLogger(__name__)
_warned: Final = Event()


class Sandbox:
    """A pool of children that decode files. Calls from several threads are safe; one child serves each of them.

    Attributes:
        deadline: seconds of a processor's time for one file.
    """

    def __init__(self, children: int = 2, deadline: float = DEADLINE_SECONDS) -> None:
        self.deadline = deadline
        self._closed = False
        self._all = [Child() for _ in range(children)]
        # For every child that is taken from this queue a child, or None, has to be put back: calls wait for an entry,
        # and one that is missing would let them wait for ever.
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
        """Return those of `PROTECTIONS` that this system lacks; wait until a child has started.

        Raises:
            ChildLostError: none starts.
        """
        child = self._take_child()
        try:
            if child is None:
                raise ChildLostError
            return tuple(name for name in PROTECTIONS if name not in child.protections())
        finally:
            self._free.put(child)  # an empty slot too, or later calls would wait for it for ever

    def read(self, content: bytes, name: str, choice: SliceSelection = ALL_SLICES) -> Scan:
        """Return the only selected slice in a file's content, as `read.read` does.

        Raises:
            ImageError: as `read_all`, or there are several slices.
        """
        # The second slice is reason enough to refuse; closing the iterator ends the child at its work on the rest.
        with closing(self.read_all(content, name, choice)) as remaining:
            scan, another = next(remaining, None), next(remaining, None)
        if scan is None:
            raise ImageError(name, UNDECODABLE)
        if another is not None:
            raise ImageError(name, SEVERAL, Refusal.SEVERAL_SLICES)
        return scan

    def read_all(self, content: bytes, name: str, choice: SliceSelection = ALL_SLICES) -> Generator[Scan]:
        """Yield the selected slices in a file's content, as `read.read_all` does.

        A child is occupied until the last one: take them all, or close the iterator.

        Raises:
            ImageError: it cannot be read, has more than 16 million pixels or implausibly many for its size, takes too
                long or too much memory, or cannot be decoded now.
        """

        def parse(header: dict[str, Any], pixels: bytearray) -> Scan | None:
            return scan_of(header, pixels, name) if "shape" in header else None

        request = {"name": name, "choice": dataclasses.asdict(choice)}
        with closing(self._replies(content, name, request, parse)) as slices:
            for scan in slices:
                if scan is not None:
                    yield scan

    def describe(self, content: bytes, name: str) -> dict[str, Any]:
        """Return what `dicom.read.describe` says about a DICOM file's content, as the fields of a `dicom.series.File`.

        Raises:
            ImageError: it cannot be read, or not now.
        """

        def parse(header: dict[str, Any], _: bytearray) -> dict[str, Any]:
            return dict(header["described"])

        *_, described = self._replies(content, name, {"name": name, "describe": True}, parse)
        return described

    def _replies(
        self,
        content: bytes,
        name: str,
        request: dict[str, Any],
        parse: Callable[[dict[str, Any], bytearray], Reply],
    ) -> Generator[Reply]:
        """Yield a child's replies about a file, parsed; the last one too.

        Raises:
            ImageError: as `read_all`, or a reply is malformed, or there is no child.
        """
        yielded = 0
        for _ in range(ATTEMPTS):
            try:
                with closing(self._attempt(content, name, request, parse)) as replies:
                    # A second child begins with the first slice again: the caller has these already.
                    for reply in islice(replies, yielded, None):
                        yielded += 1
                        yield reply
                return
            except ChildLostError as error:
                lost = error
        raise ImageError(name, NOT_NOW, Refusal.BUSY) from lost

    def _attempt(
        self,
        content: bytes,
        name: str,
        request: dict[str, Any],
        parse: Callable[[dict[str, Any], bytearray], Reply],
    ) -> Generator[Reply]:
        """Yield one child's replies about a file, as `_replies`.

        Raises:
            ChildLostError: the child was lost, or there is none.
        """
        child = self._take_child()
        if child is None:
            self._free.put(None)
            raise ChildLostError
        # A child serves the next file only after its last reply about this one. In any other case, as when the caller
        # closes the iterator early, the rest of this file would still come through the socket.
        is_reusable = False
        try:
            self._warn_if_unconfined(child)
            seconds = self.deadline + _volume_mib(content) / MIB_PER_SECOND
            for header, pixels in child.ask(content, request, seconds):
                if "reason" in header:
                    is_reusable = True
                    raise refusal_of(header, name)
                reply = parse(header, pixels)
                is_reusable = "shape" not in header
                yield reply
        except DecodeTimeoutError as error:
            raise ImageError(name, TOO_LONG, Refusal.TIMEOUT) from error
        except (ChildCrashedError, *MALFORMED_ERRORS) as error:
            raise ImageError(name, UNDECODABLE) from error
        finally:
            self._free.put(child if is_reusable else self._replace(child))

    def _take_child(self) -> Child | None:
        """Wait for a free child and return it, or a new one if it has ended while idle; None if none can be started."""
        child = self._free.get() or self._start()
        return child if child is None or child.is_alive else self._replace(child)

    def _warn_if_unconfined(self, child: Child) -> None:
        """Log once in this process what the system lacks to confine children.

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
        """End a child and return a new one, None if none can be started now."""
        child.end()
        self._all.remove(child)
        return self._start()

    def _start(self) -> Child | None:
        """Return a new child, None where the system starts none now."""
        if self._closed:  # or a call that is just losing its child would leave a new process behind
            return None
        try:
            child = Child()
        except OSError:
            return None
        self._all.append(child)
        return child

    def close(self) -> None:
        """End all children, even at work: calls that wait for them are refused as not decodable now."""
        self._closed = True  # first, so that threads whose children end now start no others
        for child in list(self._all):  # a copy: these threads change the list meanwhile
            child.end()


def require_confinement() -> None:
    """Raise if this system cannot fully confine decoders.

    Raises:
        BrainTumorError: names what is missing.
    """
    with Sandbox(1) as sandbox:
        try:
            missing = sandbox.missing_protections()
        except ChildLostError as error:
            raise BrainTumorError(
                "no decoder process could be started; check the limits on processes and memory of this account"
            ) from error
    if missing:
        raise BrainTumorError(
            f"this system offers no {' and no '.join(missing)} to confine the processes that decode files; use a Linux "
            "kernel of 5.13 or later with both, or start without --require_confinement"
        )


def _volume_mib(content: bytes) -> float:
    """Return the MiB of a volume, as far as its file tells without being parsed; 0 for an image.

    Source: RFC 1952 2.3.1, the size at the end of gzip data.
    """
    if volume_kind(content) is None:
        return 0.0
    size = int.from_bytes(content[-4:], "little") if content.startswith(GZIP) else len(content)
    # The field is whatever the file says: it buys at most the time for the largest volume that is read.
    return min(max(size, len(content)), LARGEST_VOLUME) / 2**20
