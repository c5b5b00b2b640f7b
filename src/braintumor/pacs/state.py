"""Keep a watcher's progress on disk: its position in the archive's list of changes, and the outcome of every image.

The process can be killed at any instant: an image is recorded as done before the cursor passes its change, and an image
that is neither recorded nor before the cursor is fetched and classified again, with the same results. The file holds no
patient data: images are identified by hashes, and pending results are recomputed instead of being stored.
"""

import fcntl
import os
import sqlite3
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, Self

from braintumor.errors import StorageError

# The names of tables and columns are those in the files that users already have; do not rename them.
TABLES: Final = """
CREATE TABLE IF NOT EXISTS place (only INTEGER PRIMARY KEY CHECK (only = 0), seq INTEGER NOT NULL, entry TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS settled (image TEXT PRIMARY KEY, entry TEXT NOT NULL, reason TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS under_way (image TEXT PRIMARY KEY, model TEXT NOT NULL) WITHOUT ROWID;
"""
AT_ONCE: Final = 500  # variables in one statement; SQLite before 3.32 allows no more than 999
COUNTS: Final = "SELECT model, count(*) FROM under_way GROUP BY model"


class WatchState:
    """The progress of one watcher, in a folder that only one process can use at a time.

    Raises:
        StorageError: the folder is in use, cannot be written to, or holds something else; every method raises it when
            the disk is full. What was written before is kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StorageError(f"cannot write to {folder} ({error.strerror}); choose another folder") from error
        try:
            # the kernel releases this lock when the process ends, however it ends: nobody has to delete a stale file
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._database = self._open(folder / "journal.sqlite")
        except BlockingIOError as error:
            os.close(self._lock)
            raise StorageError(
                f"{folder} is in use by another watcher; end that one or choose another folder"
            ) from error
        except StorageError:
            os.close(self._lock)
            raise

    def __enter__(self) -> Self:
        """Return the state itself; it is closed at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the database and release the folder."""
        self.close()

    def close(self) -> None:
        """Close the database and release the folder for another watcher."""
        self._database.close()
        os.close(self._lock)

    @property
    def cursor(self) -> tuple[int, str]:
        """The last change up to which everything is done: its number, and Orthanc's identifier of its image."""
        rows = self._query("SELECT seq, entry FROM place")
        return (int(rows[0][0]), str(rows[0][1])) if rows else (0, "")

    def advance(self, seq: int, entry: str) -> None:
        """Record that every change up to this one is done; (0, "") starts over at the beginning of the list."""
        self._write([("INSERT OR REPLACE INTO place VALUES (0, ?, ?)", [(seq, entry)])])

    def settled(self, images: Collection[str]) -> set[str]:
        """Return those of the given image keys that are answered or refused."""
        keys, settled = list(images), set()
        for start in range(0, len(keys), AT_ONCE):
            chunk = keys[start : start + AT_ONCE]
            rows = self._query(f"SELECT image FROM settled WHERE image IN ({','.join('?' * len(chunk))})", chunk)
            settled |= {str(image) for (image,) in rows}
        return settled

    def begin(self, images: Iterable[str], model: str) -> None:
        """Record, before their first result is sent, which model is answering images.

        After a kill an image may have a part of its results in the archive. Another model would add its own beside
        them, so the next watcher refuses to start with another one while such images exist.

        Args:
            images: their keys.
            model: its `provenance_hash`.
        """
        self._write([("INSERT OR REPLACE INTO under_way VALUES (?, ?)", [(image, model) for image in images])])

    def mark_done(self, images: Iterable[tuple[str, str, str]]) -> None:
        """Record the outcome of images.

        Args:
            images: for each its key, Orthanc's identifier where known, and why it is refused; empty if it is answered.
        """
        rows = list(images)
        keys = [(image,) for image, _, _ in rows]
        # one transaction: an image left in progress although it is done would keep other models out for nothing
        self._write(
            [
                ("INSERT OR REPLACE INTO settled VALUES (?, ?, ?)", rows),
                ("DELETE FROM under_way WHERE image = ?", keys),
            ]
        )

    def clear_in_progress(self) -> None:
        """Record that no image of the archive is pending; those still in progress were deleted from it meanwhile."""
        self._write([("DELETE FROM under_way", [()])])

    def under_way(self) -> dict[str, int]:
        """Return how many images each model was answering; some of their results may be in the archive."""
        return {str(model): int(count) for model, count in self._query(COUNTS)}

    def _open(self, file: Path) -> sqlite3.Connection:
        try:
            file.touch(mode=0o600)  # the files that SQLite puts beside it get the same mode
            # isolation_level=None: `_write` begins transactions itself, Python must not begin others
            database = sqlite3.connect(file, isolation_level=None)
            # FULL: in WAL mode NORMAL may lose the last commits in a power cut
            database.executescript(f"PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; {TABLES}")
        except (OSError, sqlite3.Error) as error:
            raise StorageError(f"cannot use {file} ({error}); choose another folder") from error
        return database

    def _query(self, statement: str, values: Collection[str] = ()) -> list[tuple[Any, ...]]:
        try:
            return self._database.execute(statement, list(values)).fetchall()
        except sqlite3.Error as error:
            raise StorageError(f"cannot read {self.folder} ({error}); choose another folder") from error

    def _write(self, statements: Iterable[tuple[str, Sequence[tuple[object, ...]]]]) -> None:
        """Run all statements or none of them; their changes are on the disk when this returns."""
        try:
            with self._database:
                self._database.execute("BEGIN IMMEDIATE")
                for statement, rows in statements:
                    self._database.executemany(statement, rows)
        except sqlite3.Error as error:
            raise StorageError(f"cannot write to {self.folder} ({error}); free some space, then start again") from error
