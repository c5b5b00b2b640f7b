"""What the README of the benchmarks says: every script and every recorded number, written between its marker comments.

Command: python benchmarks/table.py
"""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
README = HERE / "README.md"
TAKES = re.compile(r"^Takes: (.+)\.$", re.MULTILINE)
COLUMNS = ("number", "value", "from", "to", "n", "unit", "asked for")

# What was asked for before it was measured: result -> number -> at least or at most.
ASKED: dict[str, dict[str, str]] = {
    "official-reference": {
        "cnn.accuracy": "≥ 0.912",
        "cnn.precision": "≥ 0.91",
        "cnn.recall": "≥ 0.90",
        "cnn.f1": "≥ 0.90",
        "cnn.minutes": "≤ 60",
        "resnet.accuracy": "≥ 0.964",
        "resnet.precision": "≥ 0.96",
        "resnet.recall": "≥ 0.96",
        "resnet.f1": "≥ 0.96",
        "resnet.minutes": "≤ 70",
    },
    "training-efficiency": {"resnet.ratio": "≥ 0.9", "peak_mib": "≤ 3072"},
    "predict-throughput": {"images_per_second": "≥ 40"},
    "official-fast": {
        "resnet.quick.accuracy": "≥ 0.964",
        "resnet.quick.minutes": "≤ 10",
        "cnn.quick.accuracy": "≥ 0.912",
        "cnn.quick.minutes": "≤ 6",
        "resnet.best.accuracy": "≥ 0.990",
        "cnn.best.accuracy": "≥ 0.980",
    },
    "peer-training": {"ratio_time": "≥ 3", "ratio_images": "≥ 1.5"},
    "augmentation": {"ratio": "≥ 3", "ratio_one_channel": "≥ 1"},
    "inference": {
        "int8.ratio": "≥ 2.5",
        "int8.accuracy_loss": "≤ 0.002",
        "float32.ratio": "≥ 1.2",
        "class_maps.overhead": "≤ 0.05",
        "class_maps.ratio": "≥ 8",
        "warm_milliseconds": "≤ 25",
        "folder.images_per_second": "≥ 100",
        "folder.peak_mib": "≤ 600",
    },
    "confinement": {"operations": "≥ 40", "allowed": "≤ 0", "decoded.failed": "≤ 0"},
    "depths": {"changed.max": "≤ 0.02"},
    "cold-start": {"seconds": "≤ 1.0", "ratio": "≥ 4"},
    "localisation": {
        "guided.pointing": "≥ 0.85",
        "guided.energy": "≥ 0.40",
        "guided.iou": "≥ 0.40",
    },
    "calibration": {"ece": "≤ 0.02", "int8.decision_agreement": "≥ 0.995"},
    "rejection": {
        **{
            f"{name}.{rate}": bar
            for name in ("spine-mri", "photographs", "noise", "blank", "text")
            for rate, bar in (("auroc", "≥ 0.99"), ("fpr95", "≤ 0.03"))
        },
        "refused_real": "≤ 0.01",
    },
    "audit": {
        "precision": "≥ 0.99",
        "recall": "≥ 0.97",
        "seconds": "≤ 60",
        "peak_mib": "≤ 1536",
        "large.minutes": "≤ 15",
    },
    "official-best": {"resnet.accuracy": "≥ 0.993", "cnn.accuracy": "≥ 0.985"},
    "folds": {"resnet.accuracy": "≥ 0.96", "cnn.accuracy": "≥ 0.945"},
    "figshare-folds": {"resnet.accuracy": "≥ 0.95"},
    "bundled": {"mib": "≤ 6"},
    "install": {"use_mib": "≤ 300", "hospital_mib": "≤ 400"},
    "serve": {
        "ready_seconds": "≤ 2",
        "page_kib": "≤ 150",
        "drop_to_map_milliseconds": "≤ 300",
        "load.errors": "≤ 0",
        "load.ok_per_second": "≥ 20",
        "load.p99_seconds": "≤ 3",
        "bombs.seconds": "≤ 1",
        "bombs.peak_mib": "≤ 600",
        "fuzz.inputs": "≥ 10000",
        "fuzz.failures": "≤ 0",
        "slow.clients": "≥ 500",
    },
    "dicom": {"fuzz.inputs": "≥ 5000", "fuzz.failures": "≤ 0", "dciodvfy.errors": "≤ 0"},
    "dicom-watch": {
        "images": "≥ 500",
        "images_per_second": "≥ 10",
        "kills": "≥ 20",
        "lost": "≤ 0",
        "doubled": "≤ 0",
    },
    "data-profile": {"manifest.seconds": "≤ 30", "duplicates.seconds": "≤ 30", "report.seconds": "≤ 30"},
}


def page() -> str:
    """Return the text of the README with the scripts and numbers of now."""
    text = README.read_text("utf-8")
    for marker, lines in (("scripts", scripts()), ("numbers", numbers())):
        start, end = f"<!-- {marker} -->\n", f"<!-- end of {marker} -->\n"
        before, rest = text.split(start)
        text = "\n".join([before + start, *lines, "", end + rest.split(end)[1]])
    return text


def scripts() -> Iterator[str]:
    """Yield the table of the scripts: the first line of each one's docstring, and how long it takes."""
    yield from ("| script | what it measures | takes |", "|---|---|---|")
    for script in sorted(HERE.glob("*.py")):
        said = ast.get_docstring(ast.parse(script.read_text("utf-8"))) or ""
        if takes := TAKES.search(said):
            yield f"| `{script.name}` | {said.splitlines()[0].rstrip('.')} | {takes[1]} |"


def numbers() -> Iterator[str]:
    """Yield the table of all numbers, a line in bold above those of each result, and the machines below."""
    results = {file.stem: json.loads(file.read_text("utf-8")) for file in sorted((HERE / "results").glob("*.json"))}
    results = {name: result for name, result in results.items() if "numbers" in result}
    machines = list(dict.fromkeys(machine(result) for result in results.values()))
    yield from (row(*COLUMNS), row("---", *["---:"] * 4, "---", "---"))
    for name in sorted({*results, *ASKED}):
        found = results.get(name, {"numbers": {}})
        yield heading(name, found, machines)
        asked = ASKED.get(name, {})
        for key, entry in found["numbers"].items():
            cells = (plain(entry.get(column)) for column in ("value", "low", "high", "n"))
            yield row(f"`{key}`", *cells, entry["unit"], verdict(asked.get(key), entry["value"]))
        for key in [key for key in asked if key not in found["numbers"]]:
            yield row(f"`{key}`", *[""] * 5, f"{asked[key]}, not measured")
    yield ""
    yield from (f"Machine {letter(index)}: {machine}." for index, machine in enumerate(machines))


def machine(result: dict[str, Any]) -> str:
    """Return what a result was measured on, in words."""
    known = {"cpu": "{}", "cores": "{} cores", "memory_gib": "{} GiB", "os": "{}"}
    return ", ".join(known.get(key, "{}").format(value) for key, value in result["machine"].items())


def letter(index: int) -> str:
    """Return the letter that stands for a machine."""
    return chr(ord("A") + index)


def heading(name: str, result: dict[str, Any], machines: list[str]) -> str:
    """Return the line above the numbers of a result: command, date, commit and machine."""
    if "command" not in result:
        return row(f"**{name}**", *[""] * 6)
    commit, _, changes = result["commit"].partition(" ")
    where = f"machine {letter(machines.index(machine(result)))}"
    when = f"{result['date']}, commit {commit[:7]} {changes}".strip()
    return row(f"**{name}**: `{result['command']}`, {where}, {when}", *[""] * 6)


def row(*cells: str) -> str:
    """Return one line of a table."""
    return f"| {' | '.join(cells)} |"


def plain(value: float | None) -> str:
    """Return a number with four digits, more before the point if it has them; nothing for None."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def verdict(asked: str | None, value: float) -> str:
    """Return what was asked for and whether the value meets it; nothing where nothing was asked for."""
    if asked is None:
        return ""
    sign, bar = asked.split()
    met = value >= float(bar) if sign == "≥" else value <= float(bar)
    return f"{asked}, {'met' if met else '**missed**'}"


if __name__ == "__main__":
    README.write_text(page(), encoding="utf-8")
