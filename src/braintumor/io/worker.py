"""Run a child process of the sandbox: decode the files that it is sent, without any right but to reply."""

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
"""The most pixels for each byte of a file that holds more than the usual number: pictures of anything need far more
bytes than that, blank ones that are packed to fill a decoder's memory need far fewer."""
LONGEST_SECONDS: Final = 60  # of a processor's time, after which a child that nobody waits for any more ends by itself
HEAD: Final = struct.Struct("<Q")
"""Stands before the content of a file, and before each of the two parts of a reply: its length in bytes."""
READERS: Final = ("braintumor.dicom.read", "braintumor.io.nifti")
UNNEEDED: Final = ("requests", "scipy")
"""Optional imports of pydicom and nibabel, 7 MiB of memory that reading a file does not need."""
Message = TypeVar("Message")
NO_PIXELS: Final = np.zeros(1, np.float32)[:0]


def _receive(stream: socket.socket) -> bytes:
    """Return one part of a request.

    Raises:
        OSError: the parent has closed the socket.
    """
    (length,) = HEAD.unpack(_receive_exactly(stream, HEAD.size))
    return _receive_exactly(stream, length)


def _receive_exactly(stream: socket.socket, length: int) -> bytes:
    # In one call: joining chunks would need a second copy of a file of up to 512 MiB, and memory is limited.
    content = stream.recv(length, socket.MSG_WAITALL)
    if len(content) < length:
        raise ConnectionError("the parent has closed the socket")
    return content


def _serve(stream: socket.socket) -> None:
    """Reply to requests until the parent closes the socket.

    A reply is a JSON object with `shape` and the float32 pixels for each slice; then one without `shape`, with the
    `reason` if the file was refused, or with the result of `_description` if that was requested.
    """
    with suppress(OSError):
        while True:
            request: dict[str, Any] = json.loads(_receive(stream))
            content = _receive(stream)
            last: dict[str, Any] = {}
            # The number lets the parent notice a reply that is left over from an earlier file.
            number = {"file": request["file"]}
            try:
                if request.get("describe"):
                    with _timed():
                        last = _description(content, request["name"])
                else:
                    for message, pixels in _in_time(_slices(content, request)):
                        _send(stream, message | number, pixels)
            except ImageError as error:
                last = {"reason": error.reason, "code": error.code}
            except BrainTumorError as error:  # a library is missing
                last = {"reason": str(error), "code": Refusal.MISSING_LIBRARY}
            except ConnectionError:
                return
            except Exception:  # whatever a file does to its decoder is a refusal
                last = {"reason": UNDECODABLE, "code": Refusal.UNDECODABLE}
            del content  # before the next file comes: there is not room for two
            _send(stream, last | number)


@contextmanager
def _timed() -> Iterator[None]:
    """End the process if the block takes far longer than the parent waits: the parent may have been killed.

    The processor's time counts, as it does for the parent, so that a busy machine ends no good child.
    """
    signal.setitimer(signal.ITIMER_PROF, LONGEST_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _in_time(messages: Iterator[Message]) -> Iterator[Message]:
    """Yield messages, and limit the time that each takes to make, not the time until the parent has received it."""
    while True:
        with _timed():
            message = next(messages, None)
        if message is None:
            return
        yield message


def _send(stream: socket.socket, message: dict[str, Any], pixels: NDArray[np.float32] = NO_PIXELS) -> None:
    """Send one message, with pixels if it is about a slice."""
    text = json.dumps(message).encode()
    stream.sendall(HEAD.pack(len(text)) + text + HEAD.pack(pixels.nbytes))
    stream.sendall(np.ascontiguousarray(pixels).data.cast("B"))


def _slices(content: bytes, request: dict[str, Any]) -> Iterator[tuple[dict[str, Any], NDArray[np.float32]]]:
    """Yield the reply of `_serve` for each selected slice of a file's content."""
    choice = request["choice"]
    selection = SliceSelection(choice["plane"], tuple((first, last) for first, last in choice["ranges"]))
    largest = min(LARGEST, max(USUAL, PIXELS_PER_BYTE * len(content)))
    for scan in read_all(content, request["name"], largest=largest, choice=selection):
        message = {
            "shape": scan.pixels.shape,
            "spacing": scan.spacing,
            "source": scan.source,
            "notes": scan.notes,
            "place": scan.place and dataclasses.asdict(scan.place),
            "origin": scan.origin,
        }
        yield message, scan.pixels


def _description(content: bytes, name: str) -> dict[str, Any]:
    """Return the reply of `_serve` to a request to describe a DICOM file."""
    from braintumor.dicom.read import describe

    return {"described": dataclasses.asdict(describe(content, name))}


def preload() -> None:
    """Import all that reads files, as far as it is installed: a confined process can no longer open any module.

    Pillow and NumPy import some of their parts when first used, Python the character sets of DICOM's text.
    """
    for module in (*READERS, *(f"PIL.{kind}ImagePlugin" for kind in ("Bmp", "Jpeg", "Mpo", "Png", "Tiff")), "numpy.ma"):
        with suppress(ModuleNotFoundError):
            importlib.import_module(module)
    if "pydicom.charset" in sys.modules:
        for encoding in sys.modules["pydicom.charset"].python_encoding.values():
            b"".decode(encoding)


def run_worker() -> None:
    """Run the decoder worker: report which protections hold, then decode what comes over a socket.

    The socket's descriptor is the first command-line argument.
    """
    # Ctrl-C and the stop of a service manager reach the children, too. The parent finishes its work first, for which it
    # needs them, and ends them itself.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    for name in UNNEEDED:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # to Python, a module that cannot be imported
    # In this order: nothing can be imported once the process is confined, and no file comes before that.
    with socket.socket(fileno=int(sys.argv[1])) as stream:
        preload()
        _send(stream, {"protections": confine(stream.fileno())})
        _serve(stream)
