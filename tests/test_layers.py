"""Which module may import which: docs of the architecture, enforced."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import braintumor

SOURCE = Path(braintumor.__file__).parent
LAYERS = (
    "text errors classes referral files confinement dicom dicom.start web.settings web.shares web.answers "
    "web.reference",
    "web.pace web.pieces scan grey square preprocess card decision data.manifest data.split data.phantom "
    "data.orientations data.download data.unzip data.matlab evaluate.metrics evaluate.intervals "
    "dicom.codes dicom.quiet nifti_axes training.settings",
    "web.protocol defects deep model nifti dicom.attributes dicom.origin dicom.codestream "
    "dicom.exchange dicom.multipart dicom.stow data.layout data.figshare "
    "evaluate.reject evaluate.model_card evaluate.charts evaluate.pages evaluate.planes",
    "dicom.parse dicom.display dicom.scope dicom.frames dicom.series",
    "dicom.read",
    "read zoo overlay web.guard web.uploads web.forms "
    "evaluate.calibrate data.miniatures data.structure data.neighbours data.kaggle "
    "training.networks training.augment training.recipe training.integers",
    "data.duplicates data.alignment data.reference data.groups data.outlines data.contact_sheet "
    "training.export training.sanity training.loader training.checkpoint "
    "training.weights training.artefact training.schedule training.start training.hardware training.board "
    "data.quality data.copies data.crossing data.shortcuts "
    "predictor sandbox child untrusted decoder braintumor evaluate.faithful evaluate.localise evaluate.decisions "
    "web.numbers evaluate.compare evaluate.gallery evaluate.leakage",
    "training.quantize training.train data.audit archive volumes dicom.case dicom.pacs dicom.retry dicom.stop "
    "dicom.study evaluate.report",
    "training.folds evaluate.pooled evaluate.audit_page terminal paths dicom.report dicom.journal dicom.news "
    "dicom.searches",
    "dicom.write dicom.outgoing",
    "dicom.files dicom.incoming",
    "dicom.watch web.results",
    "web.desk",
    "web.counter",
    "web.app",
    "cli web.server",
    "__main__",
)
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names.split()}
PACKAGES = {file.parent.name for file in SOURCE.glob("*/__init__.py")}
ONLY_IN_TRAINING = {"torch", "torchvision", "timm", "safetensors", "onnx"}


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


MODULES = {module_of(file): set(imports(file)) for file in SOURCE.rglob("*.py")}
GRAPH = {
    module: {own(name) for name in names if name.split(".")[0] == "braintumor"} - {module}
    for module, names in MODULES.items()
}


@pytest.mark.parametrize("module", sorted(GRAPH))
def test_imports_point_to_the_same_or_a_lower_layer(module: str) -> None:
    if module in PACKAGES:
        assert GRAPH[module] == set(), "the __init__.py of a folder imports nothing"
        return
    assert module in LAYER, "a new module: give it a layer"
    assert {name for name in GRAPH[module] if LAYER.get(name, 9) > LAYER[module]} == set()


def test_there_are_no_cycles() -> None:
    assert set(TopologicalSorter(GRAPH).static_order()) >= set(MODULES)


def test_only_main_imports_the_command_line() -> None:
    assert {module for module, names in GRAPH.items() if "cli" in names} == {"__main__"}


def test_only_training_sees_torch() -> None:
    seen = {module for module, names in MODULES.items() if {name.split(".")[0] for name in names} & ONLY_IN_TRAINING}
    assert {module for module in seen if module.split(".")[0] != "training"} == set()
    assert "training.networks" in seen
