"""What a child process of the sandbox does: decode the files that it is sent, with little memory and few rights."""

import dataclasses
import importlib
import json
import resource
import signal
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from braintumor.errors import BrainTumorError, ImageError
from braintumor.read import UNDECODABLE, read_all
from braintumor.scan import Choice

MEMORY_BYTES: Final = 640 << 20  # address space, libraries included
LARGEST: Final = 16_000_000  # pixels
USUAL: Final = 1_000_000
PIXELS_PER_BYTE: Final = 200
"""A file of more than the usual number of pixels may hold so many for each of its bytes: pictures of anything need far
more bytes than that, blank ones that are packed to fill a decoder's memory far less."""
LONGEST_SECONDS: Final = 60  # after which a child that nobody waits for any more ends by itself
HEAD: Final = struct.Struct("<Q")
"""Before the content of a file, and before each of the two parts of an answer: its length in bytes."""
Told = TypeVar("Told")


def received(stream: socket.socket) -> bytes:
    """Return one part of what a child is asked, of which there is never a second copy.

    Raises:
        OSError: the other side has gone.
    """
    (length,) = HEAD.unpack(exactly(stream, HEAD.size))
    return exactly(stream, length)


def exactly(stream: socket.socket, length: int) -> bytes:
    """Return so many bytes; raises as `received`."""
    content = stream.recv(length, socket.MSG_WAITALL)
    if len(content) < length:
        raise ConnectionError("the other side has gone")
    return content


NOTHING: Final = np.zeros(1, np.float32)[:0]


def serve(stream: socket.socket) -> None:
    """Answer files until the other side goes.

    For each slice a JSON object with `shape`, and the float32 pixels; then one without, with the `reason` if the file
    was refused, or with what is `described` if that was asked for.
    """
    with suppress(OSError):
        while True:
            asked, content = (received(stream) for _ in range(2))
            last: dict[str, Any] = {}
            wishes = json.loads(asked)
            about = {"file": wishes["file"]}
            try:
                if wishes.get("describe"):
                    with timed():
                        last = described(content, wishes["name"])
                else:
                    for message, pixels in in_time(decoded(content, wishes)):
                        send(stream, message | about, pixels)
            except BrainTumorError as error:
                last = {"reason": error.reason if isinstance(error, ImageError) else str(error)}
                if isinstance(error, ImageError):
                    last["code"] = error.code
            except OSError:
                return
            except Exception:  # whatever a file does to its decoder is a refusal
                last = {"reason": UNDECODABLE}
            del asked, content  # or there is no room for the next file
            send(stream, last | about)


@contextmanager
def timed() -> Iterator[None]:
    """End the process if the block takes far longer than anybody waits for it: who asked may have been killed."""
    signal.alarm(LONGEST_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)


def in_time(messages: Iterator[Told]) -> Iterator[Told]:
    """Yield messages, each made as in `timed`."""
    while True:
        with timed():
            message = next(messages, None)
        if message is None:
            return
        yield message


def send(stream: socket.socket, message: dict[str, Any], pixels: NDArray[np.float32] = NOTHING) -> None:
    """Send one message of a child, with the pixels where there are some."""
    text = json.dumps(message).encode()
    stream.sendall(HEAD.pack(len(text)) + text + HEAD.pack(pixels.nbytes))
    stream.sendall(np.ascontiguousarray(pixels).data.cast("B"))


def decoded(content: bytes, asked: dict[str, Any]) -> Iterator[tuple[dict[str, Any], NDArray[np.float32]]]:
    """Yield what `serve` answers for the slices of a file's content."""
    choice = asked["choice"]
    wanted = Choice(choice["plane"], tuple((first, last) for first, last in choice["ranges"]))
    largest = min(LARGEST, max(USUAL, PIXELS_PER_BYTE * len(content)))
    for scan in read_all(content, asked["name"], largest=largest, choice=wanted):
        message = {
            "shape": scan.pixels.shape,
            "spacing": scan.spacing,
            "source": scan.source,
            "notes": scan.notes,
            "place": scan.place and dataclasses.asdict(scan.place),
            "origin": scan.origin,
        }
        yield message, scan.pixels


def described(content: bytes, name: str) -> dict[str, Any]:
    """Return what `serve` answers where a DICOM file is to be described."""
    from braintumor.dicom.read import describe

    return {"described": dataclasses.asdict(describe(content, name))}


def confine() -> None:
    """Give this process a memory limit, and take from it writing files, starting processes and core dumps."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    for kind in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE, resource.RLIMIT_NPROC):
        resource.setrlimit(kind, (0, 0))


def preload() -> None:
    """Import what reads DICOM and NIfTI, where it is installed, before there is a limit and anybody waits."""
    for module in ("braintumor.dicom.read", "braintumor.nifti"):
        with suppress(ModuleNotFoundError):
            importlib.import_module(module)


def main() -> None:
    """Be a child: decode what comes over the socket whose number is the argument.

    What ends the other side, as Ctrl-C does, leaves it time to finish; it ends its children.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with socket.socket(fileno=int(sys.argv[1])) as stream:
        preload()
        confine()
        serve(stream)


if __name__ == "__main__":
    main()
