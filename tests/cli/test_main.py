"""What the commands print, write and return."""

import csv
import errno
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, get_args

import numpy as np
import pytest
from PIL import Image

import braintumor
from braintumor.classes import CLASSES, DISCLAIMER, TITLES
from braintumor.cli.main import GROUPS, Command, main
from braintumor.cli.paths import UniqueNames
from braintumor.data.layout import list_images
from braintumor.data.manifest import Manifest, write_manifest
from braintumor.models.session import Model, load_folder
from braintumor.predictor import predict

ROOT = Path(__file__).parents[2]
HEADER = (
    "image,label,predicted,decision,reason_codes,reasons,p_glioma,p_meningioma,p_pituitary,p_no_tumor,model,"
    "ood_score,prediction_set,notes,volume,slice"
)
COLUMNS = HEADER.split(",")


def status_of(*arguments: object) -> int:
    """Return the exit status of a command."""
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as end:
        return int(end.code or 0)


def run(command: Sequence[object], folder: Path = ROOT) -> subprocess.CompletedProcess[bytes]:
    """Run a Python command in a process of its own."""
    return subprocess.run([sys.executable, *map(str, command)], cwd=folder, capture_output=True, check=False)


PEER_GONE = """
import resource, socket
from braintumor.cli import main as cli

def main() -> int:
    ours, theirs = socket.socketpair()
    theirs.close()
    try:
        ours.sendall(b"x")
    except BrokenPipeError:
        return 7 if resource.getrlimit(resource.RLIMIT_CORE) == (0, 0) else 8

cli.main = main
cli.script()
"""


def test_a_peer_that_goes_away_does_not_end_the_program_and_a_crash_would_dump_no_memory() -> None:
    assert run(["-c", PEER_GONE]).returncode == 7


def test_a_closed_pipe_ends_quietly(slices: list[Path], model_folder: Path) -> None:
    command = [sys.executable, "-m", "braintumor", "predict", *map(str, slices[:2]), "--model", str(model_folder)]
    for arguments in (command, [*command[:3], "--help"]):
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
            assert process.stdout
            assert process.stderr
            process.stdout.close()
            assert process.stderr.read() == b""
        assert process.returncode == 141


@pytest.fixture
def mixed(tmp_path: Path, slices: list[Path]) -> Path:
    """Return a folder with two slices and a damaged file between them."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    for name, file in (("a.png", slices[0]), ("c.png", slices[5])):
        (folder / name).write_bytes(file.read_bytes())
    (folder / "b.jpg").write_bytes(b"hello")
    (folder / "notes.txt").write_text("not an image")
    return folder


def test_text_answers_name_class_and_probabilities(
    slices: list[Path], model_folder: Path, model: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of("predict", slices[0], "--model", model_folder) == 0
    first, last = capsys.readouterr().out.splitlines()
    [answer] = predict(slices[0], model)
    shares = "  ".join(f"{name} {share:.3f}" for name, share in zip(CLASSES, answer.probabilities, strict=True))
    assert first == f"{slices[0]}: {TITLES[answer.predicted]:<15}  {shares}"
    assert last == f"tiny 1.2. {DISCLAIMER}"


def test_csv_answers_have_the_columns_of_predictions_csv(
    slices: list[Path], model_folder: Path, model: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of("predict", *slices[:2], "--model", model_folder, "--format", "csv") == 0
    output = capsys.readouterr()
    header, *rows = csv.reader(output.out.splitlines())
    assert header == COLUMNS
    for row, answer in zip(rows, predict(slices[:2], model), strict=True):
        assert row[:6] == [answer.image, "", answer.predicted, answer.predicted, "", ""]
        assert [float(value) for value in row[6:10]] == pytest.approx(answer.probabilities.tolist(), abs=1e-6)
        assert row[10] == "tiny 1.2"
    assert DISCLAIMER in output.err


def test_json_answers_have_the_same_names(
    slices: list[Path], model_folder: Path, model: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of("predict", slices[0], slices[1], "--model", model_folder, "--format", "json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["model"], answer["disclaimer"]) == ("tiny 1.2", DISCLAIMER)
    names = [name for name in COLUMNS if name != "reason_codes"]
    assert [list(entry) for entry in answer["predictions"]] == [names, names]
    assert [entry["image"] for entry in answer["predictions"]] == [str(slices[0]), str(slices[1])]
    assert answer["predictions"][0]["p_glioma"] == pytest.approx(
        predict(slices[0], model)[0].probabilities[0], abs=1e-6
    )


def test_answers_are_withheld_at_the_wished_operating_point(
    tmp_path: Path, slices: list[Path], model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(model_folder, tmp_path / "model"))
    card = json.loads((folder / "card.json").read_text())
    points = [{"coverage": share, "confidence": least, "error": 0.0} for share, least in ((1.0, 0.0), (0.9, 1.1))]
    sets = {"0.1": [1.0, 1.0, 0.0, 0.0]}
    card["rejection"] = {"float32": {"ood_threshold": 1e9, "far_ood_threshold": 2e9, "points": points, "sets": sets}}
    (folder / "card.json").write_text(json.dumps(card))
    assert status_of("predict", slices[0], "--model", folder, "--coverage", "1") == 0
    assert "refer" not in capsys.readouterr().out
    assert status_of("predict", slices[0], "--model", folder, "--coverage", "0.9", "--set-error", "0.1") == 0
    output = capsys.readouterr().out
    assert "refer (uncertain between" in output
    assert "one of: glioma, meningioma" in output
    assert status_of("predict", slices[0], "--model", folder, "--max_error", "-1") == 2
    assert "errs on at most -1 of the answers" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["text", "csv", "json"])
def test_unreadable_files_are_named_and_the_others_answered(
    mixed: Path, model_folder: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    assert status_of("predict", mixed, "--model", model_folder, "--format", kind) == 3
    output = capsys.readouterr()
    for name in ("a.png", "c.png"):
        assert output.out.count(str(mixed / name)) == 1
    reason = "not a readable PNG, JPEG, TIFF, BMP, DICOM or NIfTI file"
    assert f"unreadable: {mixed / 'b.jpg'}: {reason}\n1 file(s) could not be read" in output.err.replace(
        f"tiny 1.2. {DISCLAIMER}\n", ""
    )
    if kind == "json":
        assert json.loads(output.out)["predictions"][1] == {
            "image": str(mixed / "b.jpg"),
            "error": {"code": "unknown_format", "text": reason},
        }


def test_only_unreadable_files_still_give_valid_output(
    tmp_path: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "missing.png"
    assert status_of("predict", missing, "--model", model_folder, "--format", "json") == 3
    assert json.loads(capsys.readouterr().out)["predictions"] == [
        {"image": str(missing), "error": {"code": "cannot_open", "text": "no such file or directory"}}
    ]
    assert status_of("predict", missing, "--model", model_folder, "--format", "csv") == 3
    assert capsys.readouterr().out == HEADER + "\n"


def test_a_file_in_a_folder_that_cannot_be_opened_is_not_left_out_silently(
    tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    locked = tmp_path / "IM0003"
    locked.write_bytes(b"\0" * 128 + b"DICM")
    (tmp_path / "empty").touch()
    usual = Path.open

    def refused(file: Path, *arguments: Any, **named: Any) -> IO[Any]:
        if file == locked:
            raise PermissionError(errno.EACCES, "Permission denied", str(file))
        stream: IO[Any] = usual(file, *arguments, **named)
        return stream

    monkeypatch.setattr(Path, "open", refused)

    assert status_of("predict", tmp_path, "--model", model_folder) == 3
    assert f"unreadable: {locked}: permission denied\n" in capsys.readouterr().err


def test_a_name_that_is_too_long_is_said(model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of("predict", f"{'y' * 300}.dcm", "--model", model_folder) == 3
    assert "y.dcm: file name too long\n" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["predict", "explain"])
def test_bad_input_is_said_in_one_line(
    tmp_path: Path, slices: list[Path], model_folder: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert status_of(command, slices[0], "--model", tmp_path / "none") == 2
    message = f"braintumor: no model in {tmp_path / 'none'}: card.json is missing; name a folder written by"
    assert capsys.readouterr().err.startswith(message)
    assert status_of(command, tmp_path, "--model", model_folder) == 2
    assert "braintumor: no images found; name PNG, JPEG, TIFF, BMP, DICOM or NIfTI files" in capsys.readouterr().err


def test_wrong_usage_exits_2(slices: list[Path], model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of("explain", slices[0], "--model", model_folder, "--class", "astrocytoma") == 2
    assert "astrocytoma" in capsys.readouterr().err
    assert status_of("predict", "--model", model_folder) == 2
    assert status_of("diagnose") == 2


def test_explain_writes_an_overlay_and_the_raw_map(
    tmp_path: Path, slices: list[Path], model_folder: Path, model: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of("explain", slices[0], "--model", model_folder, "--out", tmp_path / "out") == 0
    [answer] = predict(slices[0], model)
    name = slices[0].stem
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [f"{name}.npy", f"{name}.png"]
    class_map = np.load(tmp_path / "out" / f"{name}.npy")
    np.testing.assert_array_equal(class_map, answer.class_maps[CLASSES.index(answer.predicted)])
    with Image.open(tmp_path / "out" / f"{name}.png") as page:
        assert page.size == (968, 600)
    first, last = capsys.readouterr().out.splitlines()
    title = TITLES[answer.predicted]
    assert first == f"{slices[0]}: {title}; evidence for {title} -> {tmp_path / 'out' / name}.png"
    assert last == f"tiny 1.2. {DISCLAIMER}"


def test_explain_shows_the_class_asked_for(
    tmp_path: Path, slices: list[Path], model_folder: Path, model: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of("explain", slices[0], "--model", model_folder, "--out", tmp_path, "--class", "no_tumor") == 0
    found = np.load(tmp_path / f"{slices[0].stem}.npy")
    np.testing.assert_array_equal(found, predict(slices[0], model)[0].class_maps[3])
    assert "evidence for No tumor" in capsys.readouterr().out


def test_slices_of_one_name_do_not_overwrite_each_other(
    tmp_path: Path, slices: list[Path], model_folder: Path, model: Model
) -> None:
    for folder, file in (("a", slices[0]), ("b", slices[9])):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1.png").write_bytes(file.read_bytes())
    assert status_of("explain", tmp_path / "a", tmp_path / "b", "--model", model_folder, "--out", tmp_path / "out") == 0
    for name, file in (("1", slices[0]), ("1-2", slices[9])):
        [answer] = predict(file, model)
        expected = answer.class_maps[CLASSES.index(answer.predicted)]
        np.testing.assert_allclose(np.load(tmp_path / "out" / f"{name}.npy"), expected, atol=1e-5 * expected.max())


def test_output_names_are_never_repeated() -> None:
    names = UniqueNames()
    taken = [names.take(path) for path in ("a/x.png", "b/x.png", "c/x-2.png", "d/x.jpg", "x.2.png", "e/x.2.bmp")]
    assert taken == ["x", "x-2", "x-2-2", "x-3", "x.2", "x.2-2"]


def test_explain_never_overwrites_the_images_it_explains(
    mixed: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {file: file.read_bytes() for file in mixed.iterdir()}
    assert status_of("explain", mixed.parent, "--model", model_folder, "--out", mixed) == 2
    assert "holds images that are read, which could be overwritten" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in mixed.iterdir()} == before


def test_a_folder_that_cannot_be_written_is_bad_input(
    tmp_path: Path, slices: list[Path], model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("occupied")
    assert status_of("explain", slices[0], "--model", model_folder, "--out", tmp_path / "file") == 2
    assert "braintumor: cannot write" in capsys.readouterr().err


def test_file_names_need_not_be_utf_8(tmp_path: Path, slices: list[Path], model_folder: Path) -> None:
    name = os.fsencode(tmp_path) + b"/\xff \xe8\x84\x91.png"
    Path(os.fsdecode(name)).write_bytes(slices[0].read_bytes())
    result = run(["-m", "braintumor", "predict", tmp_path, "--model", model_folder, "--format", "csv"])
    assert (result.returncode, result.stdout.splitlines()[1].split(b",")[0]) == (0, name)


@pytest.mark.parametrize("option", ["--data_dir", "--data-dir"])
def test_a_missing_data_folder_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str) -> None:
    pytest.importorskip("torch")
    missing, out = tmp_path / "missing", tmp_path / "run"
    assert status_of("train", "--model", "cnn", option, missing, "--out", out) == 2
    assert str(missing) in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.slow
def test_the_documented_command_says_what_is_missing(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    command = [ROOT / "train.py", "--model", "cnn", "--epochs", "50", "--data_dir", "./missing"]
    result = run(command, tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith(b"braintumor: ")
    assert b"missing" in result.stderr
    assert b"Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_train_py_explains_itself() -> None:
    result = run(["train.py", "--help"])
    assert result.returncode == 0
    for option in (b"--data-dir", b"--model", b"--epochs", b"--resume"):
        assert option in result.stdout.replace(b"_", b"-")


@pytest.fixture(scope="module")
def quantized_once(tmp_path_factory: pytest.TempPathFactory, model_folder: Path, phantoms: Path) -> Iterator[Path]:
    """Yield a copy of the small model with its 8-bit variant, calibrated on the phantoms' training part.

    Its random weights correlate by 0.980, above or below what is asked for as the processor rounds.
    """
    pytest.importorskip("torch")
    folder = Path(shutil.copytree(model_folder, tmp_path_factory.mktemp("quantized") / "quantized"))
    rows = list_images(phantoms, parts=("train",)).manifest.rows
    write_manifest(Manifest(phantoms, tuple(replace(row, split="val") for row in rows)), folder / "manifest.csv")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("braintumor.training.quantization.LEAST_CORRELATION", 0.9)
        assert status_of("quantize", folder, phantoms) == 0
        yield folder


@pytest.fixture
def quantized(tmp_path: Path, quantized_once: Path) -> Path:
    """Return a copy of the model with its 8-bit variant."""
    return Path(shutil.copytree(quantized_once, tmp_path / "quantized"))


def test_quantize_says_what_it_measured(quantized: Path, phantoms: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert status_of("quantize", quantized, phantoms, "--precision", "int8") == 0
    parity = json.loads((quantized / "card.json").read_text())["precisions"]
    assert capsys.readouterr().out == (
        f"written: {quantized / 'model.int8.onnx'}\n"
        f"on 12 validation images: same class {parity['int8']['agreement']:.4f}, "
        f"accuracy {parity['int8']['accuracy']:.4f} (float32 {parity['float32']['accuracy']:.4f}), "
        f"correlation of the class maps {parity['int8']['class_map_correlation']:.4f}\n"
        f"next: braintumor predict IMAGES --model {quantized} --precision int8\n{DISCLAIMER}\n"
    )


@pytest.mark.parametrize("kind", ["text", "csv", "json"])
def test_predict_answers_with_the_precision_asked_for(
    quantized: Path, slices: list[Path], capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    capsys.readouterr()
    assert status_of("predict", slices[0], "--model", quantized, "--precision", "int8", "--format", kind) == 0
    output = capsys.readouterr()
    assert "tiny 1.2 int8" in output.out
    [answer] = predict(slices[0], load_folder(quantized, precision="int8"))
    [original] = predict(slices[0], load_folder(quantized))
    assert not np.allclose(answer.probabilities, original.probabilities, atol=1e-5)
    if kind == "json":
        shown = json.loads(output.out)["predictions"][0]
        shares = [shown[f"p_{name}"] for name in CLASSES]
        assert shares == pytest.approx(answer.probabilities.tolist(), abs=1e-6)


def test_explain_shows_the_map_of_the_precision_asked_for(quantized: Path, tmp_path: Path, slices: list[Path]) -> None:
    assert status_of("explain", slices[0], "--model", quantized, "--precision", "int8", "--out", tmp_path / "out") == 0
    [answer] = predict(slices[0], load_folder(quantized, precision="int8"))
    found = np.load(tmp_path / "out" / f"{slices[0].stem}.npy")
    np.testing.assert_array_equal(found, answer.class_maps[CLASSES.index(answer.predicted)])


@pytest.mark.slow
def test_evaluations_of_two_precisions_lie_side_by_side(quantized: Path, phantoms: Path) -> None:
    pytest.importorskip("matplotlib")
    for precision, place in (("float32", "evaluation"), ("int8", "evaluation-int8")):
        assert status_of("evaluate", quantized, phantoms, "--precision", precision) == 0
        report = json.loads((quantized / place / "report.json").read_text())
        assert report["model"]["precision"] == precision
        page = (quantized / place / "report.html").read_text()
        assert f"<dt>Precision</dt><dd>{precision}</dd>" in page


def test_a_precision_that_was_not_written_names_the_command(
    slices: list[Path], model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of("predict", slices[0], "--model", model_folder, "--precision", "int8") == 2
    assert f"write it with: braintumor quantize {model_folder} DATA_DIR --precision int8" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["predict", "explain", "evaluate", "quantize"])
def test_an_unknown_precision_lists_the_known_ones(
    slices: list[Path], model_folder: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    arguments = [slices[0], "--model", model_folder] if command in ("predict", "explain") else [model_folder, "data"]
    assert status_of(command, *arguments, "--precision", "int3") == 2
    error = capsys.readouterr().err
    assert "int3" in error
    assert "'int8'" in error


def test_data_show_writes_a_contact_sheet(tmp_path: Path, phantoms: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of("data", "show", phantoms, "--out", tmp_path / "new" / "sheet.png") == 0
    with Image.open(tmp_path / "new" / "sheet.png") as page:
        assert page.format == "PNG"
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Training · Glioma · 3 images · 96 x 96"
    assert lines[-2:] == [f"contact sheet: {tmp_path / 'new' / 'sheet.png'}", DISCLAIMER]


def test_data_show_names_unreadable_files(tmp_path: Path, phantoms: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(shutil.copytree(phantoms, tmp_path / "data"))
    (folder / "Training" / "glioma" / "broken.png").write_bytes(b"hello")
    assert status_of("data", "show", folder, "--out", tmp_path / "sheet.png") == 3
    place = folder / "Training" / "glioma" / "broken.png"
    reason = "not a readable PNG, JPEG, TIFF, BMP, DICOM or NIfTI file"
    assert capsys.readouterr().err == f"unreadable: {place}: {reason}\n1 file(s) could not be read\n"
    assert (tmp_path / "sheet.png").exists()
    assert status_of("data", "show", tmp_path / "missing") == 2


def test_data_get_takes_an_archive_that_was_put_there(
    tmp_path: Path, slices: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    with zipfile.ZipFile(tmp_path / "brain-tumor-mri.zip", "w") as archive:
        for file in slices:
            archive.write(file, "/".join([*file.parts[-3:-1], f"{file.stem}.jpg"]))
    folder = tmp_path / "brain-tumor-mri"
    for _ in range(2):
        assert status_of("data", "get", "kaggle", "--out", tmp_path) == 0
        output = capsys.readouterr().out
        assert output.startswith(f"data folder: {folder} (16 images: train 12, test 4)\n")
        assert output.endswith(f"CC0\nnext: braintumor data show {folder}\n{DISCLAIMER}\n")


def test_data_get_without_a_network_is_bad_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("h5py")
    monkeypatch.setattr("braintumor.data.public.figshare.ARTICLE", "http://127.0.0.1:9/article")
    assert status_of("data", "get", "figshare", "--out", tmp_path) == 2
    error = capsys.readouterr().err
    assert error.startswith("braintumor: cannot download http://127.0.0.1:9/article")
    assert f"put these files into {tmp_path / 'figshare-original'}" in error
    assert list(tmp_path.iterdir()) == []


def test_data_get_says_which_sets_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of("data", "get", "elsewhere") == 2
    error = capsys.readouterr().err
    assert "kaggle" in error
    assert "figshare" in error
    assert status_of("data") == 2


WITHOUT = """
import sys
from braintumor.cli.main import main

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize(
    ("library", "extra", "arguments"),
    [
        ("torch", "train", ["train", "--model", "cnn", "--data_dir", "."]),
        ("timm", "train", ["train", "--model", "cnn", "--data_dir", "."]),
        ("safetensors", "train", ["train", "--model", "cnn", "--data_dir", "."]),
        ("onnx", "train", ["quantize", "model", "data"]),
        ("matplotlib", "evaluate", ["evaluate", "model", "data"]),
        ("markupsafe", "evaluate", ["evaluate", "model", "data"]),
        ("jinja2", "evaluate", ["compare", "first", "second"]),
        ("scipy", "evaluate", ["audit", "data"]),
        ("sklearn", "evaluate", ["audit", "data"]),
        ("h5py", "data", ["data", "get", "figshare", "--out", "nowhere"]),
        ("kagglehub", "data", ["data", "get", "kaggle", "--out", "nowhere"]),
        ("pydicom", "dicom", ["dicom", "classify", "slice.dcm"]),
        ("requests", "dicom", ["dicom", "watch", "http://127.0.0.1:1", "--state", "nowhere"]),
    ],
)
@pytest.mark.slow
def test_a_missing_library_names_its_extra(library: str, extra: str, arguments: list[str]) -> None:
    result = run(["-c", WITHOUT, library, *arguments])
    assert result.returncode == 2
    message = f"braintumor: this needs the library {library}; install it with: pip install 'braintumor[{extra}]'"
    assert result.stderr.decode().splitlines()[-1] == message


def test_audit_prints_a_summary_and_writes_the_page(
    flawed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of("audit", flawed, "--out", tmp_path / "found") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "reading 31 images"
    assert "test images       5 of 9 (55.6 %) share a group with training" in lines
    assert lines[-2:] == [f"report: {tmp_path / 'found' / 'audit.html'}", DISCLAIMER]
    assert {path.name for path in (tmp_path / "found").iterdir()} == {"audit.html", "audit.json", "groups.csv"}


def test_a_strict_audit_fails_on_leaks_and_on_unreadable_files_only(
    flawed: Path, phantoms: Path, tmp_path: Path
) -> None:
    assert status_of("audit", flawed, "--strict", "--out", tmp_path) == 3
    assert status_of("audit", phantoms, "--strict", "--out", tmp_path) == 0
    shutil.copytree(phantoms, tmp_path / "data")
    (tmp_path / "data/Training/glioma/broken.png").write_bytes(b"no image")
    assert status_of("audit", tmp_path / "data", "--strict", "--out", tmp_path) == 3
    assert status_of("audit", tmp_path / "data", "--out", tmp_path) == 0


def test_an_audit_never_writes_into_the_data_folder(phantoms: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of("audit", phantoms, "--out", phantoms / "audit") == 2
    assert "lies in the data folder" in capsys.readouterr().err
    assert not (phantoms / "audit").exists()


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"braintumor {braintumor.__version__}\n"


def test_a_mistyped_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["predcit", "scan.png"])
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("braintumor: no command predcit; did you mean predict?\n")
    with pytest.raises(SystemExit):
        main(["xyzzy\x1b[31m"])
    error = capsys.readouterr().err
    assert "choose one of predict, explain" in error
    assert "\x1b" not in error


def test_the_overview_lists_every_command_once(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    commands = [command for group in GROUPS.values() for command in group.values()]
    assert set(commands) == set(get_args(Command))
    for group in GROUPS.values():
        for name in group:
            assert len(re.findall(rf"^  {name} ", text, re.MULTILINE)) == 1
    with pytest.raises(SystemExit) as end:
        main([])
    assert end.value.code == 2
    assert capsys.readouterr().err == text


def test_no_help_shows_types_of_python(capsys: pytest.CaptureFixture[str]) -> None:
    for group in GROUPS.values():
        for name in group:
            with pytest.raises(SystemExit):
                main([name, "--help"])
            assert not re.search(r"None|\{|default: \)", re.sub(r"\{[a-z0-9_,\s│]+\}", "", capsys.readouterr().out))


def test_synthetic_slices_are_made_by_a_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "phantom", str(tmp_path / "data"), "--per-class", "2", "--size", "64"]) == 0
    assert len(list((tmp_path / "data").rglob("*.png"))) == 8
    assert main(["data", "phantom", str(tmp_path / "data")]) == 2
    assert main(["data", "phantom", str(tmp_path / "other"), "--per-class", "1"]) == 2
    assert "is not empty" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert main(["data", "phantom", str(tmp_path / "file")]) == 2
    assert "is not a folder" in capsys.readouterr().err
