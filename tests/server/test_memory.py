"""How much of the memory each request gets."""

import pytest

from braintumor.errors import ProblemError
from braintumor.server.memory import MemoryBudget, RequestMemory
from braintumor.server.settings import Settings


def test_a_request_has_a_quarter_at_most() -> None:
    share = RequestMemory(MemoryBudget(1000))
    share.take(250)
    assert share.room == 0
    with pytest.raises(ProblemError):
        share.take(1)


def test_the_largest_request_has_room_for_as_large_an_answer() -> None:
    settings = Settings()
    share = RequestMemory(MemoryBudget(settings.held_bytes))
    share.take(settings.request_bytes)
    assert share.room >= settings.request_bytes


def test_large_requests_leave_the_last_quarter_to_small_ones() -> None:
    shares = MemoryBudget(1280)
    for _ in range(3):
        RequestMemory(shares).take(320)
    large = RequestMemory(shares)
    with pytest.raises(ProblemError):
        large.take(11)
    large.give_back(11)
    for _ in range(32):
        RequestMemory(shares).take(10)
    with pytest.raises(ProblemError):
        RequestMemory(shares).take(1)


def test_what_is_given_back_is_free_for_others() -> None:
    shares = MemoryBudget(1000)
    share = RequestMemory(shares)
    with pytest.raises(ProblemError):
        share.take(900)
    share.give_back(share.held)
    assert (shares.held, share.held) == (0, 0)
    RequestMemory(shares).take(250)
