import csv
import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from braintumor import load
from braintumor.data.phantom import write_phantoms
from braintumor.errors import StorageError, TrainingError
from braintumor.io.read import read
from braintumor.models.preprocess import Preprocess
from braintumor.training import augment, checkpoint, export
from braintumor.training import train as module
from braintumor.training.checkpoint import Epoch, State
from braintumor.training.config import TrainConfig, recipe
from braintumor.training.distributed import Processes
from braintumor.training.networks import Network, build_network
from braintumor.training.train import distraction, inverse_frequency, is_over, train

pytestmark = pytest.mark.usefixtures("quick_export")

TINY = TrainConfig("cnn", epochs=2, size=32, source_size=36, batch_size=16, learning_rate=1e-3)
REAL_EXPORT = export.export


class Silent:
    """A progress that may act when an epoch ends."""

    def __init__(self, after_epoch: object = None) -> None:
        self.after_epoch = after_epoch
        self.messages: list[str] = []

    def say(self, message: str) -> None:
        self.messages.append(message)

    def step(self, epoch: int, done: int, images: int, loss: float, learning_rate: float) -> None:
        pass

    def epoch(self, row: Epoch, epochs: int) -> None:
        if self.after_epoch is not None:
            self.after_epoch(row)  # type: ignore[operator]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms")
    write_phantoms(folder, 20, size=40)
    return folder


def test_training_writes_a_model_folder_that_predicts(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "export", REAL_EXPORT)
    card = train(TINY, data, tmp_path / "run", Silent())
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "card.json",
        "history.csv",
        "manifest.csv",
        "model.onnx",
        "tensorboard",
        "weights.safetensors",
    ]
    rows = list(csv.DictReader((tmp_path / "run" / "history.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert card.metrics["kept_epoch"] == int(max(rows, key=lambda row: float(row["val_macro_f1"]))["epoch"])
    assert card.data["counts"]["val"] == {"glioma": 2, "meningioma": 2, "pituitary": 2, "no_tumor": 2}
    model = load(tmp_path / "run")
    assert model.card == card
    logits, maps, _ = model(np.zeros((3, 1, 32, 32), np.float32))
    assert (logits.shape, maps.shape) == ((3, 4), (3, 4, 1, 1))


STOPPED = """
import os, signal, sys
from pathlib import Path
from braintumor.training.config import TrainConfig
from braintumor.training.train import train
sys.path.insert(0, {tests!r})
from test_train import TINY, Silent, replace
config = replace(TINY, epochs=3, averaging=0.9)
class Killing(Silent):
    def step(self, epoch, done, images, loss, learning_rate):
        if (epoch, done) == (2, 32):
            os.kill(os.getpid(), signal.SIGKILL)
train(config, Path({data!r}), Path({out!r}), Killing())
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_weights_bit_for_bit(data: Path, tmp_path: Path) -> None:
    config = replace(TINY, epochs=3, averaging=0.9)
    train(config, data, tmp_path / "whole", Silent())
    program = STOPPED.format(tests=str(Path(__file__).parent), data=str(data), out=str(tmp_path / "killed"))
    killed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "killed" / "card.json").exists()
    progress = Silent()
    card = train(config, data, tmp_path / "killed", progress, resume=True)
    assert "resumed after epoch 1" in progress.messages
    assert card.metrics["epochs"] == 3
    whole, resumed = (load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "killed"))
    for name, tensor in whole.items():
        assert torch.equal(tensor, resumed[name]), name


@pytest.mark.slow
def test_the_seed_decides_the_weights(data: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        train(replace(TINY, epochs=1, seed=seed), data, tmp_path / name, Silent())
    first, second = (load_file(tmp_path / name / "weights.safetensors") for name in "ab")
    assert not torch.equal(first["head.0.weight"], second["head.0.weight"])


@pytest.mark.slow
def test_a_signal_stops_in_order_and_says_how_to_go_on(data: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "braintumor", "train", "--model", "cnn", "--data_dir", str(data)]
    command += ["--recipe", "fast", "--epochs", "500"]  # which never stops early, however late the signal comes
    runs = {number: tmp_path / str(number) for number in (signal.SIGTERM, signal.SIGINT)}
    running = {
        number: subprocess.Popen(
            [*command, "--out", str(run)],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},  # two at once
        )
        for number, run in runs.items()
    }
    deadline = time.monotonic() + 100
    for number, process in running.items():
        while not (runs[number] / "checkpoint" / "state.json").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(number)
    for process in running.values():
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 130, errors
        assert "Go on with the same command and --resume" in errors
        assert "Traceback" not in errors


@pytest.mark.slow
def test_validation_is_never_augmented(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    original = augment.draw

    def counting(settings: augment.Augment, seed: int, epoch: int, images: list[int]) -> augment.Variation:
        seen.extend(images)
        return original(settings, seed, epoch, images)

    monkeypatch.setattr(augment, "draw", counting)
    card = train(replace(TINY, epochs=1), data, tmp_path / "run", Silent())
    assert len(seen) == sum(card.data["counts"]["train"].values())


@pytest.mark.slow
def test_batch_norms_are_measured_on_unaugmented_images_where_asked(data: Path, tmp_path: Path) -> None:
    config = replace(TINY, epochs=1, norm_batches=2, dropout=0.9)
    seen: list[module.Run] = []
    original = module.measure_norms

    def keeping(run: module.Run, order: tuple[torch.Tensor, ...]) -> None:
        original(run, order)
        norm = run.network.backbone.get_submodule("0.1")
        images = run.train.grey[torch.cat(order[:2]).numpy()][:, None]
        resized = torch.nn.functional.interpolate(torch.from_numpy(images) / 255, size=(32, 32), mode="bilinear")
        three = (resized - run.network.mean) / run.network.std
        with torch.no_grad():
            features = run.network.backbone.get_submodule("0.0")(three)
        torch.testing.assert_close(norm.running_mean, features.mean(dim=(0, 2, 3)), atol=0.02, rtol=0.02)
        assert norm.momentum == 0.1
        assert not run.network.head[3].training  # no dropout while measuring
        seen.append(run)

    with pytest.MonkeyPatch.context() as monkey:
        monkey.setattr(module, "measure_norms", keeping)
        train(config, data, tmp_path / "run", Silent())
    assert len(seen) == 1


@pytest.mark.slow
def test_what_is_kept_is_the_moving_average_of_the_weights(data: Path, tmp_path: Path) -> None:
    """An epoch has four steps here, so there is one update."""
    seen: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    original = module.average

    def watching(run: module.Run, decay: float) -> None:
        kept, new = run.averaged.head[0].weight, run.network.head[0].weight
        before = kept.clone()
        original(run, decay)
        torch.testing.assert_close(kept, before * decay + new * (1 - decay))
        assert decay == pytest.approx((4 / 13) ** 4)  # the ramp (1 + t) / (10 + t) at the fourth step, t = 3
        seen.append((before, new.detach().clone(), kept.clone()))

    config = replace(TINY, epochs=1, averaging=0.9)
    with pytest.MonkeyPatch.context() as monkey:
        monkey.setattr(module, "average", watching)
        train(config, data, tmp_path / "run", Silent())
    ((before, new, kept),) = seen
    assert not torch.equal(before, new)
    assert torch.equal(load_file(tmp_path / "run" / "weights.safetensors")["head.0.weight"], kept)


def test_frozen_parts_are_left_out_of_the_average() -> None:
    network = build_network("resnet")
    changing = {value.data_ptr() for value in module.tensors_that_change(network, recipe("reference", "resnet"))}
    names = {name for name, value in network.state_dict().items() if value.data_ptr() in changing}
    assert {name.split(".")[1] for name in names if name.startswith("backbone")} == {"layer3", "layer4"}
    assert {"backbone.layer4.1.bn2.running_var", "head.1.running_mean", "head.4.bias"} <= names


@pytest.mark.slow
def test_training_images_have_the_size_of_their_share_of_the_run(data: Path, tmp_path: Path) -> None:
    sizes: list[int] = []
    original = module.backward

    def watching(run: module.Run, batch: module.Batch) -> float:
        sizes.append(batch.grey.shape[-1])
        return original(run, batch)

    with pytest.MonkeyPatch.context() as monkey:
        monkey.setattr(module, "backward", watching)
        card = train(replace(TINY, train_sizes=(48, 64)), data, tmp_path / "run", Silent())
    assert sizes == [48] * 4 + [64] * 4
    assert card.preprocess.size == TINY.size


@pytest.mark.parametrize("guidance", [0.0, 0.5])
def test_the_loss_is_the_weighted_smoothed_mean_and_the_distraction(guidance: float) -> None:
    logits, labels = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0]]), torch.tensor([0, 2])
    weight = torch.tensor([1.0, 5.0, 3.0, 7.0])
    config = TrainConfig("cnn", label_smoothing=0.1, guidance=guidance)

    class Fixed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.logits = torch.nn.Parameter(logits)

        def forward(self, _: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.logits, torch.full((2, 1, 2, 2), 1 / 4).log()

    network = Fixed()
    fields = dict.fromkeys(field.name for field in dataclasses.fields(module.Run))
    values = {"config": config, "parallel": network, "class_weights": weight, "processes": Processes()}
    run = module.Run(**{**fields, **values, "device": torch.device("cpu"), "dtype": torch.float32})
    masks = torch.zeros(2, 1, 4, 4)
    masks[1, 0, :2, :2] = 1  # only the second image has an outline: one field of four
    loss = module.backward(run, module.Batch(torch.zeros(2, 1, 8, 8), labels, masks if guidance else None))
    expected = torch.nn.functional.cross_entropy(logits, labels, weight=weight, label_smoothing=0.1)
    assert loss == pytest.approx(float(expected) + guidance * np.log(4))
    assert network.logits.grad is not None
    assert float(network.logits.grad.sum()) == pytest.approx(0, abs=1e-6)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_epoch(data: Path, tmp_path: Path) -> None:
    class Spoiling(Silent):
        def epoch(self, row: Epoch, epochs: int) -> None:
            monkey.setattr(module, "learning_rate", lambda *_: float("nan"))

    with (
        pytest.MonkeyPatch.context() as monkey,
        pytest.raises(TrainingError, match="the loss became nan in epoch 2, step 2"),
    ):
        train(TINY, data, tmp_path / "run", Spoiling())
    assert len(checkpoint.load_checkpoint(tmp_path / "run" / "checkpoint").history) == 1
    assert train(TINY, data, tmp_path / "run", Silent(), resume=True).metrics["epochs"] == 2


@pytest.mark.slow
def test_a_full_disk_keeps_the_last_checkpoint(data: Path, tmp_path: Path) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as monkey:
        progress = Silent(lambda _: monkey.setattr(os, "fsync", full))
        with pytest.raises(StorageError, match="No space left on device"):
            train(TINY, data, tmp_path / "run", progress)
    assert not list((tmp_path / "run" / "checkpoint").glob(".*"))
    assert train(TINY, data, tmp_path / "run", Silent(), resume=True).metrics["epochs"] == 2


@pytest.mark.slow
def test_nothing_is_overwritten(data: Path, tmp_path: Path) -> None:
    stop = Silent(lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        train(TINY, data, tmp_path / "run", stop)
    with pytest.raises(TrainingError, match="holds an unfinished run; go on with --resume"):
        train(TINY, data, tmp_path / "run", Silent())
    with pytest.raises(
        TrainingError, match=r"was started with other settings or data .*weight_decay: was 0.01, is 0.5"
    ):
        train(replace(TINY, weight_decay=0.5), data, tmp_path / "run", Silent(), resume=True)
    train(TINY, data, tmp_path / "run", Silent(), resume=True)
    with pytest.raises(TrainingError, match="already holds a finished model"):
        train(TINY, data, tmp_path / "run", Silent())


@pytest.mark.slow
def test_a_setting_that_is_younger_than_the_run_had_its_default(data: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(TINY, data, tmp_path / "run", Silent(lambda _: (_ for _ in ()).throw(KeyboardInterrupt)))
    file = tmp_path / "run" / "checkpoint" / "state.json"
    record = json.loads(file.read_text())
    del record["identity"]["settings"]["norm_batches"]
    file.write_text(json.dumps(record))
    with pytest.raises(TrainingError, match="norm_batches: was 0, is 1"):
        train(replace(TINY, norm_batches=1), data, tmp_path / "run", Silent(), resume=True)
    assert train(TINY, data, tmp_path / "run", Silent(), resume=True).train["norm_batches"] == 0


def test_there_must_be_something_to_resume(data: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="nothing to resume"):
        train(TINY, data, tmp_path / "run", Silent(), resume=True)


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["state.json", "last-001.safetensors", "kept-001.safetensors"])
def test_a_damaged_checkpoint_is_refused(data: Path, tmp_path: Path, damage: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(TINY, data, tmp_path / "run", Silent(lambda _: (_ for _ in ()).throw(KeyboardInterrupt)))
    file = tmp_path / "run" / "checkpoint" / damage
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(TrainingError, match=f"{damage}.* damaged"):
        train(TINY, data, tmp_path / "run", Silent(), resume=True)


def history(*scores: float, keep_last: bool = False) -> State:
    rows = [Epoch(number, 0.0, 0.0, 0.0, 0.0, score, 0.0, 0.0) for number, score in enumerate(scores, 1)]
    return State({"settings": {"keep_last": keep_last}}, "float32", "", history=rows)


def test_early_stopping_waits_for_five_epochs_without_a_better_one() -> None:
    config = recipe("reference", "cnn")
    assert (config.epochs, config.patience) == (50, 5)
    assert not is_over(history(0.5, 0.9, 0.8, 0.8, 0.8, 0.8), config)
    assert is_over(history(0.5, 0.9, 0.8, 0.8, 0.8, 0.8, 0.9), config)  # equal is not better
    assert not is_over(history(0.5, 0.9, 0.8, 0.8, 0.8, 0.8, 0.91), config)
    assert history(0.5, 0.9, 0.8, 0.9).kept.epoch == 2


@pytest.mark.slow
def test_the_last_epoch_is_kept_where_the_settings_say_so(data: Path, tmp_path: Path) -> None:
    assert history(0.5, 0.9, 0.8, keep_last=True).kept.epoch == 3
    patient = replace(TINY, epochs=50, patience=1, keep_last=True)
    assert not is_over(history(0.5, 0.9, 0.8, keep_last=True), patient)  # nor does the run stop early
    config = replace(TINY, epochs=3, keep_last=True)
    lines = Silent()
    card = train(config, data, tmp_path / "run", lines)
    assert card.metrics["kept_epoch"] == 3
    assert any("epoch 3 is kept" in message for message in lines.messages)
    rows = list(csv.DictReader((tmp_path / "run" / "history.csv").read_text().splitlines()))
    assert card.metrics["validation"]["macro_f1"] == float(rows[-1]["val_macro_f1"])


def test_the_reference_recipe_is_the_documented_one() -> None:
    cnn, resnet = recipe("reference", "cnn"), recipe("reference", "resnet")
    for config in (cnn, resnet):
        assert (config.learning_rate, config.final_learning_rate, config.weight_decay) == (1e-4, 1e-6, 0.01)
        assert (config.batch_size, config.validation_fraction, config.dropout) == (32, 0.15, 0.6)
        assert (config.size, config.source_size) == (224, 256)
    assert (cnn.norm_batches, resnet.norm_batches) == (32, 0)
    assert (resnet.epochs, resnet.weights, resnet.frozen) == (30, "imagenet", ("conv1", "bn1", "layer1", "layer2"))


def test_class_weights_are_inverse_frequencies() -> None:
    weights = inverse_frequency(torch.tensor([0, 0, 0, 0, 1, 1, 2, 3]))
    assert weights.tolist() == [0.5, 1.0, 2.0, 2.0]


@pytest.mark.slow
def test_the_card_records_every_setting(data: Path, tmp_path: Path) -> None:
    card = train(replace(TINY, epochs=1), data, tmp_path / "run", Silent())
    recorded = json.loads((tmp_path / "run" / "card.json").read_text())
    assert recorded["train"]["augment"]["rotation"] == 30.0
    assert recorded["train"]["batch_size"] == 16
    assert recorded["train"]["precision"] in ("bfloat16", "float32")
    assert recorded["weights_origin"] == "random (He-normal)"
    assert recorded["data"]["fingerprint"] == card.data["fingerprint"]


def test_distraction_worked_by_hand() -> None:
    even = torch.full((3, 1, 2, 2), 1 / 4).log()
    masks = torch.zeros(3, 1, 4, 4)
    masks[0, 0, :2, :2] = 1  # one of four fields: log 4
    masks[1, 0, :, 2:] = 0.5  # two of four: log 2; the third image has no outline
    divergence, outlined = distraction(even, masks)
    assert float(divergence) == pytest.approx(np.log(4) + np.log(2))
    assert float(outlined) == 2
    perfect = torch.full((1, 1, 2, 2), 1e-9)
    perfect[0, 0, 0, 0] = 1
    assert float(distraction(perfect.log(), masks[:1])[0]) == pytest.approx(0, abs=1e-6)


@pytest.fixture
def reference(data: Path, tmp_path: Path) -> Path:
    """Return a reference folder that holds the training slices with tumors, each with an outline in its corner."""
    (tmp_path / "reference" / "images").mkdir(parents=True)
    lines = ["figshare_id,class,patient,tumor_outline_xy"]
    for file in sorted((data / "Training").glob("*/*.png")):
        if file.parent.name != "notumor":
            (tmp_path / "reference" / "images" / file.name).write_bytes(file.read_bytes())
            lines.append(f"{file.stem},{file.parent.name},{file.stem},0 0;16 0;16 16;0 16")
    (tmp_path / "reference" / "annotations.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "reference"


@pytest.mark.slow
def test_outlines_teach_the_network_where_to_look(data: Path, reference: Path, tmp_path: Path) -> None:
    still = augment.Augment((1, 1), (1, 1), 0, 0, 0, 0, 0, 0)
    settings = {"map_stride": 8, "attention": True, "guidance": 10.0, "epochs": 12, "patience": 99, "batch_size": 8}
    slices = [file for file in sorted((data / "Training").glob("*/*.png")) if file.parent.name != "notumor"]
    images = torch.from_numpy(np.stack([Preprocess(TINY.size)(read(file)) for file in slices]))
    share = {}
    for masks in ("", str(reference)):
        network, run = build_network("cnn", map_stride=8, attention=True).eval(), tmp_path / f"{bool(masks)}"

        def keep(row: Epoch, network: Network = network, run: Path = run) -> None:
            tensors = load_file(run / "checkpoint" / checkpoint.last_name(row.epoch))
            network.load_state_dict(checkpoint.under(tensors, "network."))

        config = replace(TINY, masks=masks, augment=still, **settings)
        card = train(config, data, run, Silent(keep))
        assert card.train["masks"] == Path(masks).name
        with torch.no_grad():
            attention = network.with_attention(images)[1].exp()
        share[masks] = float(attention[:, :, :2, :2].sum(dim=(1, 2, 3)).mean())  # upper left 16 of 40 pixels
    assert share[str(reference)] > 0.7 > 0.5 > share[""]


def test_outlines_are_refused_where_they_cannot_teach(data: Path, reference: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="the recipe reference pools all positions evenly"):
        train(replace(TINY, masks=str(reference)), data, tmp_path / "run", Silent())
