"""File names that forge lines, control a terminal or are formulas: no command prints them as they are."""

import csv
import io
import json
import re
import shutil
from pathlib import Path

import pytest

from braintumor.cli.main import main
from braintumor.cli.output import Bar
from braintumor.data.duplicates.groups import read_groups
from braintumor.data.manifest import Manifest, Row, read_manifest, write_manifest
from braintumor.evaluate.report.html import visible_value, write_csv
from braintumor.text import from_cell
from tests.dicom import make

pytestmark = pytest.mark.usefixtures("shared_decoders")

FORGED = "b\nscan2.png: Glioma   glioma 1.000"
NAMES = (
    "a\x1b]0;OWNED\x07a\x1b[2J\x1b[31mFAKE.png",
    f"{FORGED}.png",
    "c\r\x1b[Kclean.png: No tumor.png",
    "d\u202egnp.png",
    "e\x9b31m.png",
    "f\x7f\u2028\u2066.png",
    "g:skull: [red]x.png",
    "=cmd|' 'calc'!A0.png",
    "+1+1.png",
    "-1+1.png",
    "@SUM(1+1).png",
    "\t=1+1.png",
    "'=1.png",
    r"h\x1b.png",
)
ACTING = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
FORMULA = re.compile(r"\s*[=+\-@\t\r]")


def status_of(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def check(told: str) -> None:
    """Assert that a text holds no character that acts, and no line that a name has forged."""
    assert ACTING.findall(told) == []
    assert not re.search(r"^scan2\.png|^FAKE|^clean", told, re.MULTILINE)


@pytest.fixture
def hostile(tmp_path: Path, slices: list[Path]) -> Path:
    """Return a folder of slices, files that cannot be read and a DICOM file, of these names."""
    folder = tmp_path / "hostile"
    folder.mkdir()
    for name in NAMES:
        shutil.copy(slices[0], folder / name)
        (folder / name.replace(".png", "-bad.png")).write_bytes(b"no image")
    (folder / f"{FORGED}.dcm").write_bytes(make.encoded(make.mr(number=1)))
    return folder


@pytest.mark.parametrize("form", ["text", "json"])
def test_answers_hold_no_character_that_acts(
    hostile: Path, model_folder: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    assert status_of("predict", hostile, "--model", model_folder, "--format", form) == 3
    told = capsys.readouterr()
    check(told.out + told.err)
    if form == "text":
        assert r"a\x1b]0;OWNED\x07a\x1b[2J\x1b[31mFAKE.png: " in told.out
        assert told.err.count("unreadable: ") == len(NAMES)
        assert len(told.out.splitlines()) == len(NAMES) + 2
    else:
        images = {Path(entry["image"]).name for entry in json.loads(told.out)["predictions"] if "label" in entry}
        assert set(NAMES) <= images  # exact, since JSON escapes


def test_csv_holds_no_formula_and_no_line_break(
    hostile: Path, model_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(hostile)
    assert main(["predict", "--model", str(model_folder), "--format", "csv", "."]) == 3
    told = capsys.readouterr()
    check(told.out + told.err)
    header, *rows = csv.reader(io.StringIO(told.out))
    assert len(told.out.splitlines()) == len(rows) + 1 == len(NAMES) + 2
    assert not [cell for row in rows for cell in row if FORMULA.match(cell) and not re.fullmatch(r"[-\d.e]+", cell)]
    assert set(NAMES) <= {from_cell(row[header.index("image")]) for row in rows}


def test_explanations_say_no_character_that_acts(
    hostile: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of("explain", hostile, "--model", model_folder, "--out", tmp_path / "out\x1b[2J") == 3
    told = capsys.readouterr()
    check(told.out + told.err)
    assert told.out.count(r"out\x1b[2J") == len(NAMES) + 1


def test_dicom_results_are_told_without_a_character_that_acts(
    hostile: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of("dicom", "classify", hostile, "--model", model_folder, "--out", tmp_path / "out") == 3
    told = capsys.readouterr()
    check(told.out + told.err)
    assert r"b\x0ascan2.png" in told.out


def test_audits_and_contact_sheets_tell_no_character_that_acts(
    phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sklearn")
    data = Path(shutil.copytree(phantoms, tmp_path / "data"))
    first = next((data / "Training" / "glioma").iterdir())
    for name in NAMES:
        shutil.copy(first, data / "Training" / "glioma" / name)
        (data / "Training" / "glioma" / name.replace(".png", "-bad.png")).write_bytes(b"no image")
    assert status_of("audit", data, "--out", tmp_path / "audit") == 0
    assert status_of("data", "show", data, "--out", tmp_path / "sheet.png") == 3
    told = capsys.readouterr()
    check(told.out + told.err)
    check((tmp_path / "audit" / "audit.html").read_text())
    text = (tmp_path / "audit" / "groups.csv").read_text()
    check(text)
    assert set(NAMES) <= {Path(row.image).name for row in read_groups(tmp_path / "audit" / "groups.csv")}


@pytest.mark.parametrize(
    "arguments",
    [
        ("predict", "NAME"),
        ("predict", "--NAME"),
        ("NAME",),
        ("explain", "x.png", "--class", "NAME"),
        ("predict", "x.png", "--slices", "NAME"),
        ("predict", "x.png", "--model", "NAME"),
        ("predict", "x.png", "--model", "./NAME"),
        ("models", "add", "NAME"),
        ("models", "get", "NAME", "--sha256", "0" * 64),
        ("models", "get", "http://NAME/", "--sha256", "NAME"),
        ("audit", "NAME"),
        ("data", "show", "NAME"),
        ("compare", "NAME", "NAME"),
        ("evaluate", "NAME", "NAME"),
        ("dicom", "classify", "NAME"),
        ("train", "--data_dir", "NAME", "--model", "cnn"),
        ("train", "--data_dir", "x", "--model", "NAME"),
        ("train", "--data_dir", "x", "--model", "cnn", "--recipe", "NAME"),
        ("serve", "--host", "NAME"),
    ],
)
@pytest.mark.parametrize("name", NAMES[:6])
def test_refused_arguments_are_told_without_a_character_that_acts(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    name: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        status = main([argument.replace("NAME", name) for argument in arguments])
    except SystemExit as ending:
        status = ending.code
    told = capsys.readouterr()
    check(told.out + told.err)
    assert status in (2, 3)


def test_progress_shows_what_came_and_no_markup_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    with Bar("training") as bar:
        for name in NAMES:
            bar.say(f"left out {name}: damaged")
    told = capsys.readouterr().out
    check(told)
    assert len(told.splitlines()) == len(NAMES)
    assert "left out g:skull: [red]x.png: damaged" in told


def test_a_manifest_holds_no_formula_and_reads_back(tmp_path: Path) -> None:
    rows = tuple(Row(name, "glioma", patient=name, group=name, split="test") for name in NAMES)
    write_manifest(Manifest(tmp_path, rows), tmp_path / "manifest.csv")
    text = (tmp_path / "manifest.csv").read_text()
    check(text)
    assert not [cell for row in csv.reader(io.StringIO(text)) for cell in row if FORMULA.match(cell)]
    assert read_manifest(tmp_path / "manifest.csv", tmp_path).rows == rows


def test_tables_of_reports_hold_no_formula(tmp_path: Path) -> None:
    write_csv(tmp_path / "predictions.csv", ("image", "p"), [(name, -0.5) for name in NAMES])
    text = (tmp_path / "predictions.csv").read_text()
    check(text)
    rows = list(csv.reader(io.StringIO(text)))[1:]
    assert [from_cell(row[0]) for row in rows] == list(NAMES)
    assert not [row for row in rows if FORMULA.match(row[0])]
    assert {row[1] for row in rows} == {"-0.5"}


def test_pages_show_the_characters_of_names() -> None:
    assert visible_value("d\u202egnp") == r"d\u202egnp"
