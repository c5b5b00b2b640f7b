"""Which package may import which, as docs/development/architecture.md says; what only one of them may do."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import braintumor

SOURCE = Path(braintumor.__file__).parent
GROUND = {"braintumor", "classes", "download", "errors", "files", "intervals", "io", "overlay", "text"}
MAY_IMPORT = {
    "__main__": {"cli"},
    "braintumor": {"errors", "io", "models", "predictor"},
    "classes": set[str](),
    "download": {"errors", "files"},
    "errors": {"text"},
    "files": {"errors"},
    "intervals": set[str](),
    "io": {"classes", "errors", "files", "text"},
    "overlay": {"classes"},
    "text": set[str](),
    "dicom": GROUND,
    "models": GROUND,
    "data": GROUND | {"models"},
    "predictor": GROUND | {"models"},
    "volumes": GROUND | {"models", "predictor"},
    "dicom.results": GROUND | {"dicom", "models", "predictor"},
    "evaluate": GROUND | {"data", "models", "predictor"},
    "training": GROUND | {"data", "evaluate", "models", "predictor"},
    "pacs": GROUND | {"dicom", "dicom.results", "models", "predictor"},
    "server": GROUND | {"dicom.results", "models", "predictor"},
}
"""What each package, or module beside the packages, may import besides itself; the command line may import all."""
EXCEPTIONS = {
    ("io.read", "dicom"): "recognises DICOM, and imports its reader when a file is one",
    ("io.worker", "dicom"): "the confined process imports all readers before it sees a file",
}
EVALUATE_IN_TRAINING = {"calibration", "metrics"}
"""What the loop uses; cross-validation, which trains and reports, uses all of it."""
ONLY_IN_TRAINING = {"torch", "torchvision", "timm", "safetensors", "onnx"}
NETWORK = ("http.", "requests.", "socket.", "urllib.request.", "urllib3.")


def imports(file: Path) -> Iterator[str]:
    """Yield the dotted names that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def own(name: str) -> str:
    """Return the module that an imported name stands for: `data.split` for `braintumor.data.split.split`."""
    parts = name.split(".")[1:]
    while parts and ".".join(parts) not in MODULES:
        parts.pop()
    return ".".join(parts) or "braintumor"


def module_of(file: Path) -> str:
    """Return the name of a file's module inside the package, `braintumor` for the package's own."""
    parts = file.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "braintumor"


def package_of(module: str) -> str:
    """Return the name under which a module stands in the rules."""
    return "dicom.results" if module.startswith("dicom.results") else module.split(".")[0]


MODULES = {module_of(file): set(imports(file)) for file in SOURCE.rglob("*.py")}
GRAPH = {
    module: {own(name) for name in names if name.split(".")[0] == "braintumor"} - {module}
    for module, names in MODULES.items()
}


def broken_rules() -> list[str]:
    """Return the imports that no rule allows."""
    return [
        f"{module} -> {target}"
        for module, targets in GRAPH.items()
        if package_of(module) != "cli"
        for target in targets
        if package_of(target) not in {package_of(module), *MAY_IMPORT[package_of(module)]}
        and (module, package_of(target)) not in EXCEPTIONS
    ]


def test_packages_import_only_what_they_may() -> None:
    assert broken_rules() == []


def test_every_name_in_the_rules_exists_and_every_package_has_one() -> None:
    packages = {package_of(module) for module in MODULES} - {"cli"}
    assert set(MAY_IMPORT) == packages
    assert set.union(*MAY_IMPORT.values()) <= packages | {"cli"}
    assert {module for module, _ in EXCEPTIONS} <= set(MODULES)
    for module, package in EXCEPTIONS:
        assert any(package_of(target) == package for target in GRAPH[module]), f"{module}: no exception is needed"


def test_the_loop_takes_metrics_and_calibration_from_evaluation() -> None:
    taken = {
        target
        for module, targets in GRAPH.items()
        if module.startswith("training.") and module != "training.cross_validation"
        for target in targets
        if target.startswith("evaluate.")
    }
    assert taken == {f"evaluate.{name}" for name in EVALUATE_IN_TRAINING}


def test_there_are_no_cycles() -> None:
    assert set(TopologicalSorter(GRAPH).static_order()) >= set(MODULES)


@pytest.mark.parametrize(
    "folder", sorted(file.parent for file in SOURCE.rglob("__init__.py")), ids=lambda path: path.name
)
def test_a_package_imports_nothing_of_ours(folder: Path) -> None:
    module = module_of(folder / "__init__.py")
    assert module == "braintumor" or GRAPH[module] == set()


def test_only_training_sees_torch() -> None:
    seen = {module for module, names in MODULES.items() if {name.split(".")[0] for name in names} & ONLY_IN_TRAINING}
    assert {module for module in seen if package_of(module) != "training"} == set()
    assert "training.networks" in seen


def test_data_sets_are_read_without_a_network() -> None:
    seen = {module for module, names in MODULES.items() if any(f"{name}.".startswith(NETWORK) for name in names)}
    assert {module for module in seen if package_of(module) == "data"} == set()
    assert "download" in seen


def test_only_the_command_line_prints() -> None:
    printing = {
        module_of(file)
        for file in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    }
    assert {package_of(module) for module in printing} == {"cli"}


def test_only_dicom_and_archives_know_tags() -> None:
    knowing = {module for module, names in MODULES.items() if any(name.startswith("pydicom") for name in names)}
    assert {package_of(module) for module in knowing} <= {"dicom", "dicom.results", "pacs"}
