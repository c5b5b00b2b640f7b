"""Everything that can be wrong about a run is reported before its data is opened, in one sentence and with status 2."""

import json
import os
from pathlib import Path

import pytest

from braintumor.cli.main import main
from braintumor.errors import BrainTumorError, DataError, StorageError, TrainingError, WeightsError
from braintumor.files import check_writable
from braintumor.training import cross_validation as folds_module
from braintumor.training import pretrained
from braintumor.training import train as train_module
from braintumor.training.checkpoint import Epoch
from braintumor.training.config import TrainConfig
from braintumor.training.cross_validation import folds
from braintumor.training.distributed import Processes, chosen_device
from braintumor.training.prerequisites import settings_of
from braintumor.training.train import check_number_of_images, check_share, train

CONFIG = TrainConfig("cnn", epochs=1, size=32, source_size=32)


@pytest.fixture(autouse=True)
def unopened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Fail whatever opens the data, and make all starting weights unreachable."""

    def opened(*_: object, **__: object) -> None:
        pytest.fail("the data was opened")

    monkeypatch.setattr(train_module, "prepare", opened)
    monkeypatch.setattr(train_module, "decoded", opened)
    monkeypatch.setattr(folds_module, "divided", opened)
    pinned = pretrained.Pinned("w", "http://127.0.0.1:9/w.safetensors", "0" * 64)
    monkeypatch.setitem(pretrained.IMAGENET, "resnet", pinned)
    monkeypatch.setenv("BRAINTUMOR_CACHE", str(tmp_path / "cache"))


REFUSED_BY_BOTH = {
    ("--model", "cnn", "--epochs", "0"): "epochs: expected a whole number from 1",
    ("--model", "cnn", "--epochs", "-1"): "epochs: expected a whole number from 1",
    ("--model", "cnn", "--seed", "-1"): "seed: expected a whole number from 0",
    ("--model", "cnn", "--recipe", "fastest"): "no recipe is called 'fastest'; choose one of reference, fast, best",
    ("--model", "resnet1888"): "no model is called 'resnet1888'; choose cnn, resnet or a timm name",
    ("--model", "vit_tiny_patch16_224"): "vit_tiny_patch16_224 cannot be used: its features have the shape",
    ("--model", "resnet"): "cannot download http://127.0.0.1:9/w.safetensors",
    ("--model", "cnn", "--weights", "imagenet"): "no ImageNet weights are pinned for cnn",
    ("--model", "cnn", "--weights", "absent.safetensors"): "absent.safetensors cannot be read: there is no such file",
    ("--model", "cnn", "--weights", "w.pth"): "w.pth cannot be read as safetensors: it is a ZIP archive",
    ("--model", "cnn", "--recipe", "best", "--masks", "absent"): "absent is not a reference folder",
    ("--model", "cnn", "--recipe", "fast", "--masks", "absent"): "the recipe fast pools all positions evenly",
    ("--model", "cnn", "--out", "file"): "cannot write to file",
}


def refused(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that is refused and return its sentence."""
    assert main(list(arguments)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(("options", "sentence"), [*REFUSED_BY_BOTH.items()])
def test_train_and_folds_say_what_is_wrong_before_they_open_the_data(
    options: tuple[str, ...],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.pth").write_bytes(b"PK\x03\x04" + bytes(60))
    (tmp_path / "file").touch()
    for command in (("train", "--data_dir", "data"), ("folds", "data")):
        assert sentence in refused((*command, *options), capsys)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "cache") == ["file", "w.pth"]


def test_what_only_one_of_them_takes_is_told_first_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_options = ("train", "--data_dir", "data", "--model", "cnn", "--out", str(tmp_path / "out"))
    assert "batch_size: expected a whole number from 2" in refused((*train_options, "--batch_size", "1"), capsys)
    assert "nothing to resume" in refused((*train_options, "--resume"), capsys)
    for jobs in ("0", "-2"):
        sentence = refused(("folds", "data", "--model", "cnn", "--jobs", jobs, "--out", str(tmp_path / "out")), capsys)
        assert sentence == f"braintumor: jobs: expected a whole number of at least 1, got {jobs}"
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "card.json").touch()
    assert "already holds a finished model" in refused(train_options, capsys)


def write_checkpoint(folder: Path, config: TrainConfig) -> None:
    """Write the checkpoint of a run after one epoch; it lists no files of tensors, so none are missing."""
    (folder / "checkpoint").mkdir(parents=True)
    identity = {"settings": settings_of(config), "data": "0" * 64}
    epoch = vars(Epoch(1, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0))
    record = {"identity": identity, "precision": "float32", "weights_origin": "", "history": [epoch], "files": {}}
    (folder / "checkpoint" / "state.json").write_text(json.dumps(record))


def test_a_changed_setting_is_told_before_an_interrupted_run_opens_its_data(tmp_path: Path) -> None:
    config = TrainConfig("cnn", epochs=2, size=32, source_size=32)
    write_checkpoint(tmp_path / "run", CONFIG)
    with pytest.raises(TrainingError, match=r"was started with other settings or data \(epochs: was 1, is 2\)"):
        train(config, tmp_path / "data", tmp_path / "run", train_module.SilentProgress(), resume=True)
    write_checkpoint(tmp_path / "folds" / "3", CONFIG)
    with pytest.raises(TrainingError, match=r"3 was started with other settings or data \(epochs: was 1, is 2\)"):
        folds(config, tmp_path / "data", tmp_path / "folds", print)
    with pytest.raises(TrainingError, match="holds an unfinished run"):
        folds(config, tmp_path / "data", tmp_path / "folds", print, resume=False)


def test_a_checkpoint_of_a_version_with_fewer_settings_goes_on(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "run", CONFIG)
    file = tmp_path / "run" / "checkpoint" / "state.json"
    record = json.loads(file.read_text())
    for younger in ("norm_batches", "train_sizes", "map_stride", "attention", "guidance", "masks", "keep_last"):
        del record["identity"]["settings"][younger]
    file.write_text(json.dumps(record))
    with pytest.raises(pytest.fail.Exception, match="the data was opened"):  # so nothing was wrong before
        train(CONFIG, tmp_path / "data", tmp_path / "run", train_module.SilentProgress(), resume=True)


@pytest.mark.slow
def test_folds_that_are_finished_or_go_on_need_no_starting_weights(tmp_path: Path) -> None:
    config = TrainConfig("resnet", weights="imagenet", size=32, source_size=32)
    for fold in range(5):
        write_checkpoint(tmp_path / str(fold), config)
    with pytest.raises(pytest.fail.Exception, match="the data was opened"):
        folds(config, tmp_path / "data", tmp_path, print)


def test_folds_are_not_for_torchrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TrainingError, match="cannot be trained under torchrun; use --jobs"):
        folds(CONFIG, tmp_path / "data", tmp_path, print)


def test_a_missing_reference_for_the_report_of_folds_is_told_first(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="absent is not a reference folder"):
        folds(CONFIG, tmp_path / "data", tmp_path, print, masks=tmp_path / "absent")


def test_weights_of_another_network_are_told_first(tmp_path: Path) -> None:
    from safetensors.torch import save_file
    from torch import zeros

    save_file({"patch_embed.weight": zeros(8)}, tmp_path / "w.safetensors")
    config = TrainConfig("cnn", weights=str(tmp_path / "w.safetensors"))
    with pytest.raises(WeightsError, match=r"is for another network: unexpected patch_embed\.weight"):
        train(config, tmp_path / "data", tmp_path / "run", train_module.SilentProgress())


def test_a_frozen_part_that_there_is_not_is_told_first(tmp_path: Path) -> None:
    config = TrainConfig("resnet", frozen=("conv1", "layer9"))
    with pytest.raises(TrainingError, match=r"frozen: resnet has no part layer9; it has conv1, bn1"):
        train(config, tmp_path / "data", tmp_path / "run", train_module.SilentProgress())


def test_a_device_is_one_of_three() -> None:
    with pytest.raises(TrainingError, match="device: expected one of auto, cpu, cuda, got 'tpu'"):
        chosen_device("tpu")


def test_every_process_needs_two_images() -> None:
    with pytest.raises(TrainingError, match="at least 2 images for each of the 4 processes, got 6"):
        check_share(TrainConfig("cnn", batch_size=6), Processes(world_size=4))
    with pytest.raises(DataError, match="expected at least 2 training images, got 1"):
        check_number_of_images(1, Processes())
    check_share(TrainConfig("cnn", batch_size=8), Processes(world_size=4))
    check_number_of_images(2, Processes())


def test_a_folder_that_cannot_be_written_to_is_told_without_making_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_writable(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"cannot write to .*file/run \(.*file is not a folder\)"):
        check_writable(tmp_path / "file" / "run")
    monkeypatch.setattr(os, "access", lambda *_, **__: False)  # root may write everywhere
    with pytest.raises(StorageError, match=r"no permission in"):
        check_writable(tmp_path / "run")


def test_an_evaluation_that_could_not_end_is_refused_before_an_image_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from braintumor.evaluate.report import report
    from braintumor.models.registry import load

    def opened(*_: object) -> None:
        pytest.fail("the data was opened")

    monkeypatch.setattr(report, "find_test_images", opened)
    model = load("cnn")
    wrong: tuple[tuple[dict[str, object], str], ...] = (
        ({"protocol": "strict"}, "protocol: expected official or clean, got 'strict'"),
        ({"masks": tmp_path / "absent"}, "absent is not a reference folder"),
    )
    for options, sentence in wrong:
        with pytest.raises(BrainTumorError, match=sentence):
            report.evaluate(model, tmp_path, tmp_path / "out", **options)  # type: ignore[arg-type]
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="is not a folder"):
        report.evaluate(model, tmp_path, tmp_path / "file")
