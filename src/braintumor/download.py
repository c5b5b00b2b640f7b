"""Download published files: interrupted downloads resume, and a checksum verifies the result."""

import hashlib
import http.client
import os
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from braintumor.errors import DownloadError, StorageError

Progress = Callable[[int, int], None]
"""Called with the bytes at hand and the bytes in all."""
CHUNK_BYTES = 1 << 20
TIMEOUT_S = 30  # without any byte
LARGEST_ANSWER = 1 << 20  # bytes of a JSON answer


@dataclass(frozen=True)
class Remote:
    """A published file, only accepted with this size in bytes and this checksum in hexadecimal.

    Figshare publishes an MD5. It detects damage, but does not protect from someone who can change the file list, which
    comes over HTTPS.
    """

    name: str
    url: str
    size: int
    checksum: str
    algorithm: str = "md5"


def fetch(remote: Remote, folder: Path, progress: Progress) -> Path:
    """Return the verified copy of a file in a folder; transfer only what is missing of it.

    What has arrived lies in `NAME.part`. A broken connection is opened again for as long as each one brings more; after
    that the part stays for the next call. A file that is there and verified is not requested again.

    Args:
        remote: the file; its name must be a plain file name.
        folder: created if it does not exist.
        progress: called with the bytes at hand and the size.

    Raises:
        DownloadError: no connection, or another content than published, which is removed.
        StorageError: the disk is full or the folder cannot be written to.
    """
    target = folder / remote.name
    if target.is_file() and _difference(target, remote) == "":
        return target
    part = folder / f"{remote.name}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Left by an earlier version of the file, since none of ours grows beyond the published size.
        if part.is_file() and part.stat().st_size > remote.size:
            part.unlink()
        part.touch()
    except OSError as error:
        raise _unwritable(part, error) from error
    _complete(remote, part, progress)
    if difference := _difference(part, remote):
        part.unlink()  # else every further call would find it complete and wrong
        raise DownloadError(f"{remote.url} {difference}; it was removed, run the same command to download it again")
    _keep(part, target)
    return target


def fetch_text(url: str) -> str:
    """Return the UTF-8 text at an address, at most 1 MiB.

    Raises:
        DownloadError: no connection, an error status, a longer text, or not UTF-8.
    """
    try:
        with urllib.request.urlopen(_request(url), timeout=TIMEOUT_S) as answer:
            content: bytes = answer.read(LARGEST_ANSWER + 1)
    except (OSError, http.client.HTTPException) as error:
        raise DownloadError(f"cannot download {url} ({error})") from error
    if len(content) > LARGEST_ANSWER:
        raise DownloadError(f"{url} answers with more than {LARGEST_ANSWER} bytes, expected a short file list")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise DownloadError(f"{url} does not answer with UTF-8 text") from error


def remote_size(url: str) -> int:
    """Return the size in bytes of the file at an address.

    Raises:
        DownloadError: no connection, an error status or no size.
    """
    try:
        with urllib.request.urlopen(_request(url, method="HEAD"), timeout=TIMEOUT_S) as answer:
            return int(answer.headers["Content-Length"])
    except (OSError, http.client.HTTPException) as error:
        raise DownloadError(f"cannot download {url} ({error})") from error
    except (TypeError, ValueError) as error:
        raise DownloadError(
            f"{url} does not state its size; download it yourself and run: braintumor models add FILE"
        ) from error


def _complete(remote: Remote, part: Path, progress: Progress) -> None:
    """Append to a part until it has the published size.

    Raises:
        DownloadError: the last connection brought nothing more.
        StorageError: the part cannot be written.
    """
    # No number of attempts is counted: as long as each connection brings something, the download gets to its end.
    before, reason = -1, "nothing arrived"
    while (arrived := part.stat().st_size) < remote.size:
        if arrived <= before:
            raise DownloadError(
                f"cannot download {remote.url} ({reason}); {arrived} of {remote.size} bytes are kept in {part} "
                "and the same command resumes from there"
            )
        before = arrived
        try:
            _receive(remote, part, progress)
            reason = "the connection was cut"
        except (OSError, http.client.HTTPException) as error:
            reason = str(error) or type(error).__name__


def _receive(remote: Remote, part: Path, progress: Progress) -> None:
    """Append what one connection brings of the rest of a file; start anew if the server supports no ranges.

    Raises:
        OSError, HTTPException: the connection fails.
        StorageError: the part cannot be written.
    """
    arrived = part.stat().st_size
    with urllib.request.urlopen(_request(remote.url, arrived), timeout=TIMEOUT_S) as answer:
        # `urlopen` raises for 4xx and 5xx only; another success, such as 204, brings no file either.
        if answer.status not in (http.HTTPStatus.OK, http.HTTPStatus.PARTIAL_CONTENT):
            raise http.client.HTTPException(f"status {answer.status} instead of the file")
        if answer.status == http.HTTPStatus.OK:  # the whole file, even if a range was asked for
            arrived = 0
        with part.open("ab" if arrived else "wb") as file:
            # Never more than the published size, whatever the server sends.
            while chunk := answer.read(min(CHUNK_BYTES, remote.size - arrived)):
                _write(file, chunk, part)
                arrived += len(chunk)
                progress(arrived, remote.size)


def _request(url: str, start: int = 0, method: str = "GET") -> urllib.request.Request:
    headers = {"User-Agent": "braintumor"} | ({"Range": f"bytes={start}-"} if start else {})
    return urllib.request.Request(url, headers=headers, method=method)


def _write(file: IO[bytes], chunk: bytes, part: Path) -> None:
    """Append to a file at once, so that a full disk is not mistaken for a failed connection.

    Raises:
        StorageError: it cannot be written.
    """
    try:
        file.write(chunk)
        file.flush()
    except OSError as error:
        raise _unwritable(part, error) from error


def _difference(file: Path, remote: Remote) -> str:
    """Return how a file differs from the published one, an empty text if it does not differ."""
    size = file.stat().st_size
    if size != remote.size:
        return f"has {size} bytes, expected {remote.size}"
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, lambda: hashlib.new(remote.algorithm, usedforsecurity=False))
    received = digest.hexdigest()
    if received == remote.checksum:
        return ""
    return f"has the {remote.algorithm.upper()} {received}, expected {remote.checksum}"


def _keep(part: Path, target: Path) -> None:
    """Rename a verified part to its final name, once it is on the disk.

    Raises:
        StorageError: it cannot be renamed.
    """
    try:
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(target)
    except OSError as error:
        raise _unwritable(target, error) from error


def _unwritable(path: Path, error: OSError) -> StorageError:
    return StorageError(f"cannot write {path} ({error.strerror or error}); free some space or choose another folder")
