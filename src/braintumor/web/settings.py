"""What the service accepts, and how much of it at a time."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """Limits of the service; the defaults fit a machine with two cores and 2 GiB of memory.

    Attributes:
        token: what clients must send as bearer token; empty for none.
        hosts: names under which the service may be asked for; empty for any. Pages of other sites that make their
            name point to this machine are so kept out.
        file_bytes: largest file, as uploaded and as an unpacked member of an archive.
        request_bytes: largest body of a request.
        held_bytes: bodies of all requests together.
        unpacked_bytes: all members of an archive together.
        slices: files and members of archives in one request; slices of one file.
        requests: requests that wait for an answer; further ones are told to come back.
        batch: slices that go through a network together, if so many wait.
        upload_seconds: until a request's body must have come.
        answer_seconds: until its answer must be ready.
    """

    token: str = ""
    hosts: tuple[str, ...] = ()
    file_bytes: int = 36 << 20
    request_bytes: int = 64 << 20
    held_bytes: int = 128 << 20
    unpacked_bytes: int = 128 << 20
    slices: int = 500
    requests: int = 64
    batch: int = 8
    upload_seconds: float = 60.0
    answer_seconds: float = 60.0
