"""Models by name: the one in the package, and those that are added."""

import hashlib
import io
import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import braintumor
from braintumor.cli.main import main
from braintumor.errors import DownloadError, ModelError, StorageError
from braintumor.models.registry import BUNDLED, add, find, get, known, load, models_folder
from braintumor.models.session import Model

if TYPE_CHECKING:
    from conftest import Server

PARTS = ("card.json", "model.onnx")


def quiet(done: int, total: int) -> None:
    pass


@pytest.fixture(autouse=True)
def models_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
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
    assert model.policy.ood_threshold < float("inf")  # it can refuse
    assert model.card.temperature != 1


@pytest.mark.data
def test_the_model_of_the_package_answers_rightly(data_folder: Path) -> None:
    manifest = sorted((data_folder / "brain-tumor-mri" / "Testing" / "glioma").glob("*.jpg"))[:20]
    answers = braintumor.predict(manifest, braintumor.load())
    assert sum(answer.predicted == "glioma" for answer in answers) >= 17
    assert answers[0].class_maps.shape == (4, 20, 20)


def test_a_folder_is_added_whole_and_only_the_model_is_taken(
    model_folder: Path, models_dir: Path, slices: list[Path], model: Model
) -> None:
    (model_folder / "manifest.csv").write_text("names of images stay where they are")
    added = add(model_folder)
    (model_folder / "manifest.csv").unlink()
    assert (added.name, added.precisions) == ("tiny", ("float32",))
    assert sorted(file.name for file in (models_dir / "tiny").iterdir()) == list(PARTS)
    assert [path.name for path in models_dir.iterdir()] == ["tiny"]
    again = braintumor.predict(slices[:2], load("tiny"))
    for found_answer, expected in zip(again, braintumor.predict(slices[:2], model), strict=True):
        assert found_answer.record() == expected.record()


def test_an_archive_is_checked_and_added(archive: Path, models_dir: Path) -> None:
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    with pytest.raises(ModelError, match=f"has the SHA-256 {sha256}, expected 00"):
        add(archive, sha256="0" * 64)
    assert not models_dir.exists()
    assert add(archive, "mine", sha256).name == "mine"
    assert find("mine") == models_dir / "mine"
    with pytest.raises(ModelError, match=r"called mine is already in"):
        add(archive, "mine")


def test_what_is_no_model_leaves_nothing_behind(
    archive: Path, model_folder: Path, models_dir: Path, tmp_path: Path
) -> None:
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
    assert list(models_dir.iterdir()) == []


def test_paths_in_an_archive_are_not_followed(model_folder: Path, models_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "evil.zip"
    file.write_bytes(packed(model_folder))
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("../escaped", "x")
        archive.writestr("sub/card.json", "x")
    add(file)
    assert sorted(path.name for path in (models_dir / "tiny").iterdir()) == list(PARTS)
    assert not (tmp_path / "escaped").exists()


def test_a_folder_that_cannot_be_written_is_said(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("BRAINTUMOR_MODELS", str(tmp_path / "file"))
    with pytest.raises(StorageError, match="choose another with BRAINTUMOR_MODELS"):
        add(archive)


def test_a_home_that_may_not_be_looked_into_leaves_the_models_of_the_package(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    glob = Path.glob

    def refused(folder: Path, pattern: str) -> Iterator[Path]:
        if folder == models_dir:
            raise PermissionError(13, "Permission denied", str(folder))
        return glob(folder, pattern)

    monkeypatch.setattr(Path, "glob", refused)

    assert find("cnn") == BUNDLED / "cnn"
    with pytest.raises(ModelError, match="no model is called resnet"):
        find("resnet")


def test_a_download_is_verified_and_goes_on_where_it_was_cut(
    archive: Path, models_dir: Path, server: "Server", tmp_path: Path
) -> None:
    content = archive.read_bytes()
    server.files["m.zip"] = content
    sha256 = hashlib.sha256(content).hexdigest()
    server.cuts["m.zip"] = [500, 0]
    with pytest.raises(DownloadError, match="500 of"):
        get(server.url("m.zip"), sha256, None, quiet)
    assert not models_dir.exists()
    server.asked.clear()
    assert get(server.url("m.zip"), sha256, None, quiet).name == "tiny"
    assert server.asked == [("m.zip", "bytes=500-")]
    assert list((tmp_path / "cache" / "models").iterdir()) == []
    server.files["m.zip"] = content[:-1] + b"x"
    with pytest.raises(DownloadError, match="SHA256"):
        get(server.url("m.zip"), sha256, "other", quiet)
    assert [path.name for path in models_dir.iterdir()] == ["tiny"]


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
    with pytest.raises(ModelError, match="no model is called resnet, and no folder either; there are cnn"):
        find("resnet")


def test_a_folder_in_the_current_folder_is_never_taken_for_a_name(
    model_folder: Path, models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slices: list[Path]
) -> None:
    """Untrusted search path: `cnn/` in a data folder replaced the model of the package."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(model_folder, tmp_path / "cnn")
    shutil.copytree(model_folder, tmp_path / "mine")
    assert find("cnn") == BUNDLED / "cnn"
    assert load().identity == "cnn 0.1.0 int8"
    with pytest.raises(
        ModelError, match=r"no model is called mine; to load the folder of this name, write \./mine; there"
    ):
        find("mine")
    for written in ("./cnn", str(tmp_path / "cnn"), "../" + tmp_path.name + "/cnn", "cnn/"):
        assert load(written).identity == "tiny 1.2"
    assert load(Path("cnn")).identity == "tiny 1.2"  # a Path is a path
    assert find(".") == Path()
    (tmp_path / "cnn" / "card.json").unlink()
    assert main(["predict", str(slices[0])]) == 0


@pytest.mark.parametrize("how", ["name in the card", "--name"])
def test_a_model_of_the_package_cannot_be_replaced(
    model_folder: Path, models_dir: Path, tmp_path: Path, how: str
) -> None:
    evil = shutil.copytree(model_folder, tmp_path / "evil")
    (evil / "card.json").write_text((evil / "card.json").read_text().replace('"tiny"', '"cnn"'))
    with pytest.raises(ModelError, match="cnn is a model of the package, which no other can replace"):
        add(evil, None if how == "name in the card" else "cnn")
    assert list(models_dir.iterdir()) == []


def test_a_model_that_was_added_before_under_a_name_of_the_package_is_named_and_left_out(
    model_folder: Path, models_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(model_folder, models_dir / "cnn")
    assert load("cnn").folder == BUNDLED / "cnn"
    assert main(["models", "list"]) == 3
    output = capsys.readouterr()
    assert f"left out: {models_dir / 'cnn'}: cnn is a model of the package" in output.err
    assert str(BUNDLED / "cnn") in output.out


def test_an_added_model_answers_under_the_name_it_was_given(model_folder: Path, tmp_path: Path) -> None:
    """Else a card could say that its answers are those of the model of the package."""
    evil = shutil.copytree(model_folder, tmp_path / "evil")
    (evil / "card.json").write_text((evil / "card.json").read_text().replace('"tiny"', '"cnn"'))
    add(evil, "other")
    assert load("other").identity == "other 1.2"


def damage(folder: Path, kind: str) -> None:
    """Turn a copy of a model into one that cannot be used."""
    card = folder / "card.json"
    if kind == "truncated card":
        card.write_text(card.read_text()[:100])
    elif kind == "no card":
        card.unlink()
    elif kind == "no network":
        (folder / "model.onnx").unlink()
    elif kind == "a file":
        shutil.rmtree(folder)
        folder.write_text("in the way")
    elif kind == "a dangling link":
        shutil.rmtree(folder)
        folder.symlink_to(folder.parent / "nowhere")
    elif kind == "card is a pipe":
        card.unlink()
        os.mkfifo(card)
    elif kind == "card is a folder":
        card.unlink()
        card.mkdir()
    elif kind == "huge card":
        with card.open("ab") as file:
            file.truncate(17 << 20)
    elif kind == "a name with an escape":
        folder.rename(folder.with_name("a\x1b[2Jb"))


@pytest.mark.parametrize(
    "kind",
    [
        *("truncated card", "no card", "no network", "a file", "a dangling link", "card is a pipe", "card is a folder"),
        *("huge card", "a name with an escape"),
    ],
)
def test_a_damaged_model_is_named_and_left_out_and_breaks_nothing_else(
    model_folder: Path, models_dir: Path, slices: list[Path], capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    shutil.copytree(model_folder, models_dir / "broken")
    damage(models_dir / "broken", kind)
    add(model_folder, "good")
    assert [model.name for model in known()] == ["cnn", "good"]
    assert load("good").identity == "good 1.2"
    assert main(["predict", str(slices[0])]) == 0
    assert main(["models", "list"]) == 3
    output = capsys.readouterr()
    assert output.err.count("left out: ") == 1
    assert ("a\\x1b[2Jb" if kind == "a name with an escape" else str(models_dir / "broken")) in output.err
    assert "\x1b" not in output.out + output.err
    if kind != "a name with an escape":
        assert main(["predict", str(slices[0]), "--model", "broken"]) == 2
        assert str(models_dir / "broken") in capsys.readouterr().err


def test_who_says_how_good_a_model_is_is_said(model_folder: Path, models_dir: Path, tmp_path: Path) -> None:
    boasting = shutil.copytree(model_folder, tmp_path / "boasting")
    fields = json.loads((boasting / "card.json").read_text())
    for name, value, claim in (
        ("high", 0.955, "95.5 % by its own card, not checked here"),
        ("text", "\x1b[2J", "not measured on other patients"),
        ("over", 7, "not measured on other patients"),
        ("true", True, "not measured on other patients"),
    ):
        fields["metrics"] = {"tested": {"accuracy": {"value": value}}}
        (boasting / "card.json").write_text(json.dumps(fields))
        assert add(boasting, name).claim() == claim
    for name, metrics in (("list", {"tested": []}), ("number", {"tested": {"accuracy": 3}})):
        (boasting / "card.json").write_text(json.dumps(fields | {"metrics": metrics}))
        assert add(boasting, name).claim() == "not measured on other patients"
    assert {model.name: model.claim() for model in known()}["cnn"].endswith(
        "% on other patients of the same collections"
    )


@pytest.mark.parametrize("part", PARTS)
def test_links_in_a_folder_bring_in_no_other_file(
    model_folder: Path, models_dir: Path, tmp_path: Path, part: str
) -> None:
    linked = shutil.copytree(model_folder, tmp_path / "linked")
    (linked / part).rename(tmp_path / "secret")
    (linked / part).symlink_to(tmp_path / "secret")
    with pytest.raises(ModelError, match=f"{part} is a link"):
        add(linked)
    assert list(models_dir.iterdir()) == []


def test_links_in_an_archive_are_not_followed(model_folder: Path, models_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    file = tmp_path / "links.zip"
    file.write_bytes(packed(model_folder))
    with zipfile.ZipFile(file, "a") as archive:
        link = zipfile.ZipInfo("weights.safetensors")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, str(tmp_path / "secret"))
    add(file)
    assert (models_dir / "tiny" / "weights.safetensors").read_text() == str(tmp_path / "secret")
    assert not (models_dir / "tiny" / "weights.safetensors").is_symlink()


@pytest.mark.parametrize("chosen", ["models", "./models"])
def test_a_models_folder_that_depends_on_the_current_folder_is_refused(
    chosen: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], slices: list[Path]
) -> None:
    monkeypatch.setenv("BRAINTUMOR_MODELS", chosen)
    assert main(["predict", str(slices[0]), "--model", "mine"]) == 2
    assert f"expected an absolute path in BRAINTUMOR_MODELS, got {chosen}" in capsys.readouterr().err
    assert main(["predict", str(slices[0])]) == 0


def test_an_empty_variable_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRAINTUMOR_MODELS", "")
    monkeypatch.setenv("XDG_DATA_HOME", "relative")  # to be ignored, says the specification
    monkeypatch.setenv("HOME", str(tmp_path))
    assert models_folder() == tmp_path / ".local" / "share" / "braintumor" / "models"
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert models_folder() == tmp_path / "data" / "braintumor" / "models"


def test_the_commands(
    archive: Path, server: "Server", models_dir: Path, slices: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    server.files["m.zip"] = archive.read_bytes()
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    assert main(["models", "get", server.url("m.zip"), "--sha256", sha256]) == 0
    assert main(["models", "add", str(archive), "--name", "second"]) == 0
    assert "next: braintumor predict IMAGES --model second" in capsys.readouterr().out
    assert main(["models", "list"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed[:3]] == ["cnn", "second", "tiny"]
    assert "% on other patients of the same collections" in listed[0]
    assert "not measured on other patients" in listed[1]
    assert main(["predict", str(slices[0]), "--model", "tiny", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["predictions"][0]["model"] == "tiny 1.2"
    assert main(["predict", str(slices[0])]) == 0
    assert "cnn 0.1.0 int8" in capsys.readouterr().out
    assert main(["models", "add", str(archive), "--sha256", "0"]) == 2


def test_the_bundled_model_does_not_say_where_it_was_made() -> None:
    folder = load().folder
    assert all(b"stack_trace" not in file.read_bytes() for file in folder.iterdir())
