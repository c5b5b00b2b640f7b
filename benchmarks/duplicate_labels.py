"""How often "the same slice" is right: on pairs labelled by eye, on copies made of real slices, and with the index.

The two thresholds are chosen on a random half of each stratum of the labelled pairs and checked on the other half; the
size and the sharpness of what is compared were chosen on all of them before. A weight is the number of pairs of the
public set that a labelled one stands for.

Takes: 2 minutes.
Command: python benchmarks/duplicate_labels.py
"""

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from record import data_folder, number, record

from braintumor.data.duplicates import pairs
from braintumor.data.duplicates.alignment import CANDIDATE, DUPLICATE, detail_similarity, same_slice
from braintumor.data.duplicates.pairs import RELATED, similar_pairs
from braintumor.data.duplicates.thumbnails import Thumbnails, make_thumbnail, make_thumbnails
from braintumor.data.layout import list_images
from braintumor.data.manifest import Manifest
from braintumor.files import cache_folder
from braintumor.io.read import read
from braintumor.io.scan import Scan

LABELS = Path(__file__).parent / "labels" / "duplicates.csv"
LOWEST = 0.75
COPIED = 600
Levels = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Labelled:
    """P labelled pairs: similarity, similarity in detail, whether they are duplicates, weight, and stratum."""

    score: NDArray[np.float32]
    detail: NDArray[np.float32]
    duplicate: NDArray[np.bool_]
    weight: NDArray[np.float64]
    stratum: NDArray[np.str_]

    def __getitem__(self, which: NDArray[np.bool_]) -> "Labelled":
        """Return some of the pairs."""
        return Labelled(*(getattr(self, name)[which] for name in self.__dataclass_fields__))


def main() -> None:
    """Measure and write `duplicate-labels.json`."""
    manifest = list_images(data_folder() / "brain-tumor-mri").manifest
    found, _ = make_thumbnails(manifest, cache_folder())
    pairs = labelled(manifest, found)
    half = halved(pairs.stratum)
    chosen = best_rule(pairs[half])
    rule = (CANDIDATE, DUPLICATE)
    numbers = {
        **rates(pairs, rule, ""),
        **rates(pairs[~half], chosen, "held_out."),
        "chosen.candidate": number(chosen[0], "similarity"),
        "chosen.duplicate": number(chosen[1], "similarity"),
        "pairs": number(len(pairs.score), "pairs"),
        "duplicates": number(int(pairs.duplicate.sum()), "pairs"),
        **made_copies(manifest, found),
        **index_recall(found),
    }
    record("duplicate-labels", "python benchmarks/duplicate_labels.py", numbers)


def labelled(manifest: Manifest, found: Thumbnails) -> Labelled:
    """Return the labelled pairs; those less similar than 0.75 get a similarity of 0."""
    with LABELS.open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    position = {row.image: index for index, row in enumerate(manifest)}
    ends = np.sort([[position[line["first"]], position[line["second"]]] for line in lines], axis=1)
    used = np.unique(ends)
    pairs = similar_pairs(found[used], threshold=LOWEST)
    place = {
        pair: at for at, pair in enumerate(zip(used[pairs.first].tolist(), used[pairs.second].tolist(), strict=True))
    }
    where = np.array([place.get((first, second), -1) for first, second in ends.tolist()])
    score, detail = np.zeros((2, len(lines)), np.float32)
    score[where >= 0] = pairs.score[where[where >= 0]]
    detail[where >= 0] = detail_similarity(pairs[where[where >= 0]], found[used], found[used])
    return Labelled(
        score,
        detail,
        np.array([line["label"] == "duplicate" for line in lines]),
        np.array([int(line["population"]) / int(line["sampled"]) for line in lines]),
        np.array([f"{line['stratum']} {line['population']}" for line in lines]),
    )


def halved(stratum: NDArray[np.str_]) -> NDArray[np.bool_]:
    """Return (P,) True for a random half of every stratum."""
    random, half = np.random.default_rng(0), np.zeros(len(stratum), np.bool_)
    for name in np.unique(stratum):
        members = random.permutation(np.flatnonzero(stratum == name))
        half[members[: len(members) // 2]] = True
    return half


def best_rule(pairs: Labelled) -> tuple[float, float]:
    """Return the thresholds with the largest weighted recall at a precision of 0.99; the middle ones of equal rules."""
    rules = [(candidate, round(0.7 + 0.01 * step, 2)) for candidate in (0.75, 0.8, 0.85, 0.9) for step in range(25)]
    measured = [{name: entry["value"] for name, entry in rates(pairs, rule, "").items()} for rule in rules]
    good = [min(each["precision"], each["precision_weighted"]) >= 0.99 for each in measured]
    recall = np.array([each["recall"] if fine else -1 for each, fine in zip(measured, good, strict=True)])
    equal = [rule for rule, value in zip(rules, recall, strict=True) if value == recall.max()]
    candidate = sorted({rule[0] for rule in equal})
    details = [rule[1] for rule in equal if rule[0] == candidate[len(candidate) // 2]]
    return candidate[len(candidate) // 2], details[len(details) // 2]


def rates(pairs: Labelled, rule: tuple[float, float], prefix: str) -> dict[str, dict[str, Any]]:
    """Return precision, plain and weighted, and weighted recall of a rule: thresholds of similarity and in detail."""
    said = (pairs.score > rule[0]) & (pairs.detail > rule[1])
    right = said & pairs.duplicate
    weighed = [float(pairs.weight[which].sum()) for which in (right, said, pairs.duplicate)]
    return {
        f"{prefix}precision": number(float(right.sum() / said.sum()), "fraction", n=int(said.sum())),
        f"{prefix}precision_weighted": number(weighed[0] / weighed[1], "fraction", n=int(said.sum())),
        f"{prefix}recall": number(weighed[0] / weighed[2], "fraction", n=int(pairs.duplicate.sum())),
    }


def made_copies(manifest: Manifest, found: Thumbnails) -> dict[str, dict[str, Any]]:
    """Return the share of copies of random slices, made in each way, that are found to be the same slice."""
    random = np.random.default_rng(0)
    chosen = random.choice(len(manifest), COPIED, replace=False)
    pictures = [np.rint(read(manifest.path(manifest.rows[index])).pixels * 255).astype(np.uint8) for index in chosen]
    numbers = {}
    for name, change in CHANGES.items():
        copies = Thumbnails.stacked([make_thumbnail(scan(change(picture, random))) for picture in pictures])
        pairs = similar_pairs(found[chosen], copies, CANDIDATE)
        own = pairs[pairs.first == pairs.second]
        share = same_slice(own, found[chosen], copies).sum() / COPIED
        numbers[f"made.{name}.recall"] = number(float(share), "fraction", n=COPIED)
    return numbers


def index_recall(found: Thumbnails) -> dict[str, dict[str, Any]]:
    """Return the share of the pairs of brute force that the index for large sets finds."""
    exact, limit = similar_pairs(found, threshold=CANDIDATE), pairs.LARGE
    pairs.LARGE = 0
    near = similar_pairs(found, threshold=CANDIDATE)
    pairs.LARGE = limit
    hit = np.isin(exact.first * len(found) + exact.second, near.first * len(found) + near.second)
    same = same_slice(exact, found, found)
    kinds = {"candidates": exact.score > CANDIDATE, "related": exact.score > RELATED, "same": same}
    return {
        f"index.{name}.recall": number(float(hit[which].mean()), "fraction", n=int(which.sum()))
        for name, which in kinds.items()
    }


def scan(levels: Levels) -> Scan:
    """Return 8-bit grey levels as a slice."""
    return Scan(np.ascontiguousarray(levels, np.float32) / 255)


def cropped(levels: Levels, random: np.random.Generator) -> Levels:
    """Return 95 % of the height and width, from a random place."""
    height, width = (round(0.95 * side) for side in levels.shape)
    top, left = (
        int(random.integers(0, side - kept + 1)) for side, kept in zip(levels.shape, (height, width), strict=True)
    )
    return levels[top : top + height, left : left + width]


def compressed(levels: Levels, random: np.random.Generator) -> Levels:
    """Return what JPEG of quality 50 keeps."""
    content = io.BytesIO()
    Image.fromarray(levels).save(content, "JPEG", quality=50)
    return np.asarray(Image.open(content))


def brightened(exponent: float, factor: float) -> Callable[[Levels, np.random.Generator], Levels]:
    """Return the change by a gamma and a factor."""
    return lambda levels, random: np.rint(255 * factor * (levels / 255) ** exponent).astype(np.uint8)


def scaled(side: int) -> Callable[[Levels, np.random.Generator], Levels]:
    """Return the change to side x side pixels."""
    return lambda levels, random: np.asarray(Image.fromarray(levels).resize((side, side), Image.Resampling.BICUBIC))


CHANGES: dict[str, Callable[[Levels, np.random.Generator], Levels]] = {
    "mirrored": lambda levels, random: levels[:, ::-1],
    "turned_90": lambda levels, random: np.rot90(levels, 1),
    "turned_180": lambda levels, random: np.rot90(levels, 2),
    "turned_270": lambda levels, random: np.rot90(levels, 3),
    "cropped": cropped,
    "jpeg_50": compressed,
    "gamma_0.7": brightened(0.7, 1),
    "gamma_1.4": brightened(1.4, 1),
    "darkened_0.8": brightened(1, 0.8),
    "scaled_128": scaled(128),
    "scaled_320": scaled(320),
}


if __name__ == "__main__":
    main()
