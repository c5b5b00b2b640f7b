"""Models by name: the one in the package, and those that are added."""

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import braintumor
from braintumor.cli import main
from braintumor.errors import DownloadError, ModelError, StorageError
from braintumor.model import Model
from braintumor.zoo import BUNDLED, add, find, get, known, load

if TYPE_CHECKING:
    from conftest import Server

PARTS = ("card.json", "model.onnx")


def quiet(done: int, total: int) -> None:
    pass


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of added models, which is not there yet."""
    monkeypatch.setenv("BRAINTUMOR_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("BRAINTUMOR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "models"


def packed(folder: Path, names: tuple[str, ...] = PARTS) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.write(folder / name, name)
    return buffer.getvalue()


@pytest.fixture
def archive(model_folder: Path, tmp_path: Path) -> Path:
    file = tmp_path / "tiny.zip"
    file.write_bytes(packed(model_folder))
    return file


def test_a_model_comes_with_the_package() -> None:
    assert sum(file.stat().st_size for file in BUNDLED.rglob("*") if file.is_file()) < 6 << 20
    model = braintumor.load()
    assert model.identity == "cnn 0.1.0 int8"
    tested = model.card.metrics["tested"]
    assert tested["n_images"] > 1000
    assert tested["accuracy"]["low"] < tested["accuracy"]["value"] < tested["accuracy"]["high"]
    assert model.policy.unusual < float("inf")  # it can refuse
    assert model.card.temperature != 1


@pytest.mark.data
def test_the_model_of_the_package_answers_rightly(data_folder: Path) -> None:
    manifest = sorted((data_folder / "brain-tumor-mri" / "Testing" / "glioma").glob("*.jpg"))[:20]
    answers = braintumor.predict(manifest, braintumor.load())
    assert sum(answer.predicted == "glioma" for answer in answers) >= 17
    assert answers[0].class_maps.shape == (4, 20, 20)


def test_a_folder_is_added_whole_and_only_the_model_is_taken(
    model_folder: Path, place: Path, slices: list[Path], model: Model
) -> None:
    (model_folder / "manifest.csv").write_text("names of images stay where they are")
    found = add(model_folder)
    (model_folder / "manifest.csv").unlink()
    assert (found.name, found.precisions) == ("tiny", ("float32",))
    assert sorted(file.name for file in (place / "tiny").iterdir()) == list(PARTS)
    assert [each.name for each in place.iterdir()] == ["tiny"]
    again = braintumor.predict(slices[:2], load("tiny"))
    for found_answer, expected in zip(again, braintumor.predict(slices[:2], model), strict=True):
        assert found_answer.record() == expected.record()


def test_an_archive_is_checked_and_added(archive: Path, place: Path) -> None:
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    with pytest.raises(ModelError, match=f"has the SHA-256 {sha256}, expected 00"):
        add(archive, sha256="0" * 64)
    assert not place.exists()
    assert add(archive, "mine", sha256).name == "mine"
    assert find("mine") == place / "mine"
    with pytest.raises(ModelError, match=r"called mine is in .* already"):
        add(archive, "mine")


def test_what_is_no_model_leaves_nothing_behind(archive: Path, model_folder: Path, place: Path, tmp_path: Path) -> None:
    damaged, empty = tmp_path / "damaged.zip", tmp_path / "empty.zip"
    damaged.write_bytes(archive.read_bytes()[:-30])
    empty.write_bytes(packed(model_folder, ("card.json",)))
    (tmp_path / "folder").mkdir()
    for source in (damaged, empty, tmp_path / "folder", tmp_path / "nothing.zip", model_folder / "card.json"):
        with pytest.raises(ModelError):
            add(source)
    for name in ("../out", "A", "", ".hidden", "a" * 65):
        with pytest.raises(ModelError, match="cannot be a model's name"):
            add(archive, name)
    assert list(place.iterdir()) == []


def test_paths_in_an_archive_are_not_followed(model_folder: Path, place: Path, tmp_path: Path) -> None:
    file = tmp_path / "evil.zip"
    file.write_bytes(packed(model_folder))
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("../escaped", "x")
        archive.writestr("sub/card.json", "x")
    add(file)
    assert sorted(each.name for each in (place / "tiny").iterdir()) == list(PARTS)
    assert not (tmp_path / "escaped").exists()


def test_a_folder_that_cannot_be_written_is_said(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("BRAINTUMOR_MODELS", str(tmp_path / "file"))
    with pytest.raises(StorageError, match="choose another with BRAINTUMOR_MODELS"):
        add(archive)


def test_a_home_that_may_not_be_looked_into_leaves_the_models_of_the_package(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    glob = Path.glob

    def refused(folder: Path, pattern: str) -> Iterator[Path]:
        if folder == place:
            raise PermissionError(13, "Permission denied", str(folder))
        return glob(folder, pattern)

    monkeypatch.setattr(Path, "glob", refused)

    assert find("cnn") == BUNDLED / "cnn"
    with pytest.raises(ModelError, match="no model is called resnet"):
        find("resnet")


def test_a_download_is_verified_and_goes_on_where_it_was_cut(
    archive: Path, place: Path, server: "Server", tmp_path: Path
) -> None:
    content = archive.read_bytes()
    server.files["m.zip"] = content
    sha256 = hashlib.sha256(content).hexdigest()
    server.cuts["m.zip"] = [500, 0]
    with pytest.raises(DownloadError, match="500 of"):
        get(server.url("m.zip"), sha256, None, quiet)
    assert not place.exists()
    server.asked.clear()
    assert get(server.url("m.zip"), sha256, None, quiet).name == "tiny"
    assert server.asked == [("m.zip", "bytes=500-")]
    assert list((tmp_path / "cache" / "models").iterdir()) == []
    server.files["m.zip"] = content[:-1] + b"x"
    with pytest.raises(DownloadError, match="SHA256"):
        get(server.url("m.zip"), sha256, "other", quiet)
    assert [each.name for each in place.iterdir()] == ["tiny"]


def test_addresses_without_a_checksum_are_refused(server: "Server", no_server: str) -> None:
    with pytest.raises(ModelError, match="expected a SHA-256"):
        get(server.url("m.zip"), "abc", None, quiet)
    with pytest.raises(ModelError, match="expected an http or https address"):
        get("file:///etc/passwd", "0" * 64, None, quiet)
    with pytest.raises(DownloadError, match="cannot download"):
        get(f"{no_server}/m.zip", "0" * 64, None, quiet)
    assert server.asked == []


def test_names_and_folders_are_told_apart(model_folder: Path) -> None:
    assert find(model_folder) == model_folder
    assert find("cnn") == BUNDLED / "cnn"
    with pytest.raises(ModelError, match="no model is called resnet, and it is no folder; there are cnn"):
        find("resnet")
    add(model_folder, "cnn")  # in place of the package's
    assert load("cnn").card.name == "tiny"
    assert [each.name for each in known()] == ["cnn"]


def test_the_commands(
    archive: Path, server: "Server", place: Path, slices: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    server.files["m.zip"] = archive.read_bytes()
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    assert main(["models", "get", server.url("m.zip"), "--sha256", sha256]) == 0
    assert main(["models", "add", str(archive), "--name", "second"]) == 0
    assert "next: braintumor predict IMAGES --model second" in capsys.readouterr().out
    assert main(["models", "list"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed[:3]] == ["cnn", "second", "tiny"]
    assert "% on new patients" in listed[0]
    assert "not measured on new patients" in listed[1]
    assert main(["predict", str(slices[0]), "--model", "tiny", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["predictions"][0]["model"] == "tiny 1.2"
    assert main(["predict", str(slices[0])]) == 0
    assert "cnn 0.1.0 int8" in capsys.readouterr().out
    assert main(["models", "add", str(archive), "--sha256", "0"]) == 2


def test_the_bundled_model_does_not_say_where_it_was_made() -> None:
    folder = load().folder
    assert all(b"stack_trace" not in file.read_bytes() for file in folder.iterdir())
