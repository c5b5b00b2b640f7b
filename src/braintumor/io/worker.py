"""What a child process of the sandbox does: decode the files that it is sent, without any right but to answer."""

import dataclasses
import importlib
import json
import signal
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from braintumor.errors import BrainTumorError, ImageError, Refusal
from braintumor.io.confinement import confine
from braintumor.io.read import UNDECODABLE, read_all
from braintumor.io.scan import SliceSelection

LARGEST: Final = 16_000_000  # pixels
USUAL: Final = 1_000_000
PIXELS_PER_BYTE: Final = 200
"""A file of more than the usual number of pixels may hold so many for each of its bytes: pictures of anything need far
more bytes than that, blank ones that are packed to fill a decoder's memory far less."""
LONGEST_SECONDS: Final = 60  # of a processor's time, after which a child that nobody waits for any more ends by itself
HEAD: Final = struct.Struct("<Q")
"""Before the content of a file, and before each of the two parts of an answer: its length in bytes."""
READERS: Final = ("braintumor.dicom.read", "braintumor.io.nifti")
UNNEEDED: Final = ("requests", "scipy")
"""What pydicom and nibabel import where it is installed, 7 MiB that reading a file does not need."""
Told = TypeVar("Told")
NOTHING: Final = np.zeros(1, np.float32)[:0]


def _received(stream: socket.socket) -> bytes:
    """Return one part of what a child is asked, of which there is never a second copy.

    Raises:
        OSError: the other side has gone.
    """
    (length,) = HEAD.unpack(_exactly(stream, HEAD.size))
    return _exactly(stream, length)


def _exactly(stream: socket.socket, length: int) -> bytes:
    """Return so many bytes; raises as `_received`."""
    content = stream.recv(length, socket.MSG_WAITALL)
    if len(content) < length:
        raise ConnectionError("the other side has gone")
    return content


def _serve(stream: socket.socket) -> None:
    """Answer files until the other side goes.

    For each slice a JSON object with `shape`, and the float32 pixels; then one without, with the `reason` if the file
    was refused, or with what is `_described` if that was asked for.
    """
    with suppress(OSError):
        while True:
            asked, content = (_received(stream) for _ in range(2))
            last: dict[str, Any] = {}
            wishes = json.loads(asked)
            about = {"file": wishes["file"]}
            try:
                if wishes.get("describe"):
                    with _timed():
                        last = _described(content, wishes["name"])
                else:
                    for message, pixels in _in_time(_decoded(content, wishes)):
                        _send(stream, message | about, pixels)
            except ImageError as error:
                last = {"reason": error.reason, "code": error.code}
            except BrainTumorError as error:  # a library is missing
                last = {"reason": str(error), "code": Refusal.MISSING_LIBRARY}
            except ConnectionError:
                return
            except Exception:  # whatever a file does to its decoder is a refusal
                last = {"reason": UNDECODABLE, "code": Refusal.UNDECODABLE}
            del asked, content  # or there is no room for the next file
            _send(stream, last | about)


@contextmanager
def _timed() -> Iterator[None]:
    """End the process if the block takes far longer than anybody waits for it: who asked may have been killed.

    What counts is the processor's time, as for who waits, so that nothing good ends so on a busy machine.
    """
    signal.setitimer(signal.ITIMER_PROF, LONGEST_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _in_time(messages: Iterator[Told]) -> Iterator[Told]:
    """Yield messages, each made as in `_timed`."""
    while True:
        with _timed():
            message = next(messages, None)
        if message is None:
            return
        yield message


def _send(stream: socket.socket, message: dict[str, Any], pixels: NDArray[np.float32] = NOTHING) -> None:
    """Send one message of a child, with the pixels where there are some."""
    text = json.dumps(message).encode()
    stream.sendall(HEAD.pack(len(text)) + text + HEAD.pack(pixels.nbytes))
    stream.sendall(np.ascontiguousarray(pixels).data.cast("B"))


def _decoded(content: bytes, asked: dict[str, Any]) -> Iterator[tuple[dict[str, Any], NDArray[np.float32]]]:
    """Yield what `_serve` answers for the slices of a file's content."""
    choice = asked["choice"]
    wanted = SliceSelection(choice["plane"], tuple((first, last) for first, last in choice["ranges"]))
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


def _described(content: bytes, name: str) -> dict[str, Any]:
    """Return what `_serve` answers where a DICOM file is to be described."""
    from braintumor.dicom.read import describe

    return {"described": dataclasses.asdict(describe(content, name))}


def preload() -> None:
    """Import all that reads files, as far as it is installed: a confined process can open no module any more.

    Pillow and NumPy import parts of theirs when these are first used, Python the character sets of DICOM's text.
    """
    for module in (*READERS, *(f"PIL.{kind}ImagePlugin" for kind in ("Bmp", "Jpeg", "Mpo", "Png", "Tiff")), "numpy.ma"):
        with suppress(ModuleNotFoundError):
            importlib.import_module(module)
    if "pydicom.charset" in sys.modules:
        for encoding in sys.modules["pydicom.charset"].python_encoding.values():
            b"".decode(encoding)


def run_worker() -> None:
    """Be a child: say which protections hold, then decode what comes over the socket whose number is the argument.

    What ends the other side, as Ctrl-C does, leaves it time to finish; it ends its children.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    for name in UNNEEDED:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # to Python, a module that cannot be imported
    with socket.socket(fileno=int(sys.argv[1])) as stream:
        preload()
        _send(stream, {"protections": confine(stream.fileno())})
        _serve(stream)
