"""Measure how well the class can be told from how an image was acquired and stored, without looking at the brain."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sklearn.tree import DecisionTreeClassifier

from braintumor.classes import CLASSES
from braintumor.data.quality import FileFacts
from braintumor.data.split import fold_numbers
from braintumor.intervals import Estimate, accuracy

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

FOLDS: Final = 5
DEPTH: Final = 6
SMALLEST_LEAF: Final = 5
FACTS: Final = {
    "format": "file format",
    "mode": "grey or colour file",
    "size": "width and height",
    "aspect": "aspect ratio",
    "mean": "mean grey value",
    "border": "grey value of the border",
}


@dataclass(frozen=True)
class Shortcuts:
    """The rates at which a decision tree names the class of images of groups it has not seen.

    Attributes:
        accuracy: from all `FACTS` together, with its 95 % interval over groups.
        chance: accuracy of always naming the class that is most frequent in the other folds.
        alone: accuracy from each fact alone.
        recall: per class that occurs, from all facts.
    """

    accuracy: Estimate
    chance: float
    alone: dict[str, float]
    recall: dict[str, float]


def shortcuts(facts: Sequence[FileFacts], labels: Integers, groups: Integers) -> Shortcuts | None:
    """Return how far the facts of the files give the class away; None where there are fewer than five groups.

    Five folds of whole groups; a tree of at most six decisions in a row, fitted to four folds, names the classes of the
    fifth.

    Args:
        facts: N files.
        labels: (N,) class of each, in the order of `CLASSES`.
        groups: (N,) group of each.
    """
    if len(np.unique(groups)) < FOLDS:
        return None
    # whole groups: a tree that has seen a copy of an image would know its size and brightness by heart
    folds = fold_numbers(groups, labels, folds=FOLDS)
    columns = _features(facts)
    predicted = _answers(np.column_stack(list(columns.values())), labels, folds)
    right = predicted == labels
    # a tree that gets the same value for every image can only name the most frequent class of the other folds
    constant = np.zeros((len(labels), 1))
    return Shortcuts(
        accuracy=accuracy(right, groups),
        chance=float((_answers(constant, labels, folds) == labels).mean()),
        alone={name: float((_answers(values, labels, folds) == labels).mean()) for name, values in columns.items()},
        recall={
            name: float(right[labels == index].mean()) for index, name in enumerate(CLASSES) if (labels == index).any()
        },
    )


def _features(facts: Sequence[FileFacts]) -> dict[str, Floats]:
    """Return the values (N, 1 or more) of each of `FACTS`; of formats and modes one column per kind."""
    sizes = np.array([(file.width, file.height) for file in facts], np.float64)
    return {
        "format": _one_hot([file.stored.format for file in facts]),
        "mode": _one_hot([file.stored.mode for file in facts]),
        "size": sizes,
        "aspect": sizes[:, :1] / sizes[:, 1:],
        "mean": np.array([[file.mean] for file in facts]),
        "border": np.array([[file.border] for file in facts]),
    }


def _one_hot(names: Sequence[str]) -> Floats:
    """Return (N, K) 1 where an image is of a kind, else 0, the K kinds in alphabetical order."""
    # one column per kind: numbers in one column would give the kinds an order
    kinds = np.array(sorted(set(names)))
    columns: Floats = (np.array(names)[:, None] == kinds).astype(np.float64)
    return columns


def _answers(values: Floats, labels: Integers, folds: Integers) -> Integers:
    """Return (N,) the class of each image as a tree fitted to the other folds names it."""
    predicted = np.empty_like(labels)
    for fold in np.unique(folds):
        held_out = folds == fold
        # shallow and with leaves of five, since a deep tree knows single sizes of the training folds by heart
        tree = DecisionTreeClassifier(max_depth=DEPTH, min_samples_leaf=SMALLEST_LEAF, random_state=0)
        predicted[held_out] = tree.fit(values[~held_out], labels[~held_out]).predict(values[held_out])
    return predicted
