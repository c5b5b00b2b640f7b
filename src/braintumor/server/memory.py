"""How much of the memory for requests and answers each request has, so that none takes that of the others."""

from typing import Final

from braintumor.errors import ProblemError

PARTS: Final = 4
"""One request has at most one of these parts of the whole; the last one is kept for small requests."""
SMALL: Final = 128
"""Requests of up to this part of the whole are small."""


def _crowded() -> ProblemError:
    headers = {"retry-after": "1", "connection": "close"}
    return ProblemError(503, "too much is being sent at the moment; try again", headers=headers)


class MemoryBudget:
    """What all requests that have not been answered hold together.

    Attributes:
        held: bytes of bodies, and of answers that are being put together or sent.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.held = 0


class RequestMemory:
    """What one request holds: its body until it is answered, and its answer until it is sent.

    Attributes:
        held: in bytes.
    """

    def __init__(self, shares: MemoryBudget) -> None:
        self._shares = shares
        self.held = 0

    @property
    def room(self) -> int:
        """Return how many more bytes this request may have if others leave it the room."""
        return self._shares.most // PARTS - self.held

    def take(self, count: int) -> None:
        """Count bytes that are held from now on.

        Raises:
            ProblemError: there is no room for them; they are counted until they are given back, none the less.
        """
        self.held += count
        self._shares.held += count
        whole = self._shares.most
        most = whole if self.held * SMALL <= whole else whole - whole // PARTS
        if self.room < 0 or self._shares.held > most:
            raise _crowded()

    def give_back(self, count: int) -> None:
        """Count bytes no more."""
        self.held -= count
        self._shares.held -= count
