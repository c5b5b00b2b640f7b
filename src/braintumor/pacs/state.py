"""What a watcher remembers on disk: how far it has read in the archive, and how each image ended.

It can be killed at any instant: a settled image is on the disk before the place moves past it, and what is neither
settled nor before the place is read and judged again, with the same results. There is no patient data in it: images are
named by hashes, and results that wait are made anew instead of being kept.
"""

import fcntl
import os
import sqlite3
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, Self

from braintumor.errors import StorageError

TABLES: Final = """
CREATE TABLE IF NOT EXISTS place (only INTEGER PRIMARY KEY CHECK (only = 0), seq INTEGER NOT NULL, entry TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS settled (image TEXT PRIMARY KEY, entry TEXT NOT NULL, reason TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS under_way (image TEXT PRIMARY KEY, model TEXT NOT NULL) WITHOUT ROWID;
"""
AT_ONCE: Final = 500  # variables in one statement
COUNTS: Final = "SELECT model, count(*) FROM under_way GROUP BY model"


class WatchState:
    """The memory of one watcher, in a folder that no second one can use meanwhile.

    Raises:
        StorageError: the folder is in use, cannot be written to, or holds something else; from every method, also
            where the disk is full. What was written before is kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StorageError(f"cannot write to {folder} ({error.strerror}); choose another folder") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._base = self._open(folder / "journal.sqlite")
        except BlockingIOError as error:
            os.close(self._lock)
            raise StorageError(
                f"{folder} is in use by another watcher; end that one or choose another folder"
            ) from error
        except StorageError:
            os.close(self._lock)
            raise

    def __enter__(self) -> Self:
        """Return the journal, closed with the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the journal."""
        self.close()

    def close(self) -> None:
        """Let another watcher use the folder."""
        self._base.close()
        os.close(self._lock)

    @property
    def place(self) -> tuple[int, str]:
        """How far everything in the archive's list of changes is settled: number and Orthanc's name of that change."""
        rows = self._ask("SELECT seq, entry FROM place")
        return (int(rows[0][0]), str(rows[0][1])) if rows else (0, "")

    def move(self, seq: int, entry: str) -> None:
        """Note that everything up to a change is settled."""
        self._change([("INSERT OR REPLACE INTO place VALUES (0, ?, ?)", [(seq, entry)])])

    def settled(self, images: Collection[str]) -> set[str]:
        """Return those of the images that are answered or refused."""
        keys, found = list(images), set()
        for start in range(0, len(keys), AT_ONCE):
            part = keys[start : start + AT_ONCE]
            rows = self._ask(f"SELECT image FROM settled WHERE image IN ({','.join('?' * len(part))})", part)
            found |= {str(image) for (image,) in rows}
        return found

    def begin(self, images: Iterable[str], model: str) -> None:
        """Note, before the first of their results is sent, by which model images are being answered: its `author`."""
        self._change([("INSERT OR REPLACE INTO under_way VALUES (?, ?)", [(image, model) for image in images])])

    def settle(self, images: Iterable[tuple[str, str, str]]) -> None:
        """Note that images are done with.

        Args:
            images: each image, Orthanc's name of it where known, and why it is refused, empty for an answered one.
        """
        rows = list(images)
        done = [(image,) for image, _, _ in rows]
        self._change(
            [
                ("INSERT OR REPLACE INTO settled VALUES (?, ?, ?)", rows),
                ("DELETE FROM under_way WHERE image = ?", done),
            ]
        )

    def nothing_waits(self) -> None:
        """Note that all images of the archive are settled; what was under way before is no longer there."""
        self._change([("DELETE FROM under_way", [()])])

    def under_way(self) -> dict[str, int]:
        """Return how many images were being answered, perhaps in part, by each model."""
        return {str(model): int(count) for model, count in self._ask(COUNTS)}

    def _open(self, file: Path) -> sqlite3.Connection:
        try:
            file.touch(mode=0o600)  # the files that SQLite puts beside it get the same mode
            base = sqlite3.connect(file, isolation_level=None)
            base.executescript(f"PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; {TABLES}")
        except (OSError, sqlite3.Error) as error:
            raise StorageError(f"cannot use {file} ({error}); choose another folder") from error
        return base

    def _ask(self, question: str, values: Collection[str] = ()) -> list[tuple[Any, ...]]:
        try:
            return self._base.execute(question, list(values)).fetchall()
        except sqlite3.Error as error:
            raise StorageError(f"cannot read {self.folder} ({error}); choose another folder") from error

    def _change(self, statements: Iterable[tuple[str, Sequence[tuple[object, ...]]]]) -> None:
        """Make all changes or none; they are on the disk when this returns."""
        try:
            with self._base:
                self._base.execute("BEGIN IMMEDIATE")
                for statement, rows in statements:
                    self._base.executemany(statement, rows)
        except sqlite3.Error as error:
            raise StorageError(f"cannot write to {self.folder} ({error}); free some space, then start again") from error
