"""Checks of settings: type and range, refused in one sentence that says what came and what was expected."""

import math
from collections.abc import Sequence

from braintumor.errors import TrainingError


def check_whole(name: str, value: object, low: int, high: int | None = None) -> None:
    """Raise where a value is not a whole number from low to high, both included; neither True nor 1.0 is one.

    Raises:
        TrainingError: naming the setting, what came and what was expected.
    """
    if type(value) is not int or value < low or (high is not None and value > high):
        bounds = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise TrainingError(f"{name}: expected a whole number {bounds}, got {value!r}")


def check_number(
    name: str, value: object, low: float, high: float, *, open_low: bool = False, open_high: bool = False
) -> None:
    """Raise where a value is not a finite number from low to high; open ends do not belong to the range.

    Raises:
        TrainingError: naming the setting, what came and what was expected.
    """
    # bool is a subclass of int in Python, but True is not meant as a number here.
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        above = low < value if open_low else low <= value
        below = value < high if open_high else value <= high
        if above and below:
            return
    bounds = f"{'above' if open_low else 'from'} {low:g} {'and below' if open_high else 'to'} {high:g}"
    raise TrainingError(f"{name}: expected a number {bounds}, got {value!r}")


def check_range(name: str, value: object, low: float, high: float, *, open_low: bool = False) -> None:
    """Raise where a value is not a pair of numbers between low and high, the smaller one first.

    Raises:
        TrainingError: naming the setting, what came and what was expected.
    """
    # Lists too, as JSON has them; a string is a sequence, but of characters.
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        raise TrainingError(f"{name}: expected two numbers, the smallest and the largest, got {value!r}")
    for end in value:
        check_number(name, end, low, high, open_low=open_low)
    if value[0] > value[1]:
        raise TrainingError(f"{name}: expected the smaller number first, got {value!r}")


def check_flag(name: str, value: object) -> None:
    """Raise where a value is neither True nor False.

    Raises:
        TrainingError: naming the setting and what came.
    """
    if not isinstance(value, bool):
        raise TrainingError(f"{name}: expected True or False, got {value!r}")


def check_text(name: str, value: object, *, empty: bool = False) -> None:
    """Raise where a value is not a text, or is an empty one unless that is allowed.

    Raises:
        TrainingError: naming the setting and what came.
    """
    if not isinstance(value, str) or not (value or empty):
        raise TrainingError(f"{name}: expected {'a text' if empty else 'a text that is not empty'}, got {value!r}")


def check_tuple(name: str, value: object) -> tuple[object, ...]:
    """Return a value after checking that it is a tuple.

    Raises:
        TrainingError: it is not; naming the setting and what came.
    """
    if not isinstance(value, tuple):
        raise TrainingError(f"{name}: expected a tuple, got {value!r}")
    return value
