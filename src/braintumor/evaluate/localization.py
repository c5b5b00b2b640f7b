"""Compare class maps with experts' outlines of tumors, and the answers of a model with and without the tumor.

Every slice with a known outline counts, with the map of its true class, enlarged bilinearly to 512 x 512 pixels, never
masked or stretched. A map of zeros points nowhere: its pointing, energy and overlap are 0.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from braintumor.classes import CLASSES
from braintumor.data.manifest import Manifest, Row
from braintumor.data.outlines import Polygon, mask, outlines
from braintumor.errors import DataError
from braintumor.evaluate.faithfulness import Faithfulness, asking, fill_hole, measure_faithfulness
from braintumor.intervals import Estimate, Integers, mean
from braintumor.io.read import read
from braintumor.models.session import Model
from braintumor.predictor import Prediction, Predictor, PreparedSlice

SIDE: Final = 512
NEAR_PIXELS: Final = 15  # of 512: the maximum of a map this close to the outline still points at the tumor
STEPS: Final = 20
THRESHOLDS: Final = np.arange(1, STEPS) / STEPS
BATCH: Final = 32
RIM_PIXELS: Final = 2  # of the network's input: how far around the outline a tumor is filled, too
ADJACENT: Final = {(-1, 0): 1.0, (1, 0): 1.0, (0, -1): 1.0, (0, 1): 1.0}  # weights of the neighbours
FILL_TOLERANCE: Final = 1e-9  # far below half a grey level
DARK: Final = 0.05  # of the brightest grey level: what is darker lies outside the head
TRIES: Final = 400
TESTED: Final = 60  # slices per model whose maps are tested for faithfulness
CENTRE_SIGMA: Final = 0.2  # of the side, of the baseline that always points to the middle
SIZES: Final = {"small": (0.0, 0.01), "medium": (0.01, 0.03), "large": (0.03, 1.0)}
"""Tumor sizes by the share of the padded slice that the outline encloses."""
BASELINES: Final = ("random", "centre", "head")

Floats = NDArray[np.float32]
Levels = NDArray[np.uint8]
Bools = NDArray[np.bool_]
LISTED: Final = 200


@dataclass(frozen=True, eq=False)
class Overlap:
    """The overlap of one map with one outline.

    Attributes:
        pointing: whether its maximum lies inside, or at most 15 of 512 pixels outside.
        energy: share of the map that lies inside.
        iou: (19,) intersection over union at each of `THRESHOLDS`, as fractions of the map's maximum.
    """

    pointing: bool
    energy: float
    iou: Floats


@dataclass(frozen=True, eq=False)
class SliceLocalization:
    """The map of one slice against the outline, and the model's answers with and without the tumor.

    Attributes:
        row: of the manifest.
        predicted: the model's class.
        area: share of the padded slice that the outline encloses.
        overlap: of the model's map of the true class.
        baselines: of maps that do not know the slice, by name.
        outside: share of the map that lies outside the head.
        without: the model's class where the tumor is filled from its surroundings.
        control: its class where an equally large piece elsewhere in the head is filled; None where there is no room.
    """

    row: Row
    predicted: str
    area: float
    overlap: Overlap
    baselines: dict[str, Overlap]
    outside: float
    without: str | None
    control: str | None


@dataclass(frozen=True)
class ShareInside:
    """The share of a padded slice that lies inside the outline, and the share of the map that does."""

    area: float
    energy: float


@dataclass(frozen=True)
class Localization:
    """The agreement of maps and outlines; all rates are fractions, intervals are over groups.

    Attributes:
        overall: pointing, energy, iou, area, outside, flip, flip_control, of all slices with an outline.
        per_class: the same by true class.
        per_size: the same by `SIZES`.
        baselines: pointing, energy and iou of maps that do not know the slice.
        threshold: fraction of a map's maximum from which it counts as inside, for iou.
        survivors: images whose answer was right and stays the same without the tumor, at most 200.
        faithfulness: deletion, insertion and road, see `faithfulness.Faithfulness`, of the model's maps and of
            `random` ones, on at most 60 slices per model.
        per_image: by the image's name in the manifest.
    """

    overall: dict[str, Estimate]
    per_class: dict[str, dict[str, Estimate]]
    per_size: dict[str, dict[str, Estimate]]
    baselines: dict[str, dict[str, Estimate]]
    threshold: float
    survivors: tuple[str, ...]
    faithfulness: dict[str, dict[str, Estimate]]
    per_image: dict[str, ShareInside]


def overlap(heat: Floats, inside: Bools) -> Overlap:
    """Return how a non-negative map (512, 512) lies over an outline (512, 512)."""
    peak, total = float(heat.max()), float(heat.sum())
    # dividing by the peak of an empty map would make noise of nothing
    if peak <= 0 or not inside.any():
        return Overlap(pointing=False, energy=0.0, iou=np.zeros(len(THRESHOLDS), np.float32))
    at = np.unravel_index(int(heat.argmax()), heat.shape)
    distance = 0.0 if inside[at] else float(np.sqrt(((np.argwhere(inside) - at) ** 2).sum(axis=1).min()))
    # counting steps once gives all 19 thresholds, instead of 19 comparisons of whole maps
    steps = (heat * (STEPS / peak)).astype(np.int64)  # how many thresholds each value reaches
    hits, reached = (_reaching(values) for values in (steps[inside], steps.ravel()))
    iou = hits / (inside.sum() + reached - hits)
    return Overlap(distance <= NEAR_PIXELS, float(heat[inside].sum()) / total, iou.astype(np.float32))


def _reaching(steps: Integers) -> NDArray[np.float64]:
    """Return (19,) how many values reach each of `THRESHOLDS`, given (N,) how many of these each value reaches."""
    counts = np.bincount(steps, minlength=STEPS + 1).astype(np.float64)
    return counts[::-1].cumsum()[::-1][1:STEPS]


def enlarged(class_map: Floats) -> Floats:
    """Return a map (h, w) enlarged bilinearly to (512, 512)."""
    return np.asarray(Image.fromarray(class_map).resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def head_of(levels: Levels) -> Bools:
    """Return which pixels (S, S) of a slice belong to the head: its largest bright region, holes filled."""
    regions, count = ndimage.label(levels > DARK * levels.max())
    if not count:
        return np.zeros(levels.shape, bool)
    # label 0 is the background; writing and rulers beside the head are smaller regions
    largest = 1 + int(np.argmax(ndimage.sum_labels(np.ones_like(levels), regions, range(1, count + 1))))
    return np.asarray(ndimage.binary_fill_holes(regions == largest))


def filled(levels: Levels, hole: Bools) -> Levels:
    """Return a slice (S, S) with a hole (S, S) filled smoothly from its edge: each pixel the mean of its neighbours.

    The equation is Laplace's; the slice's own edge has no neighbours beyond.
    """
    return fill_hole(levels, hole, ADJACENT, tolerance=FILL_TOLERANCE)


def hole_of(polygon: Polygon, side: int) -> Bools:
    """Return the pixels (S, S) of a slice that are filled to remove a tumor: inside its outline and a little around."""
    return np.asarray(ndimage.binary_dilation(mask(polygon, side) > 127, iterations=RIM_PIXELS))


def elsewhere(hole: Bools, head: Bools, seed: int) -> Bools | None:
    """Return a hole of the same shape, moved within the head so that it does not touch the first; None without room.

    Tried first is the place mirrored at the head's middle, then random ones.
    """
    pixels, room = np.argwhere(hole), np.argwhere(head)
    if not len(pixels) or not len(room):
        return None
    random = np.random.default_rng(seed)
    middle = room[:, 1].min() + room[:, 1].max()
    mirrored = np.array([0, middle - pixels[:, 1].min() - pixels[:, 1].max()])
    centre = pixels.mean(axis=0)
    # the mirrored place is the fairest control: the same tissue on the other side
    shifts = [mirrored, *np.rint(room[random.integers(len(room), size=TRIES)] - centre).astype(int)]
    for shift in shifts:
        moved = pixels + shift
        # also keeps negative indices from meaning the other side
        if (moved < 0).any() or (moved >= hole.shape).any():
            continue
        at = tuple(moved.T)
        if head[at].all() and not hole[at].any():
            moved_hole = np.zeros_like(hole)
            moved_hole[at] = True
            return moved_hole
    return None


@dataclass(frozen=True, eq=False)
class LocalizedModel:
    """A model with the images that it is tested on and those that it was validated on."""

    model: Model
    test: Manifest
    validation: Manifest


def localize(
    parts: Sequence[LocalizedModel],
    groups: Mapping[str, int],
    reference: Path,
    cache: Path,
    progress: Callable[[int, int], None] | None = None,
) -> Localization:
    """Return how well the maps of one or several models agree with the outlines that a reference folder knows.

    Args:
        parts: whose test images have no image in common.
        groups: of each test image, by its name in the manifest.
        reference: see `data.reference`.
        cache: folder of the cache.
        progress: called with the images done and in all.

    Raises:
        DataError: the reference folder cannot be used, or knows no outline of a test or validation image.
    """
    total = sum(len(part.test) + len(part.validation) for part in parts)
    done = 0
    results: list[SliceLocalization] = []
    validated: list[SliceLocalization] = []
    thresholds: list[float] = []
    faithfulness_tests: list[tuple[Row, Faithfulness, Faithfulness]] = []
    for part in parts:
        validation = _localize_images(part.model, part.validation, reference, cache, erase=False)
        test = _localize_images(part.model, part.test, reference, cache, erase=True)
        # the threshold is chosen on validation images: on test images it would flatter the overlap
        thresholds += [_best_threshold([look.overlap for look in validation])] * len(test)
        validated, results = [*validated, *validation], [*results, *test]
        faithfulness_tests += _faithfulness(part.model, part.test, [result.row for result in test])
        done += len(part.test) + len(part.validation)
        if progress:
            progress(done, total)
    blind = {name: _best_threshold([look.baselines[name] for look in validated]) for name in BASELINES}
    numbers = np.array([groups[look.row.image] for look in results], np.int64)
    members = np.array([groups[row.image] for row, _, _ in faithfulness_tests], np.int64)
    own, random = ([pair[position] for _, *pair in faithfulness_tests] for position in (0, 1))
    faithful = {"map": _mean_faithfulness(own, members), "random": _mean_faithfulness(random, members)}
    return summarize_localization(results, numbers, thresholds, blind, faithful)


def _faithfulness(model: Model, images: Manifest, rows: Sequence[Row]) -> list[tuple[Row, Faithfulness, Faithfulness]]:
    """Return how faithful the maps of the true class are, and random maps, on some of the slices, evenly chosen."""
    results = []
    for seed, index in enumerate(np.unique(np.linspace(0, len(rows) - 1, min(TESTED, len(rows))).astype(int)).tolist()):
        row = rows[index]
        levels = model.card.preprocess.grey_levels(read(images.path(row)))
        own = answers([levels], model)[0].class_maps[CLASSES.index(row.label)]
        noise = np.random.default_rng(seed).random(own.shape, np.float32)
        ask = asking(model, row.label)
        results.append(
            (row, measure_faithfulness(levels, own, ask, seed), measure_faithfulness(levels, noise, ask, seed))
        )
    return results


def _mean_faithfulness(results: Sequence[Faithfulness], groups: Integers) -> dict[str, Estimate]:
    """Return the means of N tests of faithfulness, with intervals over groups (N,)."""
    names = [field.name for field in fields(Faithfulness)]
    return {name: mean(np.array([getattr(result, name) for result in results]), groups) for name in names}


def _localize_images(
    model: Model, images: Manifest, reference: Path, cache: Path, *, erase: bool
) -> list[SliceLocalization]:
    """Return what a model looks at in each image whose outline a reference folder knows.

    `erase` asks the model again without the tumor and without another piece; otherwise its first answer stands there.

    Raises:
        DataError: the reference folder cannot be used, or knows no outline.
    """
    outlined = [
        (row, polygon)
        for row, polygon in zip(images, outlines(images, reference, cache), strict=True)
        if polygon is not None
    ]
    answers: list[SliceLocalization] = []
    for start in range(0, len(outlined), BATCH):
        answers += _localize_batch(model, images, outlined[start : start + BATCH], start, erase=erase)
    return answers


def _localize_batch(
    model: Model, images: Manifest, batch: Sequence[tuple[Row, Polygon]], start: int, *, erase: bool
) -> Iterator[SliceLocalization]:
    """Yield what a model looks at in a few images with their outlines; `start` is the number of those before."""
    side = model.card.preprocess.size
    slices = [model.card.preprocess.grey_levels(read(images.path(row))) for row, _ in batch]
    heads = [head_of(levels) for levels in slices]
    shown = answers(slices, model)
    without: list[str | None] = [answer.predicted for answer in shown]
    control: list[str | None] = [None] * len(batch)
    if erase:
        holes = [hole_of(polygon, side) for _, polygon in batch]
        without = _predict_filled(slices, holes, model)
        pieces = [elsewhere(hole, head, start + n) for n, (hole, head) in enumerate(zip(holes, heads, strict=True))]
        control = _predict_filled(slices, pieces, model)
    for index, (row, polygon) in enumerate(batch):
        inside = mask(polygon, SIDE) > 127
        heat = enlarged(shown[index].class_maps[CLASSES.index(row.label)])
        head = np.asarray(Image.fromarray(heads[index]).resize((SIDE, SIDE), Image.Resampling.NEAREST))
        yield SliceLocalization(
            row=row,
            predicted=shown[index].predicted,
            area=float(inside.mean()),
            overlap=overlap(heat, inside),
            baselines={name: overlap(blind, inside) for name, blind in _blind_maps(head, start + index).items()},
            outside=float(heat[~head].sum() / max(heat.sum(), np.finfo(np.float32).tiny)),
            without=without[index],
            control=control[index],
        )


def answers(slices: Sequence[Levels], model: Model) -> list[Prediction]:
    """Return the model's answers for slices."""
    return Predictor(model).predict([PreparedSlice("", levels) for levels in slices])


def _predict_filled(slices: Sequence[Levels], holes: Sequence[Bools | None], model: Model) -> list[str | None]:
    """Return the model's class for each slice with its hole filled, None where there is no hole."""
    changed = [filled(levels, hole) for levels, hole in zip(slices, holes, strict=True) if hole is not None]
    # slices without a hole are not asked again; the predictions are dealt out to the others in order
    predictions = iter(answers(changed, model))
    return [None if hole is None else next(predictions).predicted for hole in holes]


def _blind_maps(head: Bools, seed: int) -> dict[str, Floats]:
    """Return maps (512, 512) that know nothing of the tumor: noise, the middle of the slice, the head (512, 512)."""
    distance = (np.arange(SIDE) + 0.5) / SIDE - 0.5
    bell = np.exp(-((distance / CENTRE_SIGMA) ** 2) / 2).astype(np.float32)
    noise = np.random.default_rng(seed).random((SIDE, SIDE), np.float32)
    return dict(zip(BASELINES, (noise, np.outer(bell, bell), head.astype(np.float32)), strict=True))


def _best_threshold(overlaps: Sequence[Overlap]) -> float:
    """Return the fraction of a map's maximum at which maps overlap best with the outlines: for validation images."""
    return float(THRESHOLDS[int(np.mean([overlap.iou for overlap in overlaps], axis=0).argmax())])


def summarize_localization(
    results: Sequence[SliceLocalization],
    groups: Integers,
    thresholds: Sequence[float],
    baseline_thresholds: dict[str, float],
    faithful: dict[str, dict[str, Estimate]],
) -> Localization:
    """Return the rates of N looks.

    Args:
        results: N looks.
        groups: (N,) group of each image.
        thresholds: N fractions of a map's maximum, each chosen on the validation images of the model that answered.
        baseline_thresholds: the same for each of `BASELINES`.
        faithful: see `Localization.faithfulness`.

    Raises:
        DataError: there are no looks.
    """
    if not results:
        raise DataError("no test image has a known tumor outline; name a reference folder that the images come from")
    columns = _columns_of(results, thresholds)
    label = np.array([result.row.label for result in results])
    size = np.array([size_class(result.area) for result in results])
    survivors = [result.row.image for result in results if result.predicted == result.row.label == result.without]
    blind = {
        name: {
            "pointing": mean(np.array([result.baselines[name].pointing for result in results], float), groups),
            "energy": mean(np.array([result.baselines[name].energy for result in results]), groups),
            "iou": mean(
                np.array([_at(result.baselines[name], baseline_thresholds[name]) for result in results]), groups
            ),
        }
        for name in BASELINES
    }
    return Localization(
        overall=_rates(columns, groups, np.ones(len(results), bool)),
        per_class={name: _rates(columns, groups, label == name) for name in CLASSES if (label == name).any()},
        per_size={name: _rates(columns, groups, size == name) for name in SIZES if (size == name).any()},
        baselines=blind,
        threshold=float(np.mean(thresholds)),
        survivors=tuple(survivors[:LISTED]),
        faithfulness=faithful,
        per_image={result.row.image: ShareInside(result.area, result.overlap.energy) for result in results},
    )


def size_class(area: float) -> str:
    """Return which of `SIZES` a tumor of this share of the slice has."""
    return next(name for name, (low, high) in SIZES.items() if low <= area < high or high == 1.0)


def _columns_of(results: Sequence[SliceLocalization], thresholds: Sequence[float]) -> dict[str, NDArray[np.float64]]:
    """Return the N values behind each rate; NaN where a look does not count for it."""
    right = np.array([result.predicted == result.row.label for result in results])
    flip = np.array([result.without != result.predicted for result in results], float)
    control = np.array(
        [np.nan if result.control is None else result.control != result.predicted for result in results], float
    )
    # a wrong answer cannot be lost with the tumor, so only right ones count for flips
    return {
        "pointing": np.array([result.overlap.pointing for result in results], float),
        "energy": np.array([result.overlap.energy for result in results]),
        "iou": np.array(
            [_at(result.overlap, threshold) for result, threshold in zip(results, thresholds, strict=True)]
        ),
        "area": np.array([result.area for result in results]),
        "outside": np.array([result.outside for result in results]),
        "flip": np.where(right, flip, np.nan),
        "flip_control": np.where(right, control, np.nan),
    }


def _at(overlap: Overlap, threshold: float) -> float:
    """Return the intersection over union at one of `THRESHOLDS`."""
    return float(overlap.iou[int(np.abs(THRESHOLDS - threshold).argmin())])


def _rates(columns: dict[str, NDArray[np.float64]], groups: Integers, chosen: Bools) -> dict[str, Estimate]:
    """Return the mean of each column over the chosen looks that count for it."""
    estimates = {}
    for name, values in columns.items():
        counted = chosen & ~np.isnan(values)
        estimates[name] = mean(values[counted], groups[counted]) if counted.any() else Estimate(None, None, None, 0)
    return estimates
