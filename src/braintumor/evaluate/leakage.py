"""Which test images a model has already seen in training, and what its accuracy is without them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from braintumor.data.duplicates import similar_pairs, thumbnails
from braintumor.data.manifest import Manifest, at_hand, read_manifest
from braintumor.evaluate.metrics import Estimate, Integers, accuracy
from braintumor.files import cache_folder
from braintumor.model import Model


@dataclass(frozen=True)
class Leakage:
    """How many test images have a duplicate among the images that the model was trained or tuned on.

    Attributes:
        known: all training images could be compared; otherwise the counts are lower bounds.
        reason: why not; empty if known.
        n: test images.
        exact: of these, byte-identical to a training image; None if there is no record of the training images.
        near: of these, not identical but the same slice, mirrored or not; None if no training image was at hand.
        accuracy: on all test images.
        accuracy_without: on those without a duplicate; None if nothing could be compared or no image is left.
    """

    known: bool
    reason: str
    n: int
    exact: int | None
    near: int | None
    accuracy: Estimate
    accuracy_without: Estimate | None

    @property
    def duplicates(self) -> int:
        """Return how many test images have a duplicate in training, as far as known."""
        return (self.exact or 0) + (self.near or 0)


def find_leakage(
    test: Manifest, miniatures: NDArray[np.float32], model: Model, right: NDArray[np.bool_], groups: Integers
) -> Leakage:
    """Return the leakage from the rows split=train and val of the model folder's `manifest.csv` to test images.

    A training image is compared by its pixels if it lies unchanged under the folder of the test images.

    Args:
        test: N rows, with sha256.
        miniatures: (N, 32, 32) of `duplicates.thumbnails`.
        model: a loaded model folder.
        right: (N,) whether the answer was right.
        groups: (N,) groups of the test images, for the intervals.
    """
    everything = accuracy(right, groups)
    record = model.folder / "manifest.csv"
    if not record.is_file():
        reason = "the model folder has no manifest.csv, so its training images are not known"
        return Leakage(False, reason, len(test), None, None, everything, None)
    training = read_manifest(record, test.root).part("train", "val")
    hashes = {row.sha256 for row in training} - {""}
    exact = np.array([row.sha256 in hashes for row in test])
    present = at_hand(training)
    near = looks_like(miniatures, present) & ~exact
    missing = len(training) - len(present)
    reason = f"{missing} of the {len(training)} training images are not in the data folder" if missing else ""
    return Leakage(
        known=not missing,
        reason=reason,
        n=len(test),
        exact=int(exact.sum()),
        near=int(near.sum()) if len(present) else None,
        accuracy=everything,
        accuracy_without=without(right, groups, exact | near),
    )


def looks_like(miniatures: NDArray[np.float32], training: Manifest) -> NDArray[np.bool_]:
    """Return (N,) whether each of the (N, 32, 32) miniatures shows the slice of a training image."""
    known, _ = thumbnails(training, cache_folder())
    similar, _ = similar_pairs(miniatures, known)
    return np.isin(np.arange(len(miniatures)), similar)


def without(right: NDArray[np.bool_], groups: Integers, duplicate: NDArray[np.bool_]) -> Estimate | None:
    """Return the accuracy on the images that are no duplicates, None if there are none."""
    return None if duplicate.all() else accuracy(right[~duplicate], groups[~duplicate])
