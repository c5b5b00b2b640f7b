"""How files are written: aside first, so that a reader never sees half of one; how they are hashed; the cache."""

import hashlib
import lzma
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from braintumor.errors import DECODE_ERRORS, StorageError

ZIP_ERRORS: Final = (*DECODE_ERRORS, RuntimeError, lzma.LZMAError, zipfile.BadZipFile)  # encrypted: RuntimeError
"""What `zipfile` raises on damaged archives."""


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a path to write to; on success it is synced to the disk and becomes `target`, on failure it is removed.

    Raises:
        StorageError: the disk is full or the folder cannot be written to; `target` is as it was.
    """
    aside = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        with aside.open("rb+") as file:
            os.fsync(file.fileno())
        aside.replace(target)
    except OSError as error:
        reason = error.strerror or error
        raise StorageError(f"cannot write {target} ({reason}); free some space or choose another folder") from error
    finally:
        with suppress(OSError):
            aside.unlink()


def publish(aside: Path, target: Path) -> None:
    """Rename a finished folder to its final name.

    Raises:
        StorageError: there is something under that name already, or the folder cannot be written to.
    """
    try:
        aside.rename(target)
    except OSError as error:
        reason = error.strerror or error
        raise StorageError(f"cannot make {target} ({reason}); remove what is there or choose another folder") from error


def check_writable(folder: Path) -> None:
    """Raise where a folder, which need not exist yet, cannot be written to; nothing is made.

    Raises:
        StorageError: no permission, a read-only disk, or a file in its place.
    """
    above = next(path for path in (folder, *folder.absolute().parents) if path.exists() or path.is_symlink())
    if not above.is_dir():
        raise StorageError(f"cannot write to {folder} ({above} is no folder); choose another folder")
    by_rights_in_force = os.access in os.supports_effective_ids  # not by those of who started a program with others
    if not os.access(above, os.W_OK | os.X_OK, effective_ids=by_rights_in_force):
        raise StorageError(f"cannot write to {folder} (no permission in {above}); choose another folder")


def write_text(target: Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all."""
    with replacing(target) as aside:
        aside.write_text(text, encoding="utf-8")


def cache_folder() -> Path:
    """Return the folder for what can be made again: $BRAINTUMOR_CACHE, else braintumor under the user's cache.

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
    """Return a folder of the user's that a variable names, else one below the home folder; None where there is none.

    A path that is not absolute is not taken.

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
