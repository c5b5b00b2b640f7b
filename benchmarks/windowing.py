"""How far answers depend on the percentiles that stand in for a missing window.

Slices of the training part of the public set, which have their full range of grey values, are stretched from a low to a
high percentile as is done for files without a window, and answered by the model that comes with the package. The
numbers are shares of the slices that are decided as before, so they are no accuracies. The test part is not read.

Takes: 2 minutes.
Command: python benchmarks/windowing.py
"""

import random

import numpy as np
from record import data_folder, number, record

import braintumor
from braintumor.io.scan import Scan
from braintumor.predictor import Predictor

PAIRS = ((0.0, 100.0), (0.1, 99.9), (0.5, 99.5), (1.0, 99.0))
SLICES = 500


def main() -> None:
    """Produce `windowing.json`."""
    files = sorted((data_folder() / "brain-tumor-mri" / "Training").rglob("*.jpg"))
    scans = [braintumor.read(file) for file in random.Random(0).sample(files, SLICES)]
    model = braintumor.load()
    predictor = Predictor(model)
    expected = list(predictor.run(scans))
    numbers = {}
    for low, high in PAIRS:
        found = predictor.run([stretched(scan, low, high) for scan in scans])
        pairs = list(zip(expected, found, strict=True))
        for name in ("decision", "predicted"):
            same = float(np.mean([getattr(before, name) == getattr(after, name) for before, after in pairs]))
            numbers[f"{low:g}-{high:g}.same_{name}"] = number(same, "share", n=SLICES)
    record("windowing", "python benchmarks/windowing.py", numbers)


def stretched(scan: Scan, low: float, high: float) -> Scan:
    """Return a slice whose grey values go from one percentile to another."""
    black, white = np.percentile(scan.pixels, (low, high))
    return Scan(((scan.pixels - black) / max(white - black, 1e-6)).clip(0, 1).astype(np.float32), source=scan.source)


if __name__ == "__main__":
    main()
