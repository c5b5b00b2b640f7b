"""How often the plane of a slice is recognised, by weights fitted to labels given by eye.

`labels/planes.csv` names the plane of 936 slices. Those of `test` and `drawn` were drawn at random, by class and part
of the public set and from the reference set, out of two halves without a common patient or near-duplicate. `uncertain`
ones, of the half of `drawn`, were added where earlier weights hesitated. The weights, written into the package, are
fitted to those of `drawn` and `uncertain` that share no group with a test slice; accuracy and recalls are those on
`test`, labelled before there were weights.

Command: python benchmarks/planes.py
Takes: 1 minute.
"""

import csv
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from record import data_folder, number, record
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from braintumor.data.duplicates.groups import public_set
from braintumor.data.duplicates.thumbnails import make_thumbnails
from braintumor.data.layout import list_images
from braintumor.data.reference import read_reference
from braintumor.evaluate import metrics, planes
from braintumor.evaluate.planes import PLANES, SIDE
from braintumor.files import cache_folder, replacing

LABELS = Path(__file__).parent / "labels" / "planes.csv"
REFERENCE = "figshare/images"
FOLDS = 10
COPIES = 8  # of each slice, shifted, stretched and turned
SHIFT_PIXELS, STRETCH, TURN_DEGREES = 1.5, 0.08, 6.0
INVERSE_PENALTY = 0.01

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]


def main() -> None:
    """Write the weights and produce `planes.json`."""
    names, pixels, named = pictures(data_folder())
    with LABELS.open(encoding="utf-8", newline="") as file:
        labelled = {line["image"]: (PLANES.index(line["plane"]), line["role"]) for line in csv.DictReader(file)}
    groups = np.unique(named, return_inverse=True)[1]
    tested = {groups[index] for index, name in enumerate(names) if labelled.get(name, (0, ""))[1] == "test"}
    chosen = np.array(
        [
            index
            for index, name in enumerate(names)
            if name in labelled and (labelled[name][1] == "test" or groups[index] not in tested)
        ]
    )
    answers, roles = (np.array(part) for part in zip(*(labelled[names[i]] for i in chosen), strict=True))
    pixels, groups = pixels[chosen], groups[chosen]
    reference = np.array([names[i].startswith(REFERENCE) for i in chosen])
    test = roles == "test"
    folded = cross_validated(pixels[~test], answers[~test], groups[~test])
    save(fit(pixels[~test], answers[~test]))
    found = answered(pixels[test], planes.weights())
    show(answers[test], found)
    numbers = rates(found, answers[test], groups[test], reference[test])
    for role in ("drawn", "uncertain"):
        of = roles[~test] == role
        right = folded[of] == answers[~test][of]
        numbers[f"cross_validation.{role}.accuracy"] = share(right, groups[~test][of])
    record("planes", "python benchmarks/planes.py", numbers)


def pictures(data: Path) -> tuple[list[str], Floats, list[str]]:
    """Return all N images of both sets by name, with their (N, 32, 32) miniatures and the groups that are shipped."""
    four, reference = list_images(data / "brain-tumor-mri").manifest, read_reference(data / "figshare").manifest
    names = [f"brain-tumor-mri/{row.image}" for row in four] + [f"{REFERENCE}/{row.image}" for row in reference]
    heads = np.concatenate([make_thumbnails(each, cache_folder())[0].head for each in (four, reference)])
    shipped = {image: known.row for image, known in public_set().items()}
    of_patient = {row.patient: row.group for row in shipped.values() if row.patient}
    groups = [shipped[Path(row.image).name].group for row in four]
    groups += [of_patient.get(row.patient, row.patient) for row in reference]
    return names, planes.standardised(heads), groups


def answered(pixels: Floats, weights: Floats) -> Integers:
    """Return the (N,) planes that the weights find."""
    found: Integers = (planes.features(pixels) @ weights[:-1] + weights[-1]).argmax(axis=1)
    return found


def cross_validated(miniatures: Floats, answers: Integers, groups: Integers) -> Integers:
    """Return the (N,) planes found by weights fitted without the slices' groups."""
    found = np.empty_like(answers)
    for train, held in GroupKFold(FOLDS, shuffle=True, random_state=0).split(miniatures, answers, groups):
        weights = fit(miniatures[train], answers[train])
        found[held] = answered(miniatures[held], weights)
    return found


def fit(miniatures: Floats, answers: Integers) -> Floats:
    """Return the (513, 3) weights of a multinomial logistic regression on the slices and their varied copies.

    The public set holds axial slices that stand on their head: all axial ones are also shown that way.
    """
    random = np.random.default_rng(0)
    seen = np.concatenate([miniatures, *(varied(miniatures, random) for _ in range(COPIES))])
    planes_seen = np.tile(answers, COPIES + 1)
    axial = planes_seen == PLANES.index("axial")
    values = planes.features(np.concatenate([seen, seen[axial][:, ::-1]]))
    mean, deviation = values.mean(axis=0), values.std(axis=0) + 0.1  # what hardly varies is not blown up
    model = LogisticRegression(C=INVERSE_PENALTY, max_iter=1000)
    model.fit((values - mean) / deviation, np.concatenate([planes_seen, planes_seen[axial]]))
    slopes = model.coef_.T / deviation[:, None]
    return np.concatenate([slopes, (model.intercept_ - mean @ slopes)[None]]).astype(np.float32)


def varied(miniatures: Floats, random: np.random.Generator) -> Floats:
    """Return the miniatures shifted, stretched and turned a little at random about their centre, mean 0, norm 1."""
    centre = np.full(2, (SIDE - 1) / 2)
    changed = []
    for miniature in miniatures:
        angle = np.deg2rad(random.uniform(-TURN_DEGREES, TURN_DEGREES))
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        matrix = turn / (1 + random.uniform(-STRETCH, STRETCH, (2, 1)))
        offset = centre - matrix @ centre + random.uniform(-SHIFT_PIXELS, SHIFT_PIXELS, 2)
        affine = tuple(np.concatenate([matrix, offset[:, None]], axis=1).ravel())
        darkest = miniature.min()  # becomes 0, with which the border is filled
        image = Image.fromarray(miniature - darkest)
        changed.append(
            np.asarray(image.transform(image.size, Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR))
        )
    values = np.stack(changed)
    values = values - values.mean(axis=(1, 2), keepdims=True)
    return values / np.linalg.norm(values, axis=(1, 2), keepdims=True)


def save(weights: Floats) -> None:
    """Write the weights into the package, whole or not at all."""
    with replacing(planes.WEIGHTS) as aside, aside.open("wb") as file:
        np.save(file, weights, allow_pickle=False)
    planes.weights.cache_clear()


def show(answers: Integers, found: Integers) -> None:
    """Print the counts of the test: a line per labelled plane, a column per answer."""
    print("labelled   ", *PLANES)
    for index, name in enumerate(PLANES):
        print(f"{name:10}", *np.bincount(found[answers == index], minlength=len(PLANES)))


def rates(
    found: Integers, answers: Integers, groups: Integers, reference: NDArray[np.bool_]
) -> dict[str, dict[str, Any]]:
    """Return the accuracy on the test slices, overall and by source, and the recall of each plane."""
    right = found == answers
    parts = {"accuracy": np.full(len(right), True)}
    parts |= {f"{name}.recall": answers == index for index, name in enumerate(PLANES)}
    parts |= {"four_class.accuracy": ~reference, "figshare.accuracy": reference}
    return {key: share(right[part], groups[part]) for key, part in parts.items()}


def share(right: NDArray[np.bool_], groups: Integers) -> dict[str, Any]:
    """Return one entry of the result: the share of right answers, its interval drawn by groups.

    Where nothing is wrong, drawing shows no spread; low is then the exact binomial limit of as many groups.
    """
    estimate = metrics.accuracy(right, groups)
    low = 0.025 ** (1 / len(np.unique(groups))) if right.all() else estimate.low
    return number(float(right.mean()), "fraction", low=low, high=estimate.high, n=estimate.n)


if __name__ == "__main__":
    main()
