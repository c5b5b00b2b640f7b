"""Start a process that decodes files without any right but to reply, and limit how long it is waited for."""

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

NEXT_SECONDS: Final = 0.1  # of a processor's time in addition, for each further slice of a file
START_SECONDS: Final = 60.0
STARVED_SECONDS: Final = 20.0
"""Longest wait by the clock for a child with processor time left: it does not get the processor, or is stopped."""
STARVED_FACTOR: Final = 10  # seconds by the clock in addition, for each processor second that a file may take
POLL_SECONDS: Final = 0.1  # between two checks of a child that is waited for
END_SECONDS: Final = 1.0  # until the status of a child that has closed its socket is known
MOST_SLICES: Final = 65_536  # of one file
LONGEST_MESSAGE: Final = 1 << 20  # bytes of JSON from a child
PIXEL_BYTES: Final = 4

INHERITED: Final = ("LD_LIBRARY_PATH", "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "SYSTEMROOT")
"""The environment that a child inherits, to find libraries. The rest may hold passwords."""
ONE_THREAD: Final = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
START_CODE: Final = "import sys; sys.path[:] = sys.argv[2:]; from braintumor.io.worker import run_worker; run_worker()"
FOLDER: Final = Path(sys.executable).anchor or os.sep
"""The working folder of children, to which only an administrator can write."""
CRASHES: Final = frozenset(
    -number
    for number in (
        signal.SIGSEGV,
        signal.SIGABRT,
        signal.SIGBUS,
        signal.SIGILL,
        signal.SIGFPE,
        signal.SIGSYS,
        signal.SIGTRAP,
        signal.SIGPROF,
        signal.SIGXCPU,
    )
)
"""Exit statuses of a child that was ended by its file; any other signal came from somebody else."""


class Child:
    """One decoder process and the socket to it."""

    def __init__(self) -> None:
        self.socket, theirs = socket.socketpair()
        with theirs:
            # Isolated (-I) and without site (-S): neither variables, nor the working folder, nor a .pth file can make
            # the child import anything else.
            command = [sys.executable, "-I", "-S", "-c", START_CODE, str(theirs.fileno()), *import_folders()]
            environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
            try:
                self.process = subprocess.Popen(
                    command,
                    pass_fds=[theirs.fileno()],
                    # What decoders print may come from the file: it reaches neither a terminal nor a log.
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    cwd=FOLDER,
                    env=environment | ONE_THREAD,
                )
            except OSError:
                self.socket.close()
                raise
        self._files = 0
        self._protections: tuple[str, ...] | None = None

    @property
    def is_alive(self) -> bool:
        """Tell whether the process is still running."""
        return self.process.poll() is None

    def protections(self) -> tuple[str, ...]:
        """Return those of `PROTECTIONS` that hold in the process; wait until it has started.

        Raises:
            ChildLostError: it does not start.
        """
        if self._protections is None:
            patience = Patience(self, math.inf, START_SECONDS)
            try:
                message = json.loads(_receive(self.socket, LONGEST_MESSAGE, patience))
                _receive(self.socket, 0, patience)  # the pixels that every message ends with; here there are none
                self._protections = tuple(name for name in PROTECTIONS if name in message["protections"])
            except (OSError, ChildCrashedError, *MALFORMED_ERRORS) as error:  # no file has been seen yet
                raise ChildLostError from error
        return self._protections

    def ask(
        self, content: bytes, request: dict[str, Any], seconds: float
    ) -> Iterator[tuple[dict[str, Any], bytearray]]:
        """Yield the child's messages about a file: one for each slice, then one that ends them.

        Args:
            content: of the file.
            request: what `worker` is to do with it, for JSON.
            seconds: of a processor's time that the first message may take.

        Raises:
            DecodeTimeoutError: it takes more of a processor's time.
            ChildCrashedError: the process was ended by the file.
            ChildLostError: the process was ended or stopped from outside, or gets no processor.
            ValueError: a message is malformed, or about another file.
        """
        self._files += 1
        text = json.dumps({**request, "file": self._files}).encode()
        self.protections()  # waits for the start first, whose imports must not count as the file's time
        patience = Patience(self, seconds, STARVED_SECONDS + STARVED_FACTOR * seconds)
        try:
            for part in (HEAD.pack(len(text)) + text + HEAD.pack(len(content)), content):
                _send(self.socket, part, patience)
            # Bounded: a compromised child could send slices for ever, each of them in time.
            for _ in range(MOST_SLICES):
                header = _receive(self.socket, LONGEST_MESSAGE, patience)
                pixels = _receive(self.socket, LARGEST * PIXEL_BYTES, patience)
                message: dict[str, Any] = json.loads(header)
                if message["file"] != self._files:
                    raise ValueError("an answer about another file")
                # The caller may take its time with a slice, as a slow network does; that is not the child's.
                with patience.pause():
                    yield message, pixels
                if "shape" not in message:
                    return
        except OSError as error:
            raise self._exit_error() from error
        raise ValueError("expected an end")

    def _exit_error(self) -> ChildCrashedError | ChildLostError:
        """Return whom to blame for a closed socket: the file, which is then refused, or the outside."""
        try:
            status = self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:  # it has closed its socket, which no decoder does
            return ChildCrashedError()
        # No decoder exits by itself while it is asked, so a status of its own, 0 too, is the file's doing.
        return ChildCrashedError() if status >= 0 or status in CRASHES else ChildLostError()

    def end(self) -> None:
        """Kill the process, which holds nothing worth keeping."""
        self.process.kill()
        self.process.wait()
        self.socket.close()


class Patience:
    """The limits on waiting for a child: by its processor time, and on a busy machine by the clock."""

    def __init__(self, child: Child, processor_seconds: float, clock_seconds: float) -> None:
        self._pid = child.process.pid
        self._processor_until = processor_time(self._pid) + processor_seconds
        self._clock_until = time.monotonic() + clock_seconds

    def check(self) -> None:
        """Raise if the child must not be waited for any longer.

        Raises:
            DecodeTimeoutError: it has used up its processor time.
            ChildLostError: it was stopped, or gets no processor.
            OSError: it has ended.
        """
        if processor_time(self._pid) > self._processor_until:
            raise DecodeTimeoutError
        if time.monotonic() > self._clock_until or _is_stopped(self._pid):
            raise ChildLostError

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Stop the clock during the block, and grant the child the time for a further slice."""
        began = time.monotonic()
        yield
        self._clock_until += time.monotonic() - began + STARVED_FACTOR * NEXT_SECONDS
        self._processor_until += NEXT_SECONDS


def processor_time(pid: int) -> float:
    """Return the processor seconds that a child has used; the clock's time where the system does not tell.

    Raises:
        OSError: it has ended.

    Source: clock_getcpuclockid(3); the clock of a process is that of the kernel's include/linux/posix-timers_types.h.
    """
    # The clock of any process: ~pid in the upper bits, below them 2, CPUCLOCK_SCHED, for all its threads together.
    return time.clock_gettime(~pid << 3 | 2) if sys.platform.startswith("linux") else time.monotonic()


def _is_stopped(pid: int) -> bool:
    """Tell whether a process was stopped, as by SIGSTOP or a debugger; False where the system does not tell."""
    try:
        # The state follows the program's name in parentheses, which may hold spaces and parentheses itself.
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state in ("T", "t")


def import_folders() -> list[str]:
    """Return the folders in which a child finds modules: this process's, without those that people work in.

    The working folder and that of the running program may hold anything, such as a module with the name of one that
    we import. They are kept only if our own package or installed ones lie in them.
    """
    package = Path(__file__).resolve().parents[2]
    program = getattr(sys.modules.get("__main__"), "__file__", None)
    left_out = {Path.cwd()}
    if program:
        left_out.add(Path(program).resolve().parent)
    left_out.discard(package)
    folders = (Path(entry) for entry in sys.path if Path(entry).is_absolute())
    trusted = (folder for folder in folders if folder.resolve() not in left_out or _is_installed(folder))
    return list(dict.fromkeys([str(package), *map(str, trusted)]))


def _is_installed(folder: Path) -> bool:
    """Tell whether a folder is one of Python's own or of installed packages."""
    return folder.resolve() in {Path(path).resolve() for path in sysconfig.get_paths().values()}


def _receive(stream: socket.socket, longest: int, patience: Patience) -> bytearray:
    """Return one part of a child's message.

    Raises:
        OSError: the child has closed the socket.
        ValueError: the part is longer than `longest` bytes.
        ChildLostError, DecodeTimeoutError: as `Patience.check`.
    """
    (length,) = HEAD.unpack(_fill(stream, bytearray(HEAD.size), patience))
    if length > longest:  # before it is allocated: a compromised child may send any number
        raise ValueError(f"expected at most {longest:,} bytes, got {length:,}")
    return _fill(stream, bytearray(length), patience)


def _fill(stream: socket.socket, buffer: bytearray, patience: Patience) -> bytearray:
    """Fill a buffer from a stream and return it; raises as `_receive`."""
    view = memoryview(buffer)
    stream.settimeout(POLL_SECONDS)
    while view:
        try:
            count = stream.recv_into(view)
        except TimeoutError:
            patience.check()
            continue
        if not count:
            raise ConnectionError("the child has closed the socket")
        view = view[count:]
    return buffer


def _send(stream: socket.socket, content: bytes, patience: Patience) -> None:
    """Send all of the content; raises as `_receive`."""
    view = memoryview(content)
    stream.settimeout(POLL_SECONDS)
    while view:
        try:
            view = view[stream.send(view) :]
        except TimeoutError:
            patience.check()
