import dataclasses
import importlib.util
import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import braintumor
from braintumor.data.audit import AuditResult
from braintumor.data.duplicates.groups import GroupRow
from braintumor.data.manifest import Row
from braintumor.data.phantom import write_phantoms
from braintumor.evaluate.compare import ComparedModel, Comparison, Difference, McNemar
from braintumor.models.preprocess import Preprocess
from braintumor.models.session import Card
from braintumor.predictor import COLUMNS

ROOT = Path(__file__).parent.parent
SOURCE = Path(braintumor.__file__).parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
REFERENCE = ROOT / "docs" / "reference" / "cli.md"
REPORTS = sorted((ROOT / "benchmarks" / "results").glob("folds-*.report.json"))
BLOCK = re.compile(r"^(<!-- test -->\n)?```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def prose(page: Path) -> str:
    return BLOCK.sub("", page.read_text("utf-8"))


def blocks(page: Path, language: str) -> list[tuple[bool, str]]:
    return [
        (bool(marked), code) for marked, tongue, code in BLOCK.findall(page.read_text("utf-8")) if tongue == language
    ]


def commands(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the command and its words for every line of a console block that calls the program."""
    for _, text in blocks(page, "console"):
        for line in re.findall(r"^\$ (?:python train\.py|braintumor) .*$", text, re.MULTILINE):
            words = shlex.split(line.removeprefix("$ "), comments=True)
            yield ("train", words[2:]) if words[0] == "python" else (words[1], words[2:])


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    specification = importlib.util.spec_from_file_location("generate_cli", ROOT / "docs" / "generate_cli.py")
    assert specification
    assert specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_the_command_line_reference_is_what_the_program_says(generator: ModuleType) -> None:
    assert REFERENCE.read_text("utf-8") == generator.page(), "run make docs"


def test_the_reference_does_not_depend_on_the_terminal(generator: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    before = generator.page()
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert generator.page() == before
    assert not re.search(r"[\u2500-\u257f\x1b]", before)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        destination = (page.parent / path).resolve() if path else page
        assert destination.exists(), f"{target} does not exist"
        assert not anchor or anchor in anchors(destination), f"{target}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_option_shown_exists(page: Path) -> None:
    reference = REFERENCE.read_text("utf-8")
    for command, words in commands(page):
        if words and f"\n## braintumor {command} {words[0]}\n" in reference:
            command = f"{command} {words[0]}"
        assert f"\n## braintumor {command}\n" in reference, f"no command {command}"
        section = reference.split(f"\n## braintumor {command}\n")[1].split("\n## ")[0]
        for option in (word for word in words if word.startswith("--")):
            known = re.findall(r"--[\w-]+", section)
            assert option.replace("_", "-") in known, f"{command} has no option {option}"


@pytest.mark.parametrize("record", [AuditResult, Card, ComparedModel, Comparison, Difference, GroupRow, McNemar, Row])
def test_every_field_of_a_published_file_is_documented(record: type) -> None:
    fields = {field.name for field in dataclasses.fields(record)}
    not_written = {"rows"} if record is AuditResult else set()
    assert fields - not_written <= documented("files")


def test_every_column_and_every_part_of_a_report_is_documented() -> None:
    parts = {part for report in REPORTS for part in json.loads(report.read_text("utf-8"))}
    assert REPORTS
    assert {*COLUMNS, *parts} <= documented("files")


def test_every_public_name_is_documented() -> None:
    assert set(braintumor.__all__) <= documented("python")


def test_the_architecture_page_names_every_module_in_its_package() -> None:
    page = (ROOT / "docs" / "development" / "architecture.md").read_text("utf-8")
    rows = re.findall(
        r"^\| `?([a-z.]+)`? \|(.+)$", page.partition("## Packages")[2].partition("\n## ")[0], re.MULTILINE
    )
    named = {f"{package}.{name}" for package, row in rows for name in re.findall(r"`([a-z_0-9]+)`", row)}
    files = [file.relative_to(SOURCE) for file in SOURCE.rglob("*.py") if not file.name.startswith("__")]
    modules = {f"{'.'.join(file.parts[:-1]) or 'top'}.{file.stem}" for file in files}
    assert modules == named


def documented(page: str) -> set[str]:
    """Return what stands as code in a page of the reference."""
    return set(re.findall(r"`([^`\n]+)`", prose(ROOT / "docs" / "reference" / f"{page}.md")))


def test_every_page_can_be_reached_from_the_index() -> None:
    index = ROOT / "docs" / "index.md"
    linked = {
        (index.parent / target).resolve() for target in re.findall(r"\]\(([^)]+\.md)\)", index.read_text("utf-8"))
    }
    assert {page for page in PAGES if ROOT / "docs" in page.parents} - linked == {index}


@pytest.mark.usefixtures("shared_decoders")
@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(marked for marked, _ in blocks(page, "python"))], ids=name_of
)
def test_python_shown_runs(page: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    names: dict[str, object] = {}
    for marked, code in blocks(page, "python"):
        if marked:
            exec(code.replace("per_class=300", "per_class=2"), names)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the pages speak of, and with two models."""
    folder = tmp_path_factory.mktemp("docs")
    write_phantoms(folder / "phantoms", per_class=2, size=64)
    (folder / "slices").mkdir()
    slices = sorted((folder / "phantoms").rglob("*.png"))
    for slice_file in slices:
        os.link(slice_file, folder / "slices" / slice_file.name)
    os.link(slices[0], folder / "slice.png")
    for model in ("cnn", "resnet"):
        write_model(folder / "runs" / f"{model}-reference")
    return folder


def write_model(folder: Path) -> None:
    """Write a model folder whose four logits are the mean grey values of the slice's quarters."""
    pool = helper.make_node("AveragePool", ["image"], ["quarters"], kernel_shape=[32, 32], strides=[32, 32])
    flat = helper.make_node("Flatten", ["quarters"], ["logits"])
    maps = helper.make_node("Mul", ["quarters", "ones"], ["class_maps"])
    ood_score = helper.make_node("ReduceMean", ["image"], ["ood_score"], axes=[1, 2, 3], keepdims=0)
    graph = helper.make_graph(
        [pool, flat, maps, ood_score],
        "quarters",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, 64, 64])],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 4]),
            helper.make_tensor_value_info("class_maps", TensorProto.FLOAT, ["N", 4, 2, 2]),
            helper.make_tensor_value_info("ood_score", TensorProto.FLOAT, ["N"]),
        ],
        [numpy_helper.from_array(np.ones((1, 4, 2, 2), np.float32), "ones")],
    )
    folder.mkdir(parents=True)
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=9), folder / "model.onnx")
    card = Card("quarters", "1", "quarters", Preprocess(64), class_map_scale=1.0, package_version="0")
    (folder / "card.json").write_text(card.to_json())


def test_the_readme_is_short_and_says_what_this_is_not() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(text.splitlines()) < 120
    assert "Not a medical device" in text


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_page_is_left_unfinished(page: Path) -> None:
    assert "TODO" not in page.read_text("utf-8")


def test_changelog_and_citation_name_this_version() -> None:
    assert f"\n## [{braintumor.__version__}]" in (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert f"\nversion: {braintumor.__version__}\n" in (ROOT / "CITATION.cff").read_text("utf-8")
