"""Set the limits of the service: what it accepts, and how much of it at a time."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """Limits of the service; the defaults fit a machine with two cores and 2 GiB of memory.

    Attributes:
        token: what clients must send as bearer token; empty for none.
        hosts: names under which the service may be asked for; empty for any. They keep out pages of other sites that
            make their own name point to this machine (DNS rebinding).
        file_bytes: largest file, as uploaded and as an unpacked member of an archive.
        request_bytes: largest body of a request.
        held_bytes: bodies of all requests and responses that are not sent yet, together; `memory` shares them out.
        unpacked_bytes: all members of an archive together.
        slices: files and members of archives in one request; slices of one file.
        requests: requests that wait for a response; further ones are told to come back.
        batch: slices that go through a network together, if as many wait.
        answer_seconds: from the arrival of a whole request until its response must be ready.
        silent_seconds: how long a client may send nothing of a body, or take nothing of a response.
        slowest_bytes: bytes a second that it must send or take, on average over `window_seconds`.
        window_seconds: see `slowest_bytes`.
        keep_alive_seconds: how long an idle connection is kept. More than proxies keep theirs: a proxy could otherwise
            send a request on a connection that is being closed.
    """

    token: str = ""
    hosts: tuple[str, ...] = ()
    file_bytes: int = 36 << 20
    request_bytes: int = 64 << 20
    held_bytes: int = 512 << 20
    unpacked_bytes: int = 128 << 20
    slices: int = 500
    requests: int = 64
    batch: int = 8
    answer_seconds: float = 60.0
    silent_seconds: float = 15.0
    slowest_bytes: int = 64 << 10
    window_seconds: float = 30.0
    keep_alive_seconds: float = 75.0
