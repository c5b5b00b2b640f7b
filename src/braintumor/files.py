"""Write files atomically, so that a reader never sees half of one; hash them; find the cache folder."""

import hashlib
import lzma
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from braintumor.errors import DECODE_ERRORS, StorageError

ZIP_ERRORS: Final = (*DECODE_ERRORS, RuntimeError, lzma.LZMAError, zipfile.BadZipFile)  # RuntimeError: encrypted
"""Exceptions that `zipfile` raises on damaged archives."""


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a path to write to; on success it is synced to the disk and becomes `target`, on failure it is removed.

    Raises:
        StorageError: the disk is full or the folder cannot be written to; `target` is as it was.
    """
    # Beside the target, since a rename is atomic only within a file system; with the process's number, so that two
    # processes that write the same file do not write into each other's.
    aside = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        with aside.open("rb+") as file:
            os.fsync(file.fileno())  # before the rename, or a power cut may leave an empty file under the name
        aside.replace(target)
    except OSError as error:
        reason = error.strerror or error
        raise StorageError(f"cannot write {target} ({reason}); free some space or choose another folder") from error
    finally:
        with suppress(OSError):  # after a success it is gone
            aside.unlink()


def publish(aside: Path, target: Path) -> None:
    """Rename a finished folder to its final name.

    Raises:
        StorageError: the name is taken, or the folder cannot be written to.
    """
    try:
        aside.rename(target)
    except OSError as error:
        reason = error.strerror or error
        raise StorageError(
            f"cannot create {target} ({reason}); remove what is there or choose another folder"
        ) from error


def check_writable(folder: Path) -> None:
    """Raise if a folder, which need not exist yet, cannot be written to; create nothing.

    Raises:
        StorageError: no permission, a read-only disk, or a file in its place.
    """
    # The nearest folder that exists. A dangling link counts, too: to create a folder at its place would fail.
    above = next(path for path in (folder, *folder.absolute().parents) if path.exists() or path.is_symlink())
    if not above.is_dir():
        raise StorageError(f"cannot write to {folder} ({above} is not a folder); choose another folder")
    # By default `os.access` asks for the real user, who in a set-uid program is not the one that will write.
    use_effective_ids = os.access in os.supports_effective_ids
    if not os.access(above, os.W_OK | os.X_OK, effective_ids=use_effective_ids):
        raise StorageError(f"cannot write to {folder} (no permission in {above}); choose another folder")


def write_text(target: Path, text: str) -> None:
    """Write UTF-8 text, completely or not at all."""
    with replacing(target) as aside:
        aside.write_text(text, encoding="utf-8")


def cache_folder() -> Path:
    """Return the folder for what can be recomputed: $BRAINTUMOR_CACHE, else braintumor under the user's cache.

    Raises:
        StorageError: neither is named, and there is no home folder.
    """
    if chosen := os.environ.get("BRAINTUMOR_CACHE"):
        return Path(chosen)
    folder = user_folder("XDG_CACHE_HOME", ".cache")
    if folder is None:
        raise StorageError("there is no home folder for a cache; name a folder in BRAINTUMOR_CACHE")
    return folder / "braintumor"


def user_folder(variable: str, below_home: str) -> Path | None:
    """Return the user's folder that a variable names, else one below the home folder; None where there is none.

    A relative path is ignored, as the specification demands.

    Source: XDG Base Directory Specification, version 0.8.
    """
    chosen = Path(os.environ.get(variable, ""))
    if chosen.is_absolute():
        return chosen
    try:
        home = Path.home()
    except RuntimeError:  # no HOME, and an account without an entry
        return None
    return home / below_home if home.is_absolute() else None


def file_sha256(file: Path) -> str:
    """Return the SHA-256 of a file's content in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
