"""What is said about the benchmarks is what was recorded, and every one can be run by its word."""

import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
BENCHMARKS = sorted(
    script
    for script in (ROOT / "benchmarks").glob("*.py")
    if script.name != "table.py" and "__main__" in script.read_text("utf-8")
)


@pytest.fixture
def table() -> ModuleType:
    specification = importlib.util.spec_from_file_location("table", ROOT / "benchmarks" / "table.py")
    assert specification
    assert specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def elsewhere(table: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the table that of a folder with one result, of which three numbers were asked for."""
    (tmp_path / "results").mkdir()
    speed = {"value": 1234.4, "low": 1000.0, "high": 2000.3, "n": 5, "unit": "images/s"}
    share = {"value": 0.98761, "low": None, "high": None, "n": None, "unit": "fraction"}
    result = {
        "command": "python benchmarks/it.py",
        "machine": {"cpu": "Some CPU", "cores": 2, "memory_gib": 23.5, "os": "An OS", "gpu": "Some GPU"},
        "date": "2026-01-02",
        "commit": "0123456789abcdef with changes",
        "numbers": {"speed": speed, "share": share},
    }
    (tmp_path / "results" / "it.json").write_text(json.dumps(result))
    (tmp_path / "results" / "it.report.json").write_text("{}")
    monkeypatch.setattr(table, "HERE", tmp_path)
    monkeypatch.setattr(table, "ASKED", {"it": {"speed": "≥ 1000", "share": "≥ 0.99", "memory": "≤ 3"}})


def test_the_readme_holds_the_recorded_numbers(table: ModuleType) -> None:
    assert table.README.read_text("utf-8") == table.page(), "run python benchmarks/table.py"


@pytest.mark.usefixtures("elsewhere")
def test_a_number_stands_with_its_range_and_what_was_asked_for(table: ModuleType) -> None:
    lines = list(table.numbers())
    assert lines[2].startswith(
        "| **it**: `python benchmarks/it.py`, machine A, 2026-01-02, commit 0123456 with changes |"
    )
    assert lines[3:6] == [
        "| `speed` | 1,234 | 1,000 | 2,000 | 5 | images/s | ≥ 1000, met |",
        "| `share` | 0.9876 |  |  |  | fraction | ≥ 0.99, **missed** |",
        "| `memory` |  |  |  |  |  | ≤ 3, not measured |",
    ]
    assert lines[-1] == "Machine A: Some CPU, 2 cores, 23.5 GiB, An OS, Some GPU."


@pytest.mark.parametrize(
    ("asked", "value", "verdict"),
    [("≥ 0.9", 0.9, "met"), ("≥ 0.9", 0.8999, "**missed**"), ("≤ 3", 3.0, "met"), ("≤ 3", 3.01, "**missed**")],
)
def test_a_bar_is_met_when_it_is_reached(table: ModuleType, asked: str, value: float, verdict: str) -> None:
    assert table.verdict(asked, value) == f"{asked}, {verdict}"


@pytest.mark.parametrize("script", BENCHMARKS, ids=lambda script: script.name)
def test_a_benchmark_says_its_command_and_how_long_it_takes(script: Path, table: ModuleType) -> None:
    text = script.read_text("utf-8")
    assert f"\nCommand: python benchmarks/{script.name}\n" in text
    takes = table.TAKES.findall(text)
    assert len(takes) == 1
    assert re.fullmatch(r"\d+ minutes?( on a GPU)?|long, .+", takes[0]), "see bench in the Makefile"


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_the_words_run_every_benchmark_and_the_short_ones_train_no_model() -> None:
    def scripts_of(word: str) -> list[str]:
        planned = subprocess.run(["make", "-n", word, "PYTHON=python"], cwd=ROOT, capture_output=True, text=True)
        assert planned.returncode == 0, planned.stderr
        return re.findall(r"python benchmarks/(\w+\.py)", planned.stdout)

    short, everything = scripts_of("bench"), scripts_of("bench-all")
    assert short[-1] == everything[-1] == "table.py"
    assert "predict_throughput.py" in short
    assert "official_reference.py" not in short
    needs_gpu = {script.name for script in BENCHMARKS if "on a GPU.\n" in script.read_text("utf-8")}
    assert {script.name for script in BENCHMARKS} - needs_gpu <= set(everything)
