"""How a benchmark is written down: numbers with the machine, command, date and commit that they belong to."""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from braintumor.files import write_text

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parent.parent
VECTOR_EXTENSIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
WEIGHTS = "weights/resnet18-imagenet-stem-to-layer3.safetensors"  # in the data folder


def data_folder() -> Path:
    """Return the folder named by BRAINTUMOR_DATA, or stop with what to set."""
    if "BRAINTUMOR_DATA" not in os.environ:
        sys.exit("set BRAINTUMOR_DATA to the folder that holds brain-tumor-mri/ and weights/")
    return Path(os.environ["BRAINTUMOR_DATA"]).resolve()


def number(
    value: float, unit: str, *, low: float | None = None, high: float | None = None, n: int | None = None
) -> dict[str, Any]:
    """Return one entry of a result file; low and high are a 95 % interval or, for timings, the range."""
    return {"value": value, "low": low, "high": high, "n": n, "unit": unit}


def spread(values: Sequence[float], unit: str) -> dict[str, Any]:
    """Return the median of repeated measurements with their range."""
    return number(statistics.median(values), unit, low=min(values), high=max(values), n=len(values))


def record(name: str, command: str, numbers: Mapping[str, Mapping[str, Any]]) -> None:
    """Write benchmarks/results/NAME.json and print the numbers."""
    result = {
        "name": name,
        "command": command,
        "machine": machine(),
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit(),
        "numbers": dict(numbers),
    }
    write_text(RESULTS / f"{name}.json", json.dumps(result, indent=2) + "\n")
    for key, entry in numbers.items():
        print(f"{name}: {key} = {entry['value']:.4g} {entry['unit']}")


def machine() -> dict[str, Any]:
    """Return what the numbers were measured on; no host name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    entries = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    processor = entries.get("model name") or platform.processor()
    vectors = [name for name in VECTOR_EXTENSIONS if name in entries.get("flags", "").split()]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    system = platform.freedesktop_os_release()["PRETTY_NAME"]
    return {
        "cpu": f"{processor} ({', '.join(vectors) or 'no known vector extensions'})",
        "cores": os.cpu_count(),
        "memory_gib": round(memory, 1),
        "os": system,
    }


def commit() -> str:
    """Return the commit that is checked out, marked where files in src/ differ from it."""
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", "src", "train.py"], cwd=ROOT, check=False)
    return head.stdout.strip() + (" with changes" if changed.returncode else "")
