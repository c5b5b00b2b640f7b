"""Confine a process that parses files from outside to computing and replying: Landlock and a seccomp filter.

For Linux on x86-64 and 64-bit ARM, as root too. The few system calls are made through ctypes: of the packages that
offer them, the only one older than a year needs libseccomp and has had no release since 2021.

Source: the kernel's Documentation/userspace-api/{landlock,seccomp_filter,no_new_privs}.rst; numbers of system calls
from arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h.
"""

import ctypes
import os
import platform
import resource
import struct
import sys
from collections.abc import Iterator, Mapping
from typing import Final

MEMORY_BYTES: Final = 640 << 20  # address space, libraries included

PROTECTIONS: Final = ("seccomp", "landlock")
"""Protections that `confine` applies if the kernel offers them; the first alone takes away all that should go."""

_PR_SET_DUMPABLE: Final = 4
_PR_SET_SECCOMP: Final = 22
_PR_SET_NO_NEW_PRIVS: Final = 38
_SECCOMP_MODE_FILTER: Final = 2
_SECCOMP_RET_KILL_PROCESS: Final = 0x80000000
_SECCOMP_RET_ERRNO: Final = 0x00050000
_SECCOMP_RET_ALLOW: Final = 0x7FFF0000
_EPERM: Final = 1

_BPF_LOAD_WORD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_BPF_JUMP_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_BPF_RETURN: Final = 0x06  # BPF_RET | BPF_K
_OFFSET_NUMBER: Final = 0  # of the fields of struct seccomp_data
_OFFSET_ARCHITECTURE: Final = 4
_OFFSET_FIRST_ARGUMENT: Final = 16  # its low half; both architectures are little-endian

_LANDLOCK_CREATE_RULESET: Final = 444  # the same number on all architectures
_LANDLOCK_RESTRICT_SELF: Final = 446
_LANDLOCK_CREATE_RULESET_VERSION: Final = 1
_LANDLOCK_FILE_RIGHTS: Final = {1: 13, 2: 14, 3: 15, 5: 16}
"""The number of rights on files, one bit each, by the version of the interface that introduced it."""
_LANDLOCK_NETWORK_VERSION: Final = 4
_LANDLOCK_NETWORK_RIGHTS: Final = 0b11  # bind and connect of TCP
_LANDLOCK_SCOPE_VERSION: Final = 6
_LANDLOCK_SCOPES: Final = 0b11  # abstract Unix sockets and signals to processes outside

_ARCHITECTURES: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""AUDIT_ARCH_X86_64 and AUDIT_ARCH_AARCH64; a call by any other convention, as the 32-bit one, kills the process."""
_ALLOWED: Final[Mapping[str, Mapping[str, int]]] = {
    "x86_64": {
        # talk over the descriptors that are open already
        **{"read": 0, "write": 1, "recvfrom": 45, "sendto": 44, "close": 3},
        # memory of its own
        **{"mmap": 9, "munmap": 11, "mremap": 25, "mprotect": 10, "madvise": 28, "brk": 12},
        # time, waiting, random numbers
        **{"futex": 202, "sched_yield": 24, "getpid": 39, "gettid": 186, "clock_gettime": 228, "clock_getres": 229},
        **{"gettimeofday": 96, "time": 201, "clock_nanosleep": 230, "nanosleep": 35, "getrandom": 318},
        # handlers and timers of its own, and the end
        **{"rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15, "sigaltstack": 131, "restart_syscall": 219},
        **{"setitimer": 38, "exit": 60, "exit_group": 231},
    },
    "aarch64": {
        **{"read": 63, "write": 64, "recvfrom": 207, "sendto": 206, "close": 57},
        **{"mmap": 222, "munmap": 215, "mremap": 216, "mprotect": 226, "madvise": 233, "brk": 214},
        **{"futex": 98, "sched_yield": 124, "getpid": 172, "gettid": 178, "clock_gettime": 113, "clock_getres": 114},
        **{"gettimeofday": 169, "clock_nanosleep": 115, "nanosleep": 101, "getrandom": 278},
        **{"rt_sigaction": 134, "rt_sigprocmask": 135, "rt_sigreturn": 139, "sigaltstack": 132, "restart_syscall": 128},
        **{"setitimer": 103, "exit": 93, "exit_group": 94},
    },
}
_TGKILL: Final = {"x86_64": 234, "aarch64": 131}
"""Allowed to the process itself, so that `abort` ends it as it should."""


def confine(keep: int | None = None) -> tuple[str, ...]:
    """Take from this process all rights but to compute and to use the open descriptor `keep`; return what holds.

    No file, folder or program can be opened, started or inspected, no connection or process made, no other process
    signalled, inspected or traced; memory is limited. All descriptors but this and the standard streams are closed. A
    call that is not allowed fails with EPERM. None of this can be undone.

    Args:
        keep: the descriptor that stays open; None leaves all open.

    Returns:
        Those of `PROTECTIONS` that the kernel has applied.
    """
    # Limits first, which every Unix has: where the kernel offers no more, they are all there is.
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    for kind in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE, resource.RLIMIT_NPROC):
        resource.setrlimit(kind, (0, 0))
    # An inherited descriptor would stay usable, whatever the rules say about opening new ones.
    if keep is not None:
        os.closerange(3, keep)
        os.closerange(keep + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    if not sys.platform.startswith("linux"):
        return ()
    hide()
    # Without it the kernel takes neither a filter nor a ruleset from a process that is not root.
    if _prctl(_PR_SET_NO_NEW_PRIVS, 1) != 0:
        return ()
    landlock = _restrict_files()  # before the filter, which does not let it through
    return tuple(name for name, holds in zip(PROTECTIONS, (_filter_system_calls(), landlock), strict=True) if holds)


def hide() -> None:
    """Keep other processes of the same user from reading this one's memory and environment, where the system can."""
    if sys.platform.startswith("linux"):
        _prctl(_PR_SET_DUMPABLE, 0)


def _restrict_files() -> bool:
    """Apply a Landlock ruleset without rules, which denies all that it handles; tell whether the kernel could."""
    version = _system_call(_LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_CREATE_RULESET_VERSION)
    if version < 1:
        return False
    rights = max(bits for since, bits in _LANDLOCK_FILE_RIGHTS.items() if since <= version)
    network = _LANDLOCK_NETWORK_RIGHTS if version >= _LANDLOCK_NETWORK_VERSION else 0
    scopes = _LANDLOCK_SCOPES if version >= _LANDLOCK_SCOPE_VERSION else 0
    # an older kernel takes a longer struct landlock_ruleset_attr if what it does not know of it is zero
    attributes = struct.pack("<QQQ", (1 << rights) - 1, network, scopes)
    ruleset = _system_call(_LANDLOCK_CREATE_RULESET, attributes, len(attributes), 0)
    if ruleset < 0:
        return False
    try:
        return _system_call(_LANDLOCK_RESTRICT_SELF, ruleset, 0) == 0
    finally:
        os.close(ruleset)


def _filter_system_calls() -> bool:
    """Apply the seccomp filter to this thread, the only one there is; tell whether the kernel could."""
    machine = platform.machine()
    if machine not in _ARCHITECTURES or struct.calcsize("P") != 8:  # a 32-bit Python, whose calls have other numbers
        return False
    program = b"".join(_filter(machine, os.getpid()))
    instructions = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: the number of instructions, and after padding where they are
    filter_program = struct.pack("@HP", len(program) // 8, ctypes.addressof(instructions))
    return _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, filter_program) == 0


def _filter(machine: str, pid: int) -> Iterator[bytes]:
    """Yield the instructions of the filter, each a struct sock_filter: code, jumps if true and if false, operand."""

    def instruction(code: int, operand: int, if_true: int = 0, if_false: int = 0) -> bytes:
        return struct.pack("<HBBI", code, if_true, if_false, operand)

    allow = instruction(_BPF_RETURN, _SECCOMP_RET_ALLOW)
    deny = instruction(_BPF_RETURN, _SECCOMP_RET_ERRNO | _EPERM)
    # The architecture first: another one, as 32-bit x86 on the same kernel, gives the numbers other meanings.
    yield instruction(_BPF_LOAD_WORD, _OFFSET_ARCHITECTURE)
    yield instruction(_BPF_JUMP_EQUAL, _ARCHITECTURES[machine], if_true=1)
    yield instruction(_BPF_RETURN, _SECCOMP_RET_KILL_PROCESS)
    yield instruction(_BPF_LOAD_WORD, _OFFSET_NUMBER)
    # Jumps count instructions to skip: `allow` follows each comparison and is skipped where the number differs.
    for number in _ALLOWED[machine].values():
        yield instruction(_BPF_JUMP_EQUAL, number, if_false=1)
        yield allow
    # A signal to the process itself is allowed, to any other denied; the three skipped instructions are these.
    yield instruction(_BPF_JUMP_EQUAL, _TGKILL[machine], if_false=3)
    yield instruction(_BPF_LOAD_WORD, _OFFSET_FIRST_ARGUMENT)
    yield instruction(_BPF_JUMP_EQUAL, pid, if_false=1)
    yield allow
    yield deny


def _prctl(option: int, value: int, pointer: bytes | None = None) -> int:
    """Return what the system call of this name returns."""
    argument = None if pointer is None else ctypes.c_char_p(pointer)
    zero = ctypes.c_ulong(0)
    return int(_libc().prctl(option, ctypes.c_ulong(value), argument, zero, zero))


def _system_call(number: int, *arguments: bytes | int | None) -> int:
    """Return what a system call returns, -1 where it fails."""
    words = (ctypes.c_long(value) if isinstance(value, int) else value for value in arguments)
    return int(_libc().syscall(ctypes.c_long(number), *words))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
