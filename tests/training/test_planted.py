"""Nothing that lies in the working folder is imported, loaded or obeyed: neither by a command nor by its children."""

import os
import shutil
import subprocess
import sys
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path

import pytest

from braintumor.data.phantom import write_phantoms
from braintumor.models.registry import BUNDLED, DEFAULT

# As the installed command is started: of a script's folder, not of the working folder, modules are imported.
COMMAND = (
    "import sys\nfrom braintumor.cli.main import main\nif __name__ == '__main__':\n    sys.exit(main(sys.argv[1:]))\n"
)
CHILDREN = """
from pathlib import Path
from braintumor.training.cross_validation import Log, side_by_side
if __name__ == "__main__":
    with side_by_side(2, 1) as pool:  # whatever a child is given to do, it first imports all that folds need
        print(len(list(pool.map(Log, [Path("a"), Path("b")]))))
"""
LOADED = """
import os
import braintumor.training.train
import braintumor.evaluate.report.report
maps = open("/proc/self/maps").read()
print([line for line in maps.splitlines() if os.getcwd() in line])
"""
OBEYED = "text.usetex: True\nbackend: module://planted\nfigure.hooks: planted:hook\nfont.size: 40\nlines.linewidth: 9\n"
CHARTS = """
import numpy as np
from braintumor.evaluate.report import plots
labels, probabilities = np.arange(40) % 4, np.random.default_rng(0).dirichlet(np.ones(4), 40)
print(plots.class_reliability(labels, probabilities) + plots.accuracy_coverage(labels, probabilities))
"""


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """Return a data folder with a module under every name that could be imported, each leaving a marker."""
    folder = tmp_path / "planted"
    write_phantoms(folder, 12, size=48)
    names = sys.stdlib_module_names | set(packages_distributions()) | {"braintumor", "sitecustomize", "usercustomize"}
    marking = f"open({str(tmp_path / 'ran')!r}, 'a').write(__name__ + chr(10))\n"
    for name in names:
        if name.isidentifier():
            (folder / f"{name}.py").write_text(marking)
    (folder / "matplotlibrc").write_text(OBEYED)
    library = find_spec("markupsafe._speedups")  # any that can be loaded
    assert library
    assert library.origin
    shutil.copy(library.origin, folder / "libcuda.so.1")
    return folder


def run(program: str, folder: Path, *arguments: str) -> str:
    """Run a program that lies elsewhere in a folder; return what it printed. No module planted there was imported."""
    script = folder.parent / "script.py"
    script.write_text(program)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    environment |= {"OMP_NUM_THREADS": "1", "BRAINTUMOR_CACHE": str(folder.parent / "cache")}
    command = [sys.executable, str(script), *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    marker = folder.parent / "ran"
    assert not marker.exists(), marker.read_text()
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_markers_work(planted: Path) -> None:
    subprocess.run([sys.executable, "-c", "import timm"], cwd=planted, capture_output=True, check=False)
    assert (planted.parent / "ran").exists()


@pytest.mark.slow
def test_children_that_train_folds_import_nothing_from_the_working_folder(planted: Path) -> None:
    assert run(CHILDREN, planted) == "2\n"


@pytest.mark.slow
def test_no_library_is_loaded_from_the_working_folder(planted: Path) -> None:
    assert run(LOADED, planted) == "[]\n"


@pytest.mark.slow
@pytest.mark.parametrize("content", [OBEYED.encode(), b"\xff\xfe not UTF-8"])
def test_charts_obey_no_settings_of_the_working_folder_or_the_user(planted: Path, content: bytes) -> None:
    (planted / "matplotlibrc").write_bytes(content)
    drawn = run(CHARTS, planted)
    (planted.parent / "empty").mkdir()
    assert drawn == run(CHARTS, planted.parent / "empty")
    assert "<svg" in drawn


@pytest.mark.slow
def test_an_evaluation_imports_and_obeys_nothing_of_the_folder_it_runs_in(planted: Path) -> None:
    output = run(COMMAND, planted, "evaluate", str(BUNDLED / DEFAULT), ".", "--out", "report", "--precision", "int8")
    assert "report: report/report.html" in output


@pytest.mark.slow
def test_training_imports_and_obeys_nothing_of_the_folder_it_runs_in(planted: Path) -> None:
    options = ("--model", "cnn", "--recipe", "fast", "--epochs", "1")
    assert "model folder: run" in run(COMMAND, planted, "train", "--data_dir", ".", *options, "--out", "run")
    assert "report: folds/evaluation" in run(COMMAND, planted, "folds", ".", *options, "--out", "folds", "--jobs", "2")
