"""Decide when something that failed is tried again, and report what is waiting and why."""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import monotonic
from typing import Final

FIRST_PAUSE: Final = 1.0  # seconds
LONGEST_PAUSE: Final = 60.0
SAID_SECONDS: Final = 60.0  # until the same error is reported again


def backoff(failures: int) -> float:
    """Return the seconds to wait after so many failures in a row: doubling, at most a minute, with jitter."""
    # jitter, so that what failed together is not retried together; the exponent is capped, since 2.0 ** 1024 overflows
    return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(failures - 1, 10)) * random.uniform(0.5, 1.0)


@dataclass(eq=False, kw_only=True)
class Retry:
    """A task that is repeated until it succeeds.

    Attributes:
        due: when to try it next, on the clock of `time.monotonic`; 0 before the first attempt.
        attempts: how often it has failed.
        last_error: the text of the last failure.
        kind: what the task is about, as reported to the user.
    """

    due: float = 0.0
    attempts: int = 0
    last_error: str = ""
    kind: str = "image"

    @property
    def is_due(self) -> bool:
        """Whether to try it now."""
        return self.due <= monotonic()

    def wait(self, error: str) -> None:
        """Record a failure that does not count against the task itself, as of a busy machine."""
        self.attempts += 1
        self.last_error = error
        self.due = monotonic() + backoff(self.attempts)


class Reminder:
    """Reports what is waiting and why, the same error at most once a minute."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._reported: dict[tuple[str, str], float] = {}  # by error and kind, when it was reported last

    def tell(self, items: Iterable[Retry]) -> None:
        """Report for each error how many items wait because of it, and until when."""
        now = monotonic()
        self._reported = {key: since for key, since in self._reported.items() if now - since < SAID_SECONDS}
        for key, due in _due_by_error(items).items():
            if key not in self._reported:
                self._reported[key] = now
                error, kind = key
                verb = "wait" if kind == "image" else "left out for now, the others go on"
                self._say(f"{error}: {len(due)} {kind}(s) {verb}, next try in {max(0.0, min(due) - now):.0f} s")

    def tell_last(self, items: Iterable[Retry]) -> None:
        """Report how many items still wait at the end, even if that was reported a moment ago."""
        for (error, kind), due in _due_by_error(items).items():
            self._say(f"{error}: {len(due)} {kind}(s) still wait")


def _due_by_error(items: Iterable[Retry]) -> dict[tuple[str, str], list[float]]:
    """Return the due times of the items that have failed, by last error and kind."""
    due_times: dict[tuple[str, str], list[float]] = {}
    for item in items:
        if item.last_error:
            due_times.setdefault((item.last_error, item.kind), []).append(item.due)
    return due_times
