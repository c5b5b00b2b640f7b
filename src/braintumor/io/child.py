"""One process that decodes files without any right but to answer, and how long it is waited for."""

import json
import math
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from braintumor.errors import MALFORMED_ERRORS, ChildCrashedError, ChildLostError, DecodeTimeoutError
from braintumor.io.confinement import PROTECTIONS
from braintumor.io.worker import HEAD, LARGEST

NEXT_SECONDS: Final = 0.1  # more, for each further slice of a file
START_SECONDS: Final = 60.0
STARVED_SECONDS: Final = 20.0
"""Longest wait for a child that has processor's time left: then others, or nobody, have the processor."""
STARVED_FACTOR: Final = 10  # more of it, for each second of a processor that a file may take
LOOK_SECONDS: Final = 0.1  # how often a child that is waited for is looked at
END_SECONDS: Final = 1.0  # until the status of a child that has closed its socket is known
MOST_SLICES: Final = 65_536  # that are taken of a file
LONGEST_MESSAGE: Final = 1 << 20  # bytes of JSON from a child
PIXEL_BYTES: Final = 4

INHERITED: Final = ("LD_LIBRARY_PATH", "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "SYSTEMROOT")
"""What of the environment a child gets, to find libraries; passwords stand in the rest."""
ONE_THREAD: Final = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
START_CODE: Final = "import sys; sys.path[:] = sys.argv[2:]; from braintumor.io.worker import run_worker; run_worker()"
FOLDER: Final = Path(sys.executable).anchor or os.sep
"""The working folder of children, in which nobody but an administrator can put anything."""
CRASHES: Final = frozenset(
    -number
    for number in (
        *(signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGSYS, signal.SIGTRAP),
        *(signal.SIGPROF, signal.SIGXCPU),
    )
)
"""Exit statuses of a child that its file has ended; by any other signal somebody else has."""


class Child:
    """One process that decodes, and the socket to it."""

    def __init__(self) -> None:
        self.socket, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-I", "-S", "-c", START_CODE, str(theirs.fileno()), *import_folders()]
            kept = {name: os.environ[name] for name in INHERITED if name in os.environ}
            try:
                self.process = subprocess.Popen(
                    command,
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    cwd=FOLDER,
                    env=kept | ONE_THREAD,
                )
            except OSError:
                self.socket.close()
                raise
        self._files = 0
        self._protections: tuple[str, ...] | None = None

    @property
    def is_alive(self) -> bool:
        """Tell whether the process has not ended."""
        return self.process.poll() is None

    def protections(self) -> tuple[str, ...]:
        """Return which of `PROTECTIONS` hold in the process; waits until it has started.

        Raises:
            ChildLostError: it has not.
        """
        if self._protections is None:
            patience = Patience(self, math.inf, START_SECONDS)
            try:
                message = json.loads(_received(self.socket, LONGEST_MESSAGE, patience))
                _received(self.socket, 0, patience)
                self._protections = tuple(name for name in PROTECTIONS if name in message["protections"])
            except (OSError, ChildCrashedError, *MALFORMED_ERRORS) as error:  # no file has been seen yet
                raise ChildLostError from error
        return self._protections

    def ask(self, content: bytes, asked: dict[str, Any], seconds: float) -> Iterator[tuple[dict[str, Any], bytearray]]:
        """Yield the child's messages about a file: one for each slice, and one that says that there are no more.

        Args:
            content: of the file.
            asked: what `worker.serve` is to do with it.
            seconds: of a processor's time that the first message may take.

        Raises:
            DecodeTimeoutError: it takes more of a processor's time.
            ChildCrashedError: the process has ended itself.
            ChildLostError: the process was ended or stopped, or gets no processor.
            ValueError: it says what no child says, or something about another file.
        """
        self._files += 1
        text = json.dumps({**asked, "file": self._files}).encode()
        self.protections()
        patience = Patience(self, seconds, STARVED_SECONDS + STARVED_FACTOR * seconds)
        try:
            for part in (HEAD.pack(len(text)) + text + HEAD.pack(len(content)), content):
                _sent(self.socket, part, patience)
            for _ in range(MOST_SLICES):
                answer = _received(self.socket, LONGEST_MESSAGE, patience)
                pixels = _received(self.socket, LARGEST * PIXEL_BYTES, patience)
                message: dict[str, Any] = json.loads(answer)
                if message["file"] != self._files:
                    raise ValueError("an answer about another file")
                with patience.pause():
                    yield message, pixels
                if "shape" not in message:
                    return
        except OSError as error:
            raise self._ended() from error
        raise ValueError("expected an end")

    def _ended(self) -> ChildCrashedError | ChildLostError:
        try:
            status = self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:  # it has closed its socket, which no decoder does
            return ChildCrashedError()
        return ChildCrashedError() if status >= 0 or status in CRASHES else ChildLostError()

    def end(self) -> None:
        """Kill the process; it holds nothing worth keeping."""
        self.process.kill()
        self.process.wait()
        self.socket.close()


class Patience:
    """How long a child is waited for: by the time that a processor works for it, and on a busy machine by the clock."""

    def __init__(self, child: Child, processor_seconds: float, clock_seconds: float) -> None:
        self._pid = child.process.pid
        self._processor_until = processor_time(self._pid) + processor_seconds
        self._clock_until = time.monotonic() + clock_seconds

    def check(self) -> None:
        """Raise where the child is not to be waited for any longer.

        Raises:
            DecodeTimeoutError: it has had its time.
            ChildLostError: it was stopped, or gets no processor.
            OSError: it has ended.
        """
        if processor_time(self._pid) > self._processor_until:
            raise DecodeTimeoutError
        if time.monotonic() > self._clock_until or _is_stopped(self._pid):
            raise ChildLostError

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Leave out what the block takes by the clock; give the child the time for a further slice."""
        began = time.monotonic()
        yield
        self._clock_until += time.monotonic() - began + STARVED_FACTOR * NEXT_SECONDS
        self._processor_until += NEXT_SECONDS


def processor_time(pid: int) -> float:
    """Return the seconds that processors have worked for a child; the clock's where the system does not say.

    Raises:
        OSError: it has ended.

    Source: clock_getcpuclockid(3); the clock of a process is that of the kernel's include/linux/posix-timers_types.h.
    """
    return time.clock_gettime(~pid << 3 | 2) if sys.platform.startswith("linux") else time.monotonic()


def _is_stopped(pid: int) -> bool:
    """Tell whether a process was stopped, as by SIGSTOP or a debugger; not where the system does not say."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state in ("T", "t")


def import_folders() -> list[str]:
    """Return where a child finds modules: where this process does, without the folders that people work in.

    The working folder and that of the program which runs may hold anything, as a module that is called like one of
    ours; only a folder that our own package lies in is taken even so.
    """
    package = Path(__file__).resolve().parents[2]
    program = getattr(sys.modules.get("__main__"), "__file__", None)
    left_out = {Path.cwd(), *((Path(program).resolve().parent,) if program else ())} - {package}
    folders = (Path(entry) for entry in sys.path if Path(entry).is_absolute())
    wanted = (folder for folder in folders if folder.resolve() not in left_out or _is_installed(folder))
    return list(dict.fromkeys([str(package), *map(str, wanted)]))


def _is_installed(folder: Path) -> bool:
    """Tell whether a folder is one of Python's own or of installed packages."""
    return folder.resolve() in {Path(path).resolve() for path in sysconfig.get_paths().values()}


def _received(stream: socket.socket, longest: int, patience: Patience) -> bytearray:
    """Return one part of a child's message.

    Raises:
        OSError: the other side has gone.
        ValueError: it has more bytes than such a part can have.
        ChildLostError, DecodeTimeoutError: as `Patience.check`.
    """
    (length,) = HEAD.unpack(_filled(stream, bytearray(HEAD.size), patience))
    if length > longest:
        raise ValueError(f"expected at most {longest:,} bytes, got {length:,}")
    return _filled(stream, bytearray(length), patience)


def _filled(stream: socket.socket, buffer: bytearray, patience: Patience) -> bytearray:
    """Return a buffer after filling it from a stream; raises as `_received`."""
    view = memoryview(buffer)
    stream.settimeout(LOOK_SECONDS)
    while view:
        try:
            count = stream.recv_into(view)
        except TimeoutError:
            patience.check()
            continue
        if not count:
            raise ConnectionError("the other side has gone")
        view = view[count:]
    return buffer


def _sent(stream: socket.socket, content: bytes, patience: Patience) -> None:
    """Send all of this; raises as `_received`."""
    view = memoryview(content)
    stream.settimeout(LOOK_SECONDS)
    while view:
        try:
            view = view[stream.send(view) :]
        except TimeoutError:
            patience.check()
