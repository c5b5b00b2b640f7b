"""How long one answer takes from a cold shell: `braintumor predict` against a script that uses PyTorch.

Both are new processes that start Python, import their libraries, load the same ResNet18 (float32), read one image and
print its probabilities. They take turns; a first turn that fills the disk cache is not counted.

Command: python benchmarks/cold_start.py
Takes: 1 minute.
"""

import subprocess
import sys
import time

from inference import trained_model
from record import ROOT, data_folder, record, spread

PAIRS = 9
PEER = ROOT / "benchmarks" / "peers" / "predict_with_torch.py"


def main() -> None:
    """Produce `cold-start.json`."""
    folder = trained_model()
    image = min((data_folder() / "brain-tumor-mri" / "Testing" / "glioma").iterdir())
    ours = ["-m", "braintumor", "predict", str(image), "--model", str(folder)]
    peer = [str(PEER), str(image), str(folder / "weights.safetensors")]
    turns = [(seconds(ours), seconds(peer)) for _ in range(PAIRS + 1)][1:]
    numbers = {
        "seconds": spread([mine for mine, _ in turns], "seconds"),
        "peer.seconds": spread([theirs for _, theirs in turns], "seconds"),
        "ratio": spread([theirs / mine for mine, theirs in turns], "ratio"),
    }
    record("cold-start", "python benchmarks/cold_start.py", numbers)


def seconds(arguments: list[str]) -> float:
    """Return the wall time of a Python program that must succeed."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
