"""When what has failed is tried again, and what is said of it meanwhile."""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import monotonic
from typing import Final

FIRST_PAUSE: Final = 1.0  # seconds
LONGEST_PAUSE: Final = 60.0
SAID_SECONDS: Final = 60.0  # until the same trouble is told again


def backoff(failures: int) -> float:
    """Return seconds to wait after so many failures in a row: doubling, at most a minute, and never the same twice."""
    return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(failures - 1, 10)) * random.uniform(0.5, 1.0)


@dataclass(eq=False, kw_only=True)
class Retry:
    """Something that is tried again.

    Attributes:
        due: when, on the clock of `time.monotonic`.
        failures: how often it has failed.
        trouble: what the last failure was.
        kind: what it is.
    """

    due: float = 0.0
    failures: int = 0
    trouble: str = ""
    kind: str = "image"

    @property
    def is_due(self) -> bool:
        """Tell whether to try it now."""
        return self.due <= monotonic()

    def wait(self, trouble: str) -> None:
        """Note a failure for which nobody is blamed, as of a machine that is busy."""
        self.failures += 1
        self.trouble = trouble
        self.due = monotonic() + backoff(self.failures)


class Reminder:
    """Says what waits, and why: the same at most once a minute."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._told: dict[tuple[str, str], float] = {}  # when each thing was told last

    def tell(self, items: Iterable[Retry]) -> None:
        """Say for each trouble how many wait because of it, and how long."""
        now = monotonic()
        self._told = {what: told for what, told in self._told.items() if now - told < SAID_SECONDS}
        for what, due in _troubles(items).items():
            if what not in self._told:
                self._told[what] = now
                trouble, kind = what
                verb = "wait" if kind == "image" else "left out for now, the others go on"
                self._say(f"{trouble}: {len(due)} {kind}(s) {verb}, next try in {max(0.0, min(due) - now):.0f} s")

    def tell_last(self, items: Iterable[Retry]) -> None:
        """Say how many wait at the end, whenever that was told before."""
        for (trouble, kind), due in _troubles(items).items():
            self._say(f"{trouble}: {len(due)} {kind}(s) still wait")


def _troubles(items: Iterable[Retry]) -> dict[tuple[str, str], list[float]]:
    """Return for each trouble, with the kind of what has it, when the items are due that have it."""
    dues: dict[tuple[str, str], list[float]] = {}
    for item in items:
        if item.trouble:
            dues.setdefault((item.trouble, item.kind), []).append(item.due)
    return dues
