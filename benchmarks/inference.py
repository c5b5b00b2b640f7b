"""How fast the trained ResNet18 answers, what its class maps and its 8-bit variant cost, and the memory for a folder.

`int8.ratio`, `float32.ratio`: images/s of batches of 32 over those of eager PyTorch with the same weights (float32,
channels_last, inference_mode, as many threads). PyTorch computes logits, ours logits and four class maps; reading and
preparing images is not counted.
`int8.accuracy_loss`: accuracy of float32 minus that of int8 on the official test images, interval over groups of
similar slices. `int8.class_map_correlation`: Pearson's, over the maps of the classes that float32 predicts.
`class_maps.overhead`: time of the network with class maps over the same network cut off at the logits, minus 1.
`class_maps.ratio`: time of the package grad-cam for the maps of the four classes, one after the other and without
its enlarging, over ours for logits and maps; the maps are checked to be equal.
`warm_milliseconds`: one image file with a loaded model (float32), from the path to the answer with its class maps.
`folder.…`: the command `predict` with int8 on a folder of 10,000 files, process start included; its memory is the
proportional set size, and the growth is that of the peak after the first 2,000 answers.

Command: python benchmarks/inference.py
Takes: 6 minutes.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx.utils import Extractor
from record import ROOT, data_folder, number, record, spread
from safetensors.torch import load_file
from training_efficiency import pss_mib

from braintumor.classes import CLASSES
from braintumor.data.duplicates.groups import group_numbers
from braintumor.data.duplicates.thumbnails import make_thumbnails
from braintumor.data.layout import IMAGE_SUFFIXES, list_images
from braintumor.data.manifest import Manifest
from braintumor.errors import ModelError
from braintumor.files import cache_folder
from braintumor.intervals import accuracy, accuracy_difference
from braintumor.io.read import read
from braintumor.models.session import Model, load_folder, open_session, usable_cores
from braintumor.predictor import BATCH, predict
from braintumor.training.networks import Network, build_network
from braintumor.training.quantization import compare_precisions, quantize

MODEL = Path("runs/resnet-fast")
PAIRS, BATCHES = 7, 8
EXPLAINED = 8  # images explained at once, by both sides
FILES, EARLY, FOLDER_RUNS = 10_000, 2_000, 5

Numbers = dict[str, dict[str, Any]]
Images = NDArray[np.float32]


def main() -> None:
    """Produce `inference.json`."""
    data = data_folder() / "brain-tumor-mri"
    folder = trained_model()
    models = {"float32": load_folder(folder), "int8": with_integers(folder, data)}
    test = list_images(data, parts=("test",)).manifest
    inputs = np.stack([models["float32"].card.preprocess(read(test.path(row))) for row in islice(test, 0, None, 20)])
    network = eager(folder, models["float32"].card.architecture)
    numbers = speed(models, network, inputs[:BATCH])
    numbers |= agreement(models, test)
    numbers |= class_maps(models["float32"], network, inputs)
    for precision, model in models.items():
        key = "warm_milliseconds" if precision == "float32" else f"{precision}.warm_milliseconds"
        numbers[key] = spread(warm_milliseconds(model, test), "ms")
    numbers |= folder_run(folder, data / "Training")
    record("inference", "python benchmarks/inference.py", numbers)


def trained_model() -> Path:
    """Return the model folder, or stop with what trains it."""
    folder = ROOT / MODEL
    if not (folder / "card.json").is_file():
        sys.exit(f"{MODEL} is missing; train it with: python benchmarks/official_fast.py (part of make bench-all)")
    return folder


def with_integers(folder: Path, data: Path) -> Model:
    """Return the model's 8-bit variant, made first where it is missing."""
    try:
        return load_folder(folder, precision="int8")
    except ModelError:
        quantize(folder, data)
        return load_folder(folder, precision="int8")


def eager(folder: Path, architecture: str) -> Network:
    """Return the network in PyTorch, in channels_last as `build_network` makes it, with the model's weights."""
    torch.set_num_threads(usable_cores())
    network = build_network(architecture)
    network.load_state_dict(load_file(folder / "weights.safetensors"))
    return network.eval()


def seconds(runs: Sequence[Callable[[], object]], repeats: int) -> list[list[float]]:
    """Return for each of several things to do its `PAIRS` times, taken in turns after one warm-up."""
    for run in runs:
        run()
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(PAIRS):
        for run, taken in zip(runs, times, strict=True):
            began = time.perf_counter()
            for _ in range(repeats):
                run()
            taken.append((time.perf_counter() - began) / repeats)
    return times


def ratios(times: Sequence[float], ours: Sequence[float]) -> list[float]:
    """Return time over time for each pair of turns."""
    return [theirs / mine for theirs, mine in zip(times, ours, strict=True)]


def speed(models: dict[str, Model], network: Network, batch: Images) -> Numbers:
    """Return images/s of PyTorch and of each precision, and the ratios to PyTorch."""
    tensor = torch.from_numpy(batch)

    def logits() -> object:
        with torch.inference_mode():
            return network(tensor)

    runs = [logits, *(lambda model=model: model(batch) for model in models.values())]
    theirs, *ours = seconds(runs, BATCHES)
    numbers: Numbers = {"torch.images_per_second": spread([len(batch) / taken for taken in theirs], "images/s")}
    for precision, times in zip(models, ours, strict=True):
        numbers[f"{precision}.images_per_second"] = spread([len(batch) / taken for taken in times], "images/s")
        numbers[f"{precision}.ratio"] = spread(ratios(theirs, times), "ratio")
    return numbers


def agreement(models: dict[str, Model], test: Manifest) -> Numbers:
    """Return the accuracies on the test images, what int8 loses, and how far its class maps correlate."""
    labels = [row.label for row in test]
    answers = {precision: predict([test.path(row) for row in test], model) for precision, model in models.items()}
    groups = group_numbers(test, make_thumbnails(test, cache_folder())[0])
    right = {
        precision: np.array([answer.predicted for answer in given]) == labels for precision, given in answers.items()
    }
    _, parity = compare_precisions(answers["float32"], answers["int8"], labels)
    loss = accuracy_difference(right["float32"], right["int8"], groups)
    found = {f"{precision}.accuracy": accuracy(hits, groups) for precision, hits in right.items()}
    numbers = {
        key: asdict(value) | {"unit": "fraction"} for key, value in (found | {"int8.accuracy_loss": loss}).items()
    }
    for key in ("agreement", "class_map_correlation", "class_map_correlation_median"):
        numbers[f"int8.{key}"] = number(parity[key], "fraction" if key == "agreement" else "correlation", n=len(test))
    return numbers


def class_maps(model: Model, network: Network, inputs: Images) -> Numbers:
    """Return what four class maps cost beside the logits, and what the package grad-cam takes for the same maps."""
    file = model.folder / "model.onnx"
    with tempfile.TemporaryDirectory() as place:
        cut = Path(place) / "logits.onnx"
        onnx.save(Extractor(onnx.load(file)).extract_model(["image"], ["logits"]), cut)
        bare = open_session(cut, usable_cores())
    batch, few = inputs[:BATCH], inputs[:EXPLAINED]
    without, full = seconds([lambda: bare.run(None, {"image": batch}), lambda: model(batch)], BATCHES)
    by_gradient = grad_cam(network)
    expected, found = by_gradient(few), model(few)[1]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3 * expected.max())
    theirs, ours = seconds([lambda: by_gradient(few), lambda: model(few)], 2)
    return {
        "class_maps.overhead": spread([ratio - 1 for ratio in ratios(full, without)], "fraction"),
        "class_maps.ratio": spread(ratios(theirs, ours), "ratio"),
        "class_maps.grad_cam_milliseconds": spread([1e3 * taken / EXPLAINED for taken in theirs], "ms per image"),
        "class_maps.milliseconds": spread([1e3 * taken / EXPLAINED for taken in ours], "ms per image"),
    }


def grad_cam(network: Network) -> Callable[[Images], Images]:
    """Return a function from images to the maps (N, 4, h, w) of the package grad-cam, not rescaled or enlarged."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pytorch_grad_cam import GradCAM, base_cam
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    base_cam.scale_cam_image = lambda cam, target_size=None: cam
    cam = GradCAM(network, [network.backbone])

    def maps(images: Images) -> Images:
        tensor = torch.from_numpy(images)
        targets = [[ClassifierOutputTarget(category)] * len(images) for category in range(len(CLASSES))]
        return np.stack([cam(tensor, chosen) for chosen in targets], axis=1)

    return maps


def warm_milliseconds(model: Model, test: Manifest) -> list[float]:
    """Return the time of `predict` for each of some test images, after a few others."""
    times = []
    for row in islice(test, 0, None, 12):
        began = time.perf_counter()
        predict(test.path(row), model)
        times.append(1e3 * (time.perf_counter() - began))
    return times[10:]


def folder_run(model: Path, images: Path) -> Numbers:
    """Return images/s and memory of the command on a folder of copies of these images."""
    sources = sorted(file for file in images.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
    command = [sys.executable, "-m", "braintumor", "predict", "--model", str(model), "--precision", "int8"]
    rates, early, peaks = [], [], []
    with tempfile.TemporaryDirectory() as place:
        for index, source in enumerate(islice(cycle(sources), FILES)):
            shutil.copyfile(source, Path(place) / f"{index:05}{source.suffix}")
        for _ in range(FOLDER_RUNS):
            began = time.perf_counter()
            first, peak = memory_of([*command, "--format", "csv", place])
            rates.append(FILES / (time.perf_counter() - began))
            early.append(first)
            peaks.append(peak)
    return {
        "folder.images_per_second": spread(rates, "images/s"),
        "folder.peak_mib": spread(peaks, "MiB"),
        "folder.memory_growth_mib": spread([last - first for first, last in zip(early, peaks, strict=True)], "MiB"),
        "folder.images": number(FILES, "images"),
    }


def memory_of(command: Sequence[str]) -> tuple[float, float]:
    """Return the peak PSS of a command that prints a line per answer: until `EARLY` lines, and in all."""
    samples: list[float] = []
    early, lines = 0.0, -1  # the first line is the header
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.1):
            samples.append(pss_mib(running.pid))

    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as running:
        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            for lines, _ in enumerate(running.stdout or ()):
                if lines == EARLY:
                    early = max([*samples, pss_mib(running.pid)])
        finally:
            ended.set()
            watcher.join()
    if running.returncode or lines != FILES:
        sys.exit(f"the command ended with {running.returncode} after {lines} of {FILES} answers")
    return early, max(samples)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    main()
