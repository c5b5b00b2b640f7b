"""How many slices a second `braintumor predict` answers, decoding and class maps included.

Command: python benchmarks/predict_throughput.py
Takes: 1 minute.
"""

import subprocess
import sys
import time

from record import ROOT, data_folder, number, record, spread

REPEATS = 5


def main() -> None:
    """Produce `predict-throughput.json`: the whole command on the official test images, process start included."""
    folder = data_folder() / "brain-tumor-mri" / "Testing"
    command = [sys.executable, "-m", "braintumor", "predict", str(folder), "--model", "runs/resnet-reference"]
    rates, answers = [], 0
    for _ in range(REPEATS):
        began = time.perf_counter()
        finished = subprocess.run([*command, "--format", "csv"], cwd=ROOT, capture_output=True, text=True, check=True)
        answers = len(finished.stdout.splitlines()) - 1
        rates.append(answers / (time.perf_counter() - began))
    numbers = {"images_per_second": spread(rates, "images/s"), "images": number(answers, "images")}
    record("predict-throughput", "python benchmarks/predict_throughput.py", numbers)


if __name__ == "__main__":
    main()
