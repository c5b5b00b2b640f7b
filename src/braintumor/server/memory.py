"""Share the memory for requests and responses, so that no request takes what the others need."""

from typing import Final

from braintumor.errors import ProblemError

PARTS: Final = 4
"""A request may have one of these parts of the budget; the last part is reserved for small requests."""
SMALL: Final = 128
"""Requests of at most this fraction of the budget are small."""


def _overloaded() -> ProblemError:
    headers = {"retry-after": "1", "connection": "close"}
    return ProblemError(503, "too much is being sent at the moment; try again", headers=headers)


class MemoryBudget:
    """The memory that all requests in progress hold together.

    Attributes:
        most: bytes that they may hold.
        held: bytes of bodies, and of responses that are being built or sent.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.held = 0


class RequestMemory:
    """The memory that one request holds: its body until it is answered, and its response until it is sent.

    Attributes:
        held: in bytes.
    """

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        self.held = 0

    @property
    def room(self) -> int:
        """The number of bytes that this request may still take, if the others leave it the room."""
        return self._budget.most // PARTS - self.held

    def take(self, count: int) -> None:
        """Count bytes that are held from now on.

        Raises:
            ProblemError: there is no room for them; even so they are counted until they are given back.
        """
        # Counted first: they are in memory already, whatever becomes of the request.
        self.held += count
        self._budget.held += count
        whole = self._budget.most
        # Large requests must leave the last part free, so that they can never shut out single slices together.
        is_small = self.held * SMALL <= whole
        most = whole if is_small else whole - whole // PARTS
        if self.room < 0 or self._budget.held > most:
            raise _overloaded()

    def give_back(self, count: int) -> None:
        """Stop counting bytes that are no longer held."""
        self.held -= count
        self._budget.held -= count
