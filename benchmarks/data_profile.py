"""How long the manifest, the duplicate search and the report take on the whole public set, and which part dominates.

The report is what `evaluate` does once the network has answered: the answers are drawn at random around the labels, and
only the 24 worst mistakes of the gallery pass through the network. Imports are not counted. The first time no miniature
is in the cache; `again_seconds` is with them there.

Command: python benchmarks/data_profile.py
Takes: 2 minutes.
"""

import os
import resource
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from record import ROOT, data_folder, number, record, spread

from braintumor.classes import CLASSES
from braintumor.data import layout
from braintumor.data.duplicates import alignment, groups, thumbnails
from braintumor.data.layout import list_images
from braintumor.data.manifest import Manifest, read_manifest, write_manifest
from braintumor.evaluate import leakage, metrics
from braintumor.evaluate.report import plots, report
from braintumor.models.session import load_folder
from braintumor.predictor import Prediction

REPEATS = 5
CHARTS = ("receiver_operating", "precision_recall", "reliability_diagram")

Parts = dict[str, list[tuple[Any, str]]]
MANIFEST: Parts = {"hashing": [(layout, "add_hashes")]}
DUPLICATES: Parts = {"decoding": [(thumbnails, "made")], "comparing": [(alignment, "similar_pairs")]}
REPORT: Parts = {
    "decoding": [(thumbnails, "made")],
    "comparing": [(groups, "related"), (leakage, "related")],
    "hashing": [(layout, "add_hashes"), (leakage, "at_hand")],
    "resampling": [(metrics, "interval")],
    "charts": [(plots, name) for name in CHARTS],
    "gallery": [(report, "worst_mistakes")],
}


def main() -> None:
    """Produce `data-profile.json`."""
    data = data_folder() / "brain-tumor-mri"
    manifest = list_images(data).manifest
    with tempfile.TemporaryDirectory() as folder:
        numbers = {
            **profile("manifest", lambda: listing(data, Path(folder)), MANIFEST, Path(folder)),
            **profile("duplicates", lambda: search(manifest, Path(folder)), DUPLICATES, Path(folder)),
            **profile("report", reporting(manifest, Path(folder)), REPORT, Path(folder)),
        }
    numbers["images"] = number(len(manifest), "images")
    numbers["peak_mib"] = number(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "MiB")
    record("data-profile", "python benchmarks/data_profile.py", numbers)


def listing(data: Path, folder: Path) -> None:
    """List and hash all images, write the manifest and read it again."""
    manifest = list_images(data).manifest
    write_manifest(manifest, folder / "manifest.csv")
    read_manifest(folder / "manifest.csv", data).fingerprint()


def search(manifest: Manifest, cache: Path) -> None:
    """Find all pairs of images that must not be parted."""
    alignment.related(thumbnails.make_thumbnails(manifest, cache)[0])


def reporting(manifest: Manifest, folder: Path) -> Callable[[], None]:
    """Return a function that evaluates the first fold's ResNet18 on answers for all images, and writes the report."""
    model = load_folder(ROOT / "runs" / "folds" / "resnet-best" / "0")
    answers = list(zip(manifest, drawn_answers(manifest), strict=True))

    def run() -> None:
        with (
            mock.patch.dict(os.environ, BRAINTUMOR_CACHE=str(folder)),
            mock.patch.object(report, "find_test_images", lambda _, root: ("official", list_images(root))),
            mock.patch.object(report, "ask", return_value=(answers, {}, 1.0)),
        ):
            report.evaluate(model, manifest.root, folder / "evaluation")

    return run


def drawn_answers(manifest: Manifest) -> Iterator[Prediction]:
    """Yield an answer for each image, mostly that of its label."""
    random = np.random.default_rng(0)
    for row in manifest:
        weights = np.where(np.array(CLASSES) == row.label, 5.0, 0.3)
        probabilities = random.dirichlet(weights).astype(np.float32)
        predicted = CLASSES[int(probabilities.argmax())]
        yield Prediction(row.image, probabilities, predicted, predicted, (), report.NO_MAPS, "drawn", 1.0)


def profile(name: str, work: Callable[[], None], parts: Parts, cache: Path) -> dict[str, dict[str, Any]]:
    """Return the seconds of the work with an empty cache, those of its parts, and those with what it left there."""
    seconds: defaultdict[str, list[float]] = defaultdict(list)
    for _ in range(REPEATS):
        for file in (cache / "miniatures").glob("*"):
            file.unlink()
        for key, spent in stopped(work, parts).items():
            seconds[key].append(spent)
        if list((cache / "miniatures").glob("*")):
            seconds["again_seconds"].append(stopped(work, {})["seconds"])
    return {f"{name}.{key}": spread(values, "seconds") for key, values in seconds.items()}


def stopped(work: Callable[[], None], parts: Parts) -> dict[str, float]:
    """Return the seconds of the work and, of these, the seconds of each part."""
    spent: defaultdict[str, float] = defaultdict(float)
    with ExitStack() as stack:
        for part, functions in parts.items():
            for module, function in functions:
                stack.enter_context(watched(module, function, spent, f"{part}_seconds"))
        began = time.perf_counter()
        work()
        total = time.perf_counter() - began
    return {"seconds": total} | {f"{part}_seconds": spent[f"{part}_seconds"] for part in parts}


@contextmanager
def watched(module: Any, function: str, spent: defaultdict[str, float], key: str) -> Iterator[None]:
    """Add the seconds of every call of a module's function to a key."""
    original = getattr(module, function)

    def timed(*arguments: Any, **options: Any) -> Any:
        began = time.perf_counter()
        try:
            return original(*arguments, **options)
        finally:
            spent[key] += time.perf_counter() - began

    with mock.patch.object(module, function, timed):
        yield


if __name__ == "__main__":
    main()
