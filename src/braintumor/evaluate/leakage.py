"""Find the test images that a model knows from training, or whose patient it knows, and its accuracy without them."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from braintumor.data.duplicates.alignment import related
from braintumor.data.duplicates.groups import group_numbers, known_images
from braintumor.data.duplicates.thumbnails import Thumbnails, make_thumbnails
from braintumor.data.manifest import Manifest, at_hand, read_manifest
from braintumor.evaluate.planes import planes
from braintumor.files import cache_folder
from braintumor.intervals import Estimate, Floats, Integers, accuracy
from braintumor.models.session import Model

NO_RECORD: Final = "the model folder has no manifest.csv, so its training images are not known"
Flags = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Relation:
    """The relation of N test images to the images that a model was trained or tuned on.

    Attributes:
        known: all training images could be compared; otherwise the flags are lower bounds.
        reason: why not; empty if known.
        groups: (N,) group of each test image.
        exact: (N,) byte-identical to a training image; None if there is no record of the training images.
        near: (N,) not identical but the same slice, mirrored, turned, cropped or not; None if no training image was at
            hand.
        shared: (N,) any of these, or in one group with a training image: the same patient, as far as known.
        origins: N names of where each image comes from: for the public set the source its slice was found in.
        planes: N planes, told from the pixels; empty where there is no contrast.
        brightness: (N,) mean grey value of the head, in [0, 1].
    """

    known: bool
    reason: str
    groups: Integers
    exact: Flags | None
    near: Flags | None
    shared: Flags
    origins: tuple[str, ...]
    planes: tuple[str, ...]
    brightness: Floats

    def part(self, kept: Integers) -> "Relation":
        """Return the relation of some of the images."""
        return Relation(
            known=self.known,
            reason=self.reason,
            groups=self.groups[kept],
            exact=None if self.exact is None else self.exact[kept],
            near=None if self.near is None else self.near[kept],
            shared=self.shared[kept],
            origins=tuple(self.origins[index] for index in kept.tolist()),
            planes=tuple(self.planes[index] for index in kept.tolist()),
            brightness=self.brightness[kept],
        )


@dataclass(frozen=True)
class Leakage:
    """Counts of the test images that a model knows from training.

    Attributes:
        known: see `Relation`, as `reason`.
        n: test images.
        exact: of these, byte-identical to a training image; None if there is no record of the training images.
        near: of these, not identical but the same slice; None if no training image was at hand.
        shared: of these, neither, but in one group with a training image: the same patient.
        accuracy: on all test images.
        accuracy_without: on those without a duplicate; None if nothing could be compared or no image is left.
        accuracy_clean: on those that share no group with training; None likewise.
    """

    known: bool
    reason: str
    n: int
    exact: int | None
    near: int | None
    shared: int | None
    accuracy: Estimate
    accuracy_without: Estimate | None
    accuracy_clean: Estimate | None

    @property
    def duplicates(self) -> int:
        """Return how many test images have a duplicate in training, as far as known."""
        return (self.exact or 0) + (self.near or 0)

    @property
    def related(self) -> int:
        """Return how many test images share a group with training, duplicates included, as far as known."""
        return self.duplicates + (self.shared or 0)


def relate(test: Manifest, model: Model) -> Relation:
    """Return how test images are related to the rows split=train and val of the model folder's `manifest.csv`.

    A training image is compared by its pixels if it lies unchanged under the folder of the test images.

    Args:
        test: N rows, with sha256.
        model: a loaded model folder.
    """
    ours, _ = make_thumbnails(test, cache_folder())
    origins, slice_planes, brightness = _origins(test, ours), planes(ours.head), _brightness(ours)
    record = model.folder / "manifest.csv"
    if not record.is_file():
        return Relation(
            known=False,
            reason=NO_RECORD,
            groups=group_numbers(test, ours),
            exact=None,
            near=None,
            shared=np.zeros(len(test), np.bool_),
            origins=origins,
            planes=slice_planes,
            brightness=brightness,
        )
    training = read_manifest(record, test.root).part("train", "val")
    # a row without a hash is equal to nothing
    hashes = {row.sha256 for row in training} - {""}
    exact = np.array([row.sha256 in hashes for row in test], np.bool_)
    present = at_hand(training)
    missing = len(training) - len(present)
    reason = f"{missing} of the {len(training)} training images are not in the data folder" if missing else ""
    theirs, _ = make_thumbnails(present, cache_folder())
    # test and training images are grouped together, so that a patient or a copy links one to the other
    groups = group_numbers(Manifest(test.root, (*test.rows, *present.rows)), Thumbnails.stacked([ours, theirs]))
    pairs, same = related(ours, theirs)
    near = np.isin(np.arange(len(test)), pairs.first[same]) & ~exact
    # also pairs that are only related: slices of one patient that no table names
    shared = np.isin(groups[: len(test)], groups[len(test) :]) | exact | np.isin(np.arange(len(test)), pairs.first)
    # with no training image at hand the flags would be False because nothing was compared, not because nothing is alike
    near_known = near if len(present) else None
    return Relation(
        known=not missing,
        reason=reason,
        groups=groups[: len(test)],
        exact=exact,
        near=near_known,
        shared=shared,
        origins=origins,
        planes=slice_planes,
        brightness=brightness,
    )


def unseen(test: Manifest) -> Relation:
    """Return the relation of the test images of folds to the training images of their fold: none, by the manifests."""
    ours, _ = make_thumbnails(test, cache_folder())
    groups = np.array(test.group_numbers(), np.int64)
    none = np.zeros(len(test), np.bool_)
    return Relation(
        known=True,
        reason="",
        groups=groups,
        exact=none,
        near=none,
        shared=none,
        origins=_origins(test, ours),
        planes=planes(ours.head),
        brightness=_brightness(ours),
    )


def _origins(test: Manifest, thumbnails: Thumbnails) -> tuple[str, ...]:
    """Return where each of N images comes from: as the shipped table knows it, else the row's own source."""
    images = known_images(test, thumbnails)
    return tuple(
        row.source or "unknown" if image is None else ("Figshare" if image.row.reference_id else "other sources")
        for row, image in zip(test, images, strict=True)
    )


def _brightness(thumbnails: Thumbnails) -> Floats:
    """Return the (N,) mean grey values, in [0, 1], of the heads of N slices."""
    # of the head alone, as the margin around it differs with the export, not with the scan
    grey: Floats = thumbnails.head.mean(axis=(1, 2), dtype=np.float64)
    return grey / 255


def leakage_of(relation: Relation, right: Flags) -> Leakage:
    """Return the counts, and the accuracy of (N,) answers with and without the related images."""
    near = relation.near if relation.near is not None else np.zeros_like(right)
    duplicate = near | (relation.exact if relation.exact is not None else False)
    compared = relation.exact is not None
    return Leakage(
        known=relation.known,
        reason=relation.reason,
        n=len(right),
        exact=int(relation.exact.sum()) if relation.exact is not None else None,
        near=int(near.sum()) if relation.near is not None else None,
        shared=int((relation.shared & ~duplicate).sum()) if relation.near is not None else None,
        accuracy=accuracy(right, relation.groups),
        accuracy_without=_without(right, relation.groups, duplicate) if compared else None,
        # both need a record of the training images: without one, nothing was left out
        accuracy_clean=_without(right, relation.groups, relation.shared) if compared else None,
    )


def _without(right: Flags, groups: Integers, left_out: Flags) -> Estimate | None:
    """Return the accuracy on the images that are not left out, None if there are none."""
    # an accuracy of no images is None, not 0
    return None if left_out.all() else accuracy(right[~left_out], groups[~left_out])
