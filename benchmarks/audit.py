"""How long the audit of the public set takes, how much memory, what it finds, and how right its duplicates are.

The audit is the whole command with an empty cache: 7,019 slices against 3,064 reference ones. Precision and recall are
those on the labelled pairs (`duplicate_labels.py`), the large set is that of `audit_large.py`; both are run before.

Takes: 3 minutes.
Command: python benchmarks/audit.py
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from record import RESULTS, data_folder, number, record

LABELLED = ("precision", "recall", "precision_weighted", "pairs")
LARGE = ("minutes", "images", "planted.recall", "peak_mib")


def main() -> None:
    """Produce `audit.json`."""
    data = data_folder()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "braintumor", "audit", str(data / "brain-tumor-mri")]
        command += ["--reference", str(data / "figshare"), "--out", f"{folder}/audit"]
        began = time.perf_counter()
        subprocess.run(command, env=os.environ | {"BRAINTUMOR_CACHE": f"{folder}/cache"}, check=True)
        seconds = time.perf_counter() - began
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        found = json.loads((Path(folder) / "audit" / "audit.json").read_text())
    numbers: dict[str, dict[str, Any]] = {
        "seconds": number(seconds, "seconds"),
        "peak_mib": number(peak, "MiB"),
        **earlier("duplicate-labels", LABELLED),
        **{f"large.{key}": entry for key, entry in earlier("audit-large", LARGE).items()},
    }
    numbers |= {f"found.{key}": number(value, "count") for key, value in counts(found).items()}
    for key in ("found.shortcut_accuracy", "found.shortcut_chance"):
        numbers[key]["unit"] = "fraction"
    record("audit", "python benchmarks/audit.py", numbers)


def earlier(name: str, keys: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Return numbers that another benchmark has recorded."""
    file = RESULTS / f"{name}.json"
    numbers = json.loads(file.read_text())["numbers"] if file.is_file() else {}
    return {key: numbers[key] for key in keys if key in numbers}


def counts(found: dict[str, Any]) -> dict[str, float]:
    """Return the plain counts of audit.json by dotted name."""
    flat: dict[str, float] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else key, inner)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            flat[prefix] = value

    for part, prefix in (("summary", ""), ("counts", ""), ("relations", "relations")):
        walk(prefix, found.get(part, {}))
    return flat


if __name__ == "__main__":
    main()
