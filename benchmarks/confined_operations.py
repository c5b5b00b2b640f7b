"""What a taken-over decoder would try: operations by name, none of which it may be able to do.

Each is a function that returns where it succeeded and raises where the system did not let it. `attempt` tries one in a
process of its own, confined as a decoder is, or not confined, which shows that the operation would have worked.
"""

import ctypes
import fcntl
import mmap
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from braintumor.io import worker
from braintumor.io.confinement import confine

FORBIDDEN = 1  # EPERM
SUCCEEDED, FAILED = 0, 1
_SYSTEM_CALLS = {
    "io_uring_setup": 425,
    "memfd_create": 319,
    "pidfd_open": 434,
    "ptrace": 101,
    "perf_event_open": 298,
    "process_vm_readv": 310,
    "process_vm_writev": 311,
    "bpf": 321,
    "unshare": 272,
    "mount": 165,
    "chroot": 161,
    "setns": 308,
    "keyctl": 250,
    "userfaultfd": 323,
    "open_by_handle_at": 304,
    "openat2": 437,
    "execveat": 322,
    "clone3": 435,
    "inotify_init1": 294,
    "quotactl": 179,
    "kcmp": 312,
    "shmget": 29,
    "msgget": 68,
    "semget": 64,
    "syslog": 103,
}
"""Numbers on x86-64. Arguments are zero: a call that is let through fails with another reason than EPERM, or works."""

_UNUSED_LIBRARY = str(find_spec("_lsprof").origin)  # type: ignore[union-attr]


@dataclass(frozen=True)
class Target:
    """What the operations are tried on.

    Attributes:
        folder: a folder that the process may write to, by its account.
        file: an existing file in it that it may write to.
        parent: the process that started it.
        port: of a TCP server on this machine.
        opened: a descriptor of the file that was open, for reading and writing, before the process was confined.
    """

    folder: Path
    file: Path
    parent: int
    port: int
    opened: int


def names() -> list[str]:
    """Return the names of all operations."""
    return [name for name, _ in operations(Target(Path("x"), Path("x"), 0, 0, 0))]


def attempts(user: int, *, confined: bool = True) -> list[str]:
    """Return the names of the operations that succeed, each in a process of its own, as `attempt`."""
    worker.preload()
    return [name for name in names() if attempt(name, user=user, confined=confined)]


def attempt(name: str, *, user: int, confined: bool = True) -> bool:
    """Tell whether an operation succeeds in a new process, confined or not, of an account."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        target = _target(folder, stack)
        os.chown(folder, user, user)
        for file in folder.iterdir():
            os.chown(file, user, user)
        ours, theirs = socket.socketpair()
        stack.enter_context(ours)
        pid = os.fork()
        if pid == 0:
            _try(name, target, user, theirs if confined else None)
        theirs.close()
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return status == SUCCEEDED


def _target(folder: Path, stack: ExitStack) -> Target:
    """Return what there is to try on."""
    file = folder / "file"
    for made in (file, folder / "victim"):
        made.write_bytes(b"content")
    server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    opened = os.open(file, os.O_RDWR)
    stack.callback(os.close, opened)
    return Target(folder, file, os.getpid(), server.getsockname()[1], opened)


def _try(name: str, target: Target, user: int, keep: socket.socket | None) -> None:
    """End this process, by its exit status saying whether an operation succeeded."""
    try:
        os.setgid(user)
        os.setuid(user)
        if keep is not None:
            confine(keep.fileno())
        dict(operations(target))[name]()
    except BaseException:
        os._exit(FAILED)
    os._exit(SUCCEEDED)


def operations(target: Target) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield the name of each operation and what does it."""
    yield from _files(target)
    yield from _processes(target)
    yield from _network(target)
    for name, number in _SYSTEM_CALLS.items():
        yield f"call {name}", lambda number=number: _call(number)


def _files(target: Target) -> Iterator[tuple[str, Callable[[], object]]]:
    file, folder = target.file, target.folder
    yield "read a file", file.read_bytes
    yield "read /etc/passwd", Path("/etc/passwd").read_bytes
    yield "write a new file", lambda: (folder / "new").write_bytes(b"x")
    yield "append to a file", lambda: os.open(file, os.O_WRONLY | os.O_APPEND)
    yield "overwrite a file through mmap", lambda: _overwrite(file)
    yield "overwrite an open file through mmap", lambda: mmap.mmap(target.opened, 1)
    yield "truncate a file", lambda: os.truncate(file, 0)
    yield "truncate an open file", lambda: os.ftruncate(target.opened, 0)
    yield "rename a file", lambda: file.rename(folder / "renamed")
    yield "delete a file", lambda: (folder / "victim").unlink()
    yield "change a file's mode", lambda: file.chmod(0o777)
    yield "change a file's owner", lambda: os.chown(file, os.getuid(), os.getgid())
    yield "change a file's times", lambda: os.utime(file, (0, 0))
    yield "set an extended attribute", lambda: os.setxattr(file, "user.x", b"x")
    yield "link a file", lambda: (folder / "link").hardlink_to(file)
    yield "link symbolically", lambda: (folder / "symbolic").symlink_to(file)
    yield "make a folder", lambda: (folder / "made").mkdir()
    yield "make a pipe with a name", lambda: os.mkfifo(folder / "fifo")
    yield "make a socket with a name", lambda: socket.socket(socket.AF_UNIX).bind(str(folder / "socket"))
    yield "list a folder", lambda: list(folder.iterdir())
    yield "look at a file", lambda: os.stat(file)  # noqa: PTH116
    yield "tell whether a file exists", lambda: _successful(os.access(file, os.F_OK))
    yield "change the working folder", lambda: os.chdir(folder)
    yield "open a device", lambda: os.open("/dev/null", os.O_WRONLY)
    yield "load a library", lambda: ctypes.CDLL(_UNUSED_LIBRARY)
    yield "import a module", lambda: __import__("tabnanny")
    yield "make an anonymous file", lambda: os.memfd_create("x")
    yield "watch a folder", lambda: _call(_SYSTEM_CALLS["inotify_init1"])


def _processes(target: Target) -> Iterator[tuple[str, Callable[[], object]]]:
    parent = target.parent
    yield "read the parent's environment", Path(f"/proc/{parent}/environ").read_bytes
    yield "read the parent's memory", lambda: os.open(f"/proc/{parent}/mem", os.O_RDONLY)
    yield "write the parent's memory", lambda: os.open(f"/proc/{parent}/mem", os.O_WRONLY)
    yield "read the parent's command", Path(f"/proc/{parent}/cmdline").read_bytes
    yield "list the parent's descriptors", lambda: list(Path(f"/proc/{parent}/fd").iterdir())
    yield "read its own environment from /proc", Path("/proc/self/environ").read_bytes
    yield "list processes", lambda: list(Path("/proc").iterdir())
    yield "signal the parent", lambda: os.kill(parent, 0)
    yield "kill the parent", lambda: os.kill(parent, signal.SIGCONT)
    yield "signal everybody", lambda: os.kill(-1, 0)
    yield (
        "trace the parent",
        lambda: _call(_SYSTEM_CALLS["ptrace"], 0x4206, parent),
    )  # PTRACE_SEIZE, which does not stop it
    yield "make a process", _fork
    yield "make a thread", lambda: threading.Thread(target=int).start()
    yield "run a program", lambda: subprocess.run([sys.executable, "-V"], check=True)
    yield "become a program", lambda: _in_place()
    yield "raise a limit", lambda: resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
    yield "raise the limit of file sizes", lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    yield "change the account", lambda: os.setuid(os.getuid())
    yield "change the priority of the parent", lambda: os.setpriority(os.PRIO_PROCESS, parent, 5)
    yield "start a session", os.setsid
    yield "be dumpable again", lambda: _call(157, 4, 1)  # prctl(PR_SET_DUMPABLE)
    yield "duplicate a descriptor", lambda: os.dup(1)
    yield "make a pipe", os.pipe
    yield "control a descriptor", lambda: fcntl.fcntl(1, fcntl.F_GETFL)


def _network(target: Target) -> Iterator[tuple[str, Callable[[], object]]]:
    yield "connect by TCP", lambda: socket.create_connection(("127.0.0.1", target.port), 1)
    yield "listen by TCP", lambda: socket.create_server(("127.0.0.1", 0))
    yield "send by UDP", lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", target.port))
    yield "open a raw socket", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    yield "open a Unix socket", lambda: socket.socket(socket.AF_UNIX)
    yield "talk to the kernel by netlink", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)
    yield "make a pair of sockets", socket.socketpair
    yield "look up a name", lambda: socket.getaddrinfo("localhost", 80)


def _overwrite(file: Path) -> None:
    descriptor = os.open(file, os.O_RDWR)
    with mmap.mmap(descriptor, 1) as memory:
        memory[0] = 88


def _fork() -> None:
    if os.fork() == 0:
        os._exit(0)


def _in_place() -> None:
    """Replace this process by a program, which says so by its exit status."""
    os.execv("/bin/true", ["true"])


def _successful(outcome: bool) -> None:
    """Raise what a system call that was not let through would, where a function hides it."""
    if not outcome:
        raise PermissionError(FORBIDDEN, "not permitted")


def _call(number: int, *arguments: int) -> int:
    """Make a system call.

    Raises:
        OSError: it was not let through. One that fails for another reason was.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    result = int(libc.syscall(number, *map(ctypes.c_long, (*arguments, 0, 0, 0, 0, 0, 0)[:6])))
    if result == -1 and ctypes.get_errno() == FORBIDDEN:
        raise PermissionError(FORBIDDEN, "not permitted")
    return result
