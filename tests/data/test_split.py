"""Which images `split` holds out."""

from pathlib import Path

import numpy as np
import pytest

from braintumor.classes import CLASSES
from braintumor.data.manifest import Manifest, Row
from braintumor.data.split import fold_numbers, leaks, split
from braintumor.errors import DataError


def grouped(sizes: dict[str, list[int]], part: str = "train") -> Manifest:
    """Return a manifest with groups of these sizes per class."""
    rows = [
        Row(f"{label}/{group}-{index}.png", label, group=f"{label} {group}", split=part)
        for label, groups in sizes.items()
        for group, size in enumerate(groups)
        for index in range(size)
    ]
    return Manifest(Path("data"), tuple(rows))


RANDOM = np.random.default_rng(0)
MANY = grouped({label: [int(size) for size in RANDOM.geometric(0.2, 150)] for label in CLASSES})


@pytest.mark.parametrize("fraction", [0.1, 0.15, 0.3])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_class_gets_its_fraction_and_no_group_is_divided(fraction: float, seed: int) -> None:
    done = split(MANY, fraction, seed)
    assert leaks(done) == []
    counts, whole = done.counts(), MANY.counts()["train"]
    for label in CLASSES:
        assert counts["val"][label] / whole[label] == pytest.approx(fraction, abs=0.01)
        assert counts["val"][label] + counts["train"][label] == whole[label]


def test_the_split_depends_on_the_seed_and_not_on_the_order_of_rows() -> None:
    chosen = {row.image for row in split(MANY, seed=3).part("val")}
    turned = split(Manifest(MANY.root, MANY.rows[::-1]), seed=3)
    assert {row.image for row in turned.part("val")} == chosen
    assert {row.image for row in split(MANY, seed=4).part("val")} != chosen
    assert [row.image for row in turned] == [row.image for row in MANY.rows[::-1]]


def test_large_groups_are_not_always_held_out() -> None:
    manifest = grouped({"glioma": [8] + [1] * 92, "pituitary": [1] * 100})
    sides = [{row.split for row in split(manifest, seed=seed) if row.group == "glioma 0"} for seed in range(40)]
    assert 1 <= sides.count({"val"}) <= 20


def test_rows_without_a_group_move_one_by_one() -> None:
    rows = tuple(Row(f"{label}/{index}.png", label) for label in CLASSES for index in range(20))
    done = split(Manifest(Path(), rows), fraction=0.25, part="test")
    assert done.counts() == {"train": dict.fromkeys(CLASSES, 15), "test": dict.fromkeys(CLASSES, 5)}


def test_other_splits_stay_as_they_are() -> None:
    test_rows = tuple(Row(f"test/{label}.png", label, split="test") for label in CLASSES)
    done = split(Manifest(Path(), (*test_rows, *MANY.rows)))
    assert done.part("test").rows == test_rows
    assert set(done.counts()) == {"train", "val", "test"}


def test_few_large_groups_still_give_both_sides_every_class() -> None:
    done = split(grouped({"glioma": [10, 12], "pituitary": [5, 7]}))
    assert done.counts()["val"] == {"glioma": 10, "meningioma": 0, "pituitary": 5, "no_tumor": 0}


def test_a_class_with_one_group_is_refused() -> None:
    with pytest.raises(DataError, match=r"pituitary has too few groups \(1, 9 images\) to give both train and val one"):
        split(grouped({"glioma": [3, 4, 5], "pituitary": [9]}))


def test_a_group_with_two_labels_is_not_divided() -> None:
    rows = [Row(f"{label}/{index}.png", label, group=str(index)) for label in CLASSES[:2] for index in range(30)]
    done = split(Manifest(Path(), tuple(rows)), fraction=0.2)
    assert leaks(done) == []
    assert done.counts()["val"] == {"glioma": 6, "meningioma": 6, "pituitary": 0, "no_tumor": 0}


@pytest.mark.parametrize("fraction", [0.0, 1.0, 15.0])
def test_an_impossible_fraction_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match="expected a fraction between 0 and 1"):
        split(MANY, fraction)


def test_folds_keep_groups_whole_and_classes_in_proportion() -> None:
    random = np.random.default_rng(0)
    groups = random.integers(0, 120, 1000)
    labels = groups % 4  # a class per group
    result = fold_numbers(groups, labels)
    assert all(len(set(result[groups == group].tolist())) == 1 for group in range(120))
    for label in range(4):
        counts = np.bincount(result[labels == label], minlength=5)
        assert counts.sum() == (labels == label).sum()
        assert np.ptp(counts) <= 10  # a group has about eight images


def test_folds_worked_out_by_hand() -> None:
    # sizes 4, 3, 2, 1 into two folds of 5: the largest first, each where most is missing
    groups = np.array([0] * 4 + [1] * 3 + [2] * 2 + [3])
    assert fold_numbers(groups, np.zeros(10, np.int64), folds=2).tolist() == [0] * 4 + [1] * 3 + [1] * 2 + [0]


def test_given_folds_hold_for_the_whole_group() -> None:
    groups, labels = np.array([0, 0, 1, 2]), np.zeros(4, np.int64)
    result = fold_numbers(groups, labels, np.array([-1, 2, -1, -1]), folds=3)
    assert result[:2].tolist() == [2, 2]
    assert sorted(result[2:].tolist()) == [0, 1]
    with pytest.raises(DataError, match="lies in two published folds"):
        fold_numbers(groups, labels, np.array([1, 2, -1, -1]), folds=3)


def test_fewer_groups_than_folds_are_refused() -> None:
    with pytest.raises(DataError, match="2 groups cannot be divided into 5 folds"):
        fold_numbers(np.array([0, 1]), np.array([0, 1]))
