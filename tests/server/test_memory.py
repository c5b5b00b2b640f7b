"""How much of the memory each request gets."""

import pytest

from braintumor.errors import ProblemError
from braintumor.server.memory import MemoryBudget, RequestMemory
from braintumor.server.settings import Settings


def test_a_request_has_a_quarter_at_most() -> None:
    memory = RequestMemory(MemoryBudget(1000))
    memory.take(250)
    assert memory.room == 0
    with pytest.raises(ProblemError):
        memory.take(1)


def test_the_largest_request_has_room_for_as_large_an_answer() -> None:
    settings = Settings()
    memory = RequestMemory(MemoryBudget(settings.held_bytes))
    memory.take(settings.request_bytes)
    assert memory.room >= settings.request_bytes


def test_large_requests_leave_the_last_quarter_to_small_ones() -> None:
    budget = MemoryBudget(1280)
    for _ in range(3):
        RequestMemory(budget).take(320)
    large = RequestMemory(budget)
    with pytest.raises(ProblemError):
        large.take(11)
    large.give_back(11)
    for _ in range(32):
        RequestMemory(budget).take(10)
    with pytest.raises(ProblemError):
        RequestMemory(budget).take(1)


def test_what_is_given_back_is_free_for_others() -> None:
    budget = MemoryBudget(1000)
    memory = RequestMemory(budget)
    with pytest.raises(ProblemError):
        memory.take(900)
    memory.give_back(memory.held)
    assert (budget.held, memory.held) == (0, 0)
    RequestMemory(budget).take(250)
