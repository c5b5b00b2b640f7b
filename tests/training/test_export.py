"""model.onnx answers as the network does, and its class maps are those of Grad-CAM."""

import warnings
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from braintumor.errors import TrainingError
from braintumor.models.ood import OodScorer
from braintumor.training import export as export_module
from braintumor.training.export import WithClassMaps, check_parity, class_map_scale, export, gate_of, run
from braintumor.training.networks import Network, build_network

IMAGES = torch.rand(5, 1, 64, 64, generator=torch.Generator().manual_seed(3))
ROUND = {channels: OodScorer(np.zeros(channels), np.eye(channels)) for channels in (2, 768)}
"""Scorers that measure the distance from zero, by channels."""
CamOf = Callable[[Network, Tensor, int], NDArray[np.float32]]


class Exported(NamedTuple):
    network: Network
    ood_scorer: OodScorer
    file: Path


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, network: Network) -> dict[str, Exported]:
    """Return both documented networks with random weights, and their ONNX files."""
    torch.manual_seed(1)
    resnet = build_network("resnet").eval()
    resnet.head.load_state_dict(varied_head(512).state_dict())
    with torch.no_grad():
        silent = WithClassMaps(resnet, ROUND[768])(IMAGES)[1].amax(dim=(0, 2, 3)) == 0
        resnet.head[4].weight[silent] *= -1  # so that every class has a map to compare
    networks = {}
    for name, model in (("cnn", network), ("resnet", resnet)):
        ood_scorer, file = gate_of(model, [IMAGES]), tmp_path_factory.mktemp(name) / "model.onnx"
        export(model, ood_scorer, 64, file)
        networks[name] = Exported(model, ood_scorer, file)
    return networks


def varied_head(channels: int) -> nn.Sequential:
    """Return a head whose batch norm has rising and falling units."""
    norm = Network(nn.Identity(), channels, 0.6, [0]).head
    with torch.no_grad():
        norm[1].running_mean.normal_()
        norm[1].running_var.uniform_(0.5, 2)
        norm[1].weight.uniform_(-1, 2)
    return norm


@pytest.fixture
def grad_cam(monkeypatch: pytest.MonkeyPatch) -> CamOf:
    """Return the Grad-CAM of the grad-cam package, by hooks and autograd, without its scaling per image."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base_cam = pytest.importorskip("pytorch_grad_cam.base_cam", reason="the package grad-cam is not installed")
        from pytorch_grad_cam import GradCAM
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    monkeypatch.setattr(base_cam, "scale_cam_image", lambda cam, target_size=None: cam)

    def maps(network: Network, images: Tensor, category: int) -> NDArray[np.float32]:
        copy = deepcopy(network)
        with GradCAM(copy, [copy.backbone]) as cam:
            return np.asarray(cam(images, [ClassifierOutputTarget(category)] * len(images)))

    return maps


@pytest.mark.parametrize("category", range(4))
@pytest.mark.parametrize("name", ["cnn", "resnet"])
def test_class_maps_equal_grad_cam(exported: dict[str, Exported], grad_cam: CamOf, name: str, category: int) -> None:
    network, _, file = exported[name]
    maps = run(file, [IMAGES]).class_maps
    expected = grad_cam(network, IMAGES, category)
    assert expected.shape == maps[:, category].shape
    assert expected.max() > 0
    np.testing.assert_allclose(maps[:, category], expected, rtol=0, atol=1e-4 * expected.max())


class Fixed(nn.Module):
    """A backbone that answers every image with the same features (2, 2, 2)."""

    def forward(self, image: Tensor) -> Tensor:
        features = torch.tensor([[[1.0, 2.0], [3.0, 6.0]], [[4.0, 0.0], [0.0, 0.0]]])  # means 3 and 1
        return features.expand(len(image), 2, 2, 2)

    def forward_intermediates(self, image: Tensor, indices: list[int]) -> tuple[Tensor, list[Tensor]]:
        return self(image), [self(image)]


def hand_made() -> Network:
    """Return a network on these features whose head has three units in use.

    Unit 0: 3, normalised to 3 * (3 - 1) / 2 = 3, slope 3 / 2. Unit 1: 2, normalised to 2 - 5 = -3, off.
    Unit 2: -3 + 2 = -1, normalised to 2, slope -2. Of the last layer, class 0 takes 2 of unit 0 and 100 of unit 1,
    class 1 takes 1 of unit 2, class 2 takes -1 of unit 0, class 3 takes nothing.
    """
    network = Network(Fixed(), 2, 0.6, [0]).eval()
    first, norm, _, _, last = network.head
    with torch.no_grad():
        for tensor in (first.weight, first.bias, norm.bias, last.weight, last.bias):
            tensor.zero_()
        first.weight[:3] = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 2.0]])
        norm.running_mean[0] = 1
        norm.running_var[:] = 1 - norm.eps
        norm.running_var[0] = 4 - norm.eps
        norm.weight[:3] = torch.tensor([3.0, 1.0, -2.0])
        norm.bias[1] = -5
        last.weight[0, :2] = torch.tensor([2.0, 100.0])
        last.weight[1, 2] = 1
        last.weight[2, 0] = -1
        last.bias[3] = 0.5
    return network


def test_class_maps_worked_by_hand() -> None:
    ood_scorer = OodScorer(np.array([1.0, 0.0]), np.array([[2.0, 1.0], [0.0, 3.0]]))
    with torch.no_grad():
        logits, maps, ood_score = WithClassMaps(hand_made(), ood_scorer)(torch.zeros(1, 1, 2, 2))
    torch.testing.assert_close(logits, torch.tensor([[6.0, 2.0, -3.0, 0.5]]))
    # class 0: gradient (3, 0) over 4 positions; class 1: gradient (2, -4)
    torch.testing.assert_close(maps[0, 0], torch.tensor([[0.75, 1.5], [2.25, 4.5]]))
    torch.testing.assert_close(maps[0, 1], torch.tensor([[0.0, 1.0], [1.5, 3.0]]))
    # the roots of the means 3 and 1, less the centre
    first, second = 3**0.5 - 1, 1
    torch.testing.assert_close(ood_score, torch.tensor([((2 * first) ** 2 + (first + 3 * second) ** 2) / 2]))


@pytest.mark.slow
@pytest.mark.parametrize("attention", [False, True])
def test_finer_class_maps_are_gradient_times_activation(tmp_path: Path, attention: bool) -> None:
    torch.manual_seed(2)
    network = build_network("cnn", map_stride=8, attention=attention).eval()
    network.head.load_state_dict(varied_head(network.head[0].in_features).state_dict())
    if attention:
        nn.init.normal_(network.attention.weight)
    ood_scorer = gate_of(network, [IMAGES])
    export(network, ood_scorer, 64, tmp_path / "model.onnx")
    check_parity(network, ood_scorer, [IMAGES], tmp_path / "model.onnx")
    _, maps, _ = run(tmp_path / "model.onnx", [IMAGES])
    assert maps.shape == (5, 4, 8, 8)
    features = network.features(IMAGES).detach().requires_grad_()
    weights = network.log_attention(features).detach()  # fixed: the gradient is that of the pooled features
    logits = network.head(network.pool(features, weights))
    for category in range(4):
        (gradient,) = torch.autograd.grad(logits[:, category].sum(), features, retain_graph=True)
        expected = (gradient * features).sum(dim=1).relu().detach().numpy()
        assert expected.max() > 0
        np.testing.assert_allclose(maps[:, category], expected, rtol=0, atol=1e-4 * expected.max())


def test_a_class_that_nothing_speaks_for_has_a_map_of_zeros() -> None:
    with torch.no_grad():
        _, maps, _ = WithClassMaps(hand_made(), ROUND[2])(torch.zeros(1, 1, 2, 2))
    assert not maps[0, 2].any()  # all evidence speaks against it
    assert not maps[0, 3].any()  # no unit leads to it


@pytest.mark.parametrize("name", ["cnn", "resnet"])
def test_the_file_takes_any_batch_and_images_do_not_influence_each_other(
    exported: dict[str, Exported], name: str
) -> None:
    file = exported[name].file
    together = run(file, [IMAGES])
    for split in (1, 2, 3):
        apart = run(file, IMAGES.split(split))
        for one, other in zip(together, apart, strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * np.abs(one).max())


@pytest.mark.parametrize("name", ["cnn", "resnet"])
def test_the_file_answers_as_the_network(exported: dict[str, Exported], name: str) -> None:
    network, ood_scorer, file = exported[name]
    differences = check_parity(network, ood_scorer, list(IMAGES.split(2)), file)
    assert set(differences) == {
        *("probability_difference", "class_map_difference", "ood_score_difference", "images_at_a_kink")
    }
    assert max(differences.values()) < 1e-4
    with torch.no_grad():
        expected = network(IMAGES).numpy()
    np.testing.assert_allclose(run(file, [IMAGES])[0], expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("part", ["backbone.0.0.weight", "head.4.bias", "head.4.weight"])
def test_a_file_with_other_weights_is_refused(exported: dict[str, Exported], part: str) -> None:
    network, ood_scorer, file = exported["cnn"]
    other = deepcopy(network)
    other.get_parameter(part).data[0] += 0.5
    with pytest.raises(TrainingError, match=r"the exported model\.onnx differs from the network: "):
        check_parity(other, ood_scorer, [IMAGES], file)


@pytest.mark.slow
def test_an_image_at_a_kink_of_the_head_counts_for_its_probabilities_only(
    exported: dict[str, Exported],
) -> None:
    network, ood_scorer, file = exported["cnn"]
    moved = deepcopy(network)
    with torch.no_grad():
        features = network.features(IMAGES)
        hidden = WithClassMaps(network, ood_scorer).hidden(features, network.log_attention(features))[0]
        unit = int(hidden.abs().argmin())
        margin = hidden[unit]
        moved.head[1].bias[unit] -= margin * (1 + 1e-6)  # the unit of the first image now lies at zero
    target = file.parent.parent / "moved.onnx"
    export(moved, ood_scorer, 64, target)
    assert check_parity(moved, ood_scorer, [IMAGES[:1], IMAGES[1:]], target)["images_at_a_kink"] == 1


def test_an_export_replaces_the_file_and_leaves_nothing_beside_it(exported: dict[str, Exported]) -> None:
    file = exported["resnet"].file
    assert [path.name for path in file.parent.iterdir()] == ["model.onnx"]


def test_the_scale_is_the_99th_percentile_of_the_true_classes_peaks() -> None:
    maps = np.zeros((101, 4, 2, 2), np.float32)
    labels = np.arange(101) % 4
    maps[np.arange(101), labels, 1, 0] = np.arange(101)
    maps[np.arange(101), (labels + 1) % 4] = 1000  # of another class, does not count
    assert class_map_scale(maps, labels) == pytest.approx(99.0)
    assert class_map_scale(np.zeros((3, 4, 2, 2), np.float32), labels[:3]) == 1e-6
    with pytest.raises(ValueError, match="expected maps of 4 classes"):
        class_map_scale(maps[:, :3], labels)


def test_an_exported_file_does_not_say_where_it_was_made(exported: dict[str, Exported]) -> None:
    for network in exported.values():
        content = network.file.read_bytes()
        assert b"pkg.torch" in content
        assert str(Path(export_module.__file__).parent).encode() not in content
