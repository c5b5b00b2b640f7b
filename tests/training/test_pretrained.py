import copy
import hashlib
import http.server
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.testing import assert_close

from braintumor.errors import WeightsError
from braintumor.training import pretrained
from braintumor.training.config import RESNET_FROZEN
from braintumor.training.networks import Network, build_network


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(folder))  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def backbone_file(network: Network, file: Path, *, without: str = "nothing") -> Path:
    tensors = network.backbone.state_dict()
    save_file({key: value.contiguous() for key, value in tensors.items() if not key.startswith(without)}, file)
    return file


def test_a_download_is_verified_kept_and_not_fetched_twice(server: tuple[Path, str], tmp_path: Path) -> None:
    folder, address = server
    (folder / "w.safetensors").write_bytes(b"content")
    pinned = pretrained.Pinned("w", f"{address}/w.safetensors", hashlib.sha256(b"content").hexdigest())
    fetched = pretrained.download(pinned, tmp_path / "cache")
    assert fetched.read_bytes() == b"content"
    (folder / "w.safetensors").unlink()
    assert pretrained.download(pinned, tmp_path / "cache") == fetched


def test_a_damaged_copy_is_fetched_again(server: tuple[Path, str], tmp_path: Path) -> None:
    folder, address = server
    (folder / "w.safetensors").write_bytes(b"content")
    pinned = pretrained.Pinned("w", f"{address}/w.safetensors", hashlib.sha256(b"content").hexdigest())
    pretrained.download(pinned, tmp_path / "cache").write_bytes(b"cont")
    assert pretrained.download(pinned, tmp_path / "cache").read_bytes() == b"content"


def test_other_content_than_pinned_is_refused_and_nothing_stays(server: tuple[Path, str], tmp_path: Path) -> None:
    folder, address = server
    (folder / "w.safetensors").write_bytes(b"something else")
    pinned = pretrained.Pinned("w", f"{address}/w.safetensors", hashlib.sha256(b"content").hexdigest())
    with pytest.raises(WeightsError, match="expected ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73"):
        pretrained.download(pinned, tmp_path / "cache")
    assert list((tmp_path / "cache" / "weights").iterdir()) == []


def test_a_failed_download_says_how_to_go_on_and_never_falls_back(
    server: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned = pretrained.Pinned("w", f"{server[1]}/absent.safetensors", "0" * 64)
    monkeypatch.setitem(pretrained.IMAGENET, "resnet", pinned)
    monkeypatch.setenv("BRAINTUMOR_CACHE", str(tmp_path / "cache"))
    network = build_network("resnet")
    before = network.backbone.get_parameter("conv1.weight").clone()
    with pytest.raises(WeightsError, match=r"404.*--weights FILE.safetensors.*--weights none"):
        pretrained.start(network, "resnet", "imagenet", allow_partial=True)
    assert torch.equal(before, network.backbone.get_parameter("conv1.weight"))


def test_the_pinned_imagenet_file_is_named_by_revision_and_hash() -> None:
    pinned = pretrained.IMAGENET["resnet"]
    assert "/resnet18.tv_in1k/resolve/bbd144b3e5565108aad885f145491d11bc6ce807/" in pinned.url
    assert pinned.sha256 == "694f673df6520a3158624e8a89af086f59923ee4cd7436fe5bc3bc71d295ad81"


def test_no_weights_are_pinned_for_the_cnn() -> None:
    with pytest.raises(WeightsError, match="no ImageNet weights are pinned for cnn"):
        pretrained.start(build_network("cnn"), "cnn", "imagenet", allow_partial=False)


def test_a_file_is_loaded_whole(tmp_path: Path) -> None:
    torch.manual_seed(1)
    source, target = build_network("resnet"), build_network("resnet")
    file = backbone_file(source, tmp_path / "w.safetensors")
    origin = pretrained.start(target, "resnet", str(file), allow_partial=False)
    assert origin == f"w.safetensors (sha256 {hashlib.sha256(file.read_bytes()).hexdigest()})"
    for key, value in source.backbone.state_dict().items():
        assert torch.equal(value, target.backbone.state_dict()[key])


@pytest.mark.slow
def test_missing_tensors_are_listed_and_need_permission(tmp_path: Path) -> None:
    file = backbone_file(build_network("resnet"), tmp_path / "w.safetensors", without="layer4.1.conv2")
    with pytest.raises(WeightsError, match=r"lacks 1 tensors \(layer4.1.conv2.weight\); pass --allow_partial_weights"):
        pretrained.start(build_network("resnet"), "resnet", str(file), allow_partial=False)
    torch.manual_seed(0)
    network = build_network("resnet")
    origin = pretrained.start(network, "resnet", str(file), allow_partial=True)
    assert origin.endswith("He-normal: layer4.1.conv2.weight")
    spread = float(network.backbone.get_parameter("layer4.1.conv2.weight").detach().std())
    assert spread == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.02)


@pytest.mark.slow
def test_files_of_other_networks_and_damaged_files_are_refused(tmp_path: Path) -> None:
    save_file({"conv1.weight": torch.zeros(8, 3, 3, 3)}, tmp_path / "shape.safetensors")
    save_file({"patch_embed.weight": torch.zeros(8)}, tmp_path / "foreign.safetensors")
    save_file({"bn1.bias": torch.full((64,), float("nan"))}, tmp_path / "nan.safetensors")
    (tmp_path / "damaged.safetensors").write_bytes(b"\x00" * 40)
    for name, reason in (
        ("shape", "other shapes conv1.weight"),
        ("foreign", "unexpected patch_embed.weight"),
        ("nan", "not finite"),
        ("damaged", "cannot be read"),
        ("absent", "cannot be read"),
    ):
        with pytest.raises(WeightsError, match=reason):
            pretrained.start(
                build_network("resnet"), "resnet", str(tmp_path / f"{name}.safetensors"), allow_partial=True
            )


class Planted:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return os.system, (f"touch {self.marker}",)


def test_a_pickle_is_never_opened_and_how_to_convert_it_is_said(tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(1), "planted": Planted(tmp_path / "ran")}, tmp_path / "resnet18.pth")
    (tmp_path / "old.pth").write_bytes(pickle.dumps(Planted(tmp_path / "ran"), protocol=2))
    for name in ("resnet18.pth", "old.pth"):
        with pytest.raises(WeightsError, match="can contain programs and is therefore not opened") as refusal:
            pretrained.start(build_network("resnet"), "resnet", str(tmp_path / name), allow_partial=True)
        assert f"torch.load('{name}', weights_only=True), '{Path(name).stem}.safetensors')" in str(refusal.value)
        assert "\n" not in str(refusal.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_the_advice_how_to_convert_a_file_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = build_network("resnet")
    tensors = {
        key: value.contiguous() for key, value in source.backbone.state_dict().items()
    }  # as torchvision has them
    torch.save(tensors, tmp_path / "resnet18.pth")
    with pytest.raises(WeightsError) as refusal:
        pretrained.start(build_network("resnet"), "resnet", str(tmp_path / "resnet18.pth"), allow_partial=False)
    program = str(refusal.value).split('"')[1]
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    target = build_network("resnet")
    pretrained.start(target, "resnet", str(tmp_path / "resnet18.safetensors"), allow_partial=False)
    assert torch.equal(source.backbone.get_parameter("conv1.weight"), target.backbone.get_parameter("conv1.weight"))


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "it is empty"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"<!doctype html>", "a web page"),
    ],
)
def test_files_of_other_kinds_are_named(content: bytes, kind: str, tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(WeightsError, match=kind):
        pretrained.start(build_network("resnet"), "resnet", str(tmp_path / "w.safetensors"), allow_partial=True)
    with pytest.raises(WeightsError, match="it is a folder; name the file in it"):
        pretrained.start(build_network("resnet"), "resnet", str(tmp_path), allow_partial=True)


def fold(network: Network) -> None:
    """Give every batch norm the form of the folded file: identity statistics and a bias."""
    for norm in network.backbone.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.zero_()  # type: ignore[union-attr]
            norm.running_var.fill_(1 - norm.eps)  # type: ignore[union-attr]
            norm.weight.data.fill_(1)
            norm.bias.data.normal_(0, 0.3)


def test_unfolding_keeps_the_function_and_training_mode_no_longer_disturbs_it() -> None:
    torch.manual_seed(0)
    network = build_network("resnet")
    fold(network)
    images = torch.rand(16, 1, 64, 64)
    before = network.eval().features(images)
    disturbed = copy.deepcopy(network).train().features(images)
    norms = pretrained.folded_norms(network, RESNET_FROZEN)
    assert len(norms) == 10  # layer3 and layer4: four blocks of two, two downsamplings
    pretrained.unfold_norms(network, norms, lambda: images.split(8))
    assert_close(network.eval().features(images), before, atol=1e-4, rtol=1e-4)
    for norm in norms:
        norm.train()
    trained = network.features(images)
    assert (trained - before).abs().mean() < 0.01 * before.abs().mean()
    assert (disturbed - before).abs().mean() > 0.1 * before.abs().mean()


def test_ordinary_batch_norms_are_not_taken_for_folded_ones() -> None:
    assert pretrained.folded_norms(build_network("resnet"), RESNET_FROZEN) == []
