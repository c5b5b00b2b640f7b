"""Which clients keep up."""

from braintumor.server.pace import Pace
from braintumor.server.settings import Settings

SETTINGS = Settings(silent_seconds=4.0, window_seconds=10.0, slowest_bytes=100)


def test_a_client_at_the_slowest_pace_keeps_up_for_ever() -> None:
    pace = Pace(SETTINGS)
    assert all(pace.keeps_up(moved=100, waited=1.0) for _ in range(1000))


def test_a_client_below_it_is_given_up_after_a_window() -> None:
    pace = Pace(SETTINGS)
    assert [pace.keeps_up(moved=99, waited=1.0) for _ in range(10)] == [True] * 9 + [False]


def test_silence_is_given_up_sooner_and_each_byte_ends_it() -> None:
    pace = Pace(SETTINGS)
    assert pace.keeps_up(moved=10_000, waited=1.0)
    assert [pace.keeps_up(moved=0, waited=1.0) for _ in range(3)] == [True] * 3
    assert pace.keeps_up(moved=1, waited=1.0)
    assert [pace.keeps_up(moved=0, waited=1.0) for _ in range(4)] == [True] * 3 + [False]


def test_a_burst_pays_for_its_own_window_only() -> None:
    pace = Pace(SETTINGS)
    assert all(pace.keeps_up(moved=moved, waited=1.0) for moved in [1_000_000] + [1] * 9)
    assert [pace.keeps_up(moved=1, waited=1.0) for _ in range(10)] == [True] * 9 + [False]


def test_what_was_not_waited_for_does_not_count() -> None:
    pace = Pace(SETTINGS)
    assert all(pace.keeps_up(moved=1, waited=0.0) for _ in range(1000))
