import numpy as np
import pytest

from braintumor.classes import CLASSES
from braintumor.data.quality import FileFacts
from braintumor.data.shortcuts import FACTS, shortcuts
from braintumor.io.read import Stored

RANDOM = np.random.default_rng(0)


def file(kind: str = "JPEG", mode: str = "L", width: int = 200, mean: float = 0.2, border: float = 0.0) -> FileFacts:
    return FileFacts(Stored(kind, mode, 0.0), width, 200, mean, border, b"", ())


def test_a_class_with_a_format_of_its_own_is_told_by_it() -> None:
    labels = np.repeat([0, 1], 60)
    result = shortcuts([file("JPEG" if label else "PNG") for label in labels], labels, np.arange(120))
    assert result is not None
    assert (result.accuracy.value, result.accuracy.high) == (1.0, 1.0)
    assert result.accuracy.low == pytest.approx(0.025 ** (1 / 120))
    assert result.chance == 0.5
    assert result.alone == dict.fromkeys(FACTS, 0.5) | {"format": 1.0}
    assert result.recall == {"glioma": 1.0, "meningioma": 1.0}


def test_facts_that_say_nothing_give_chance() -> None:
    labels = RANDOM.permutation(np.repeat([0, 1, 2, 3], [300, 100, 100, 100]))
    files = [file(mean=float(mean)) for mean in RANDOM.uniform(0, 1, 600)]
    result = shortcuts(files, labels, np.arange(600))
    assert result is not None
    assert result.chance == 0.5
    assert result.accuracy.value == pytest.approx(0.5, abs=0.06)
    assert result.alone["format"] == 0.5
    assert list(result.recall) == list(CLASSES)


def test_a_group_is_never_learned_by_heart() -> None:
    """Every group has a grey value of its own and a class by chance: were groups known, all would be right."""
    groups = np.repeat(np.arange(40), 20)
    labels = RANDOM.permutation(np.repeat([0, 1], 20))[groups]
    files = [file(mean=group / 40) for group in groups]
    result = shortcuts(files, labels, groups)
    assert result is not None
    assert result.accuracy.value is not None
    assert result.accuracy.value < 0.8


def test_a_range_of_sizes_in_the_middle_is_found() -> None:
    labels = np.tile([0, 1], 100)
    sizes = np.where(labels == 1, RANDOM.integers(220, 240, 200), RANDOM.choice([180, 300], 200))
    result = shortcuts([file(width=int(width)) for width in sizes], labels, np.arange(200))
    assert result is not None
    assert result.alone["size"] == 1.0


def test_too_few_groups_give_no_number() -> None:
    assert shortcuts([file()] * 8, np.tile([0, 1], 4), np.repeat(np.arange(4), 2)) is None
