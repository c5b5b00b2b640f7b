import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torchvision.transforms.v2 import functional as tv

from braintumor.errors import DataError
from braintumor.training.config import RESNET_FROZEN
from braintumor.training.networks import build_network, freeze, multiply_adds, train_mode


def test_the_cnn_stays_within_its_budget() -> None:
    network = build_network("cnn")
    assert sum(parameter.numel() for parameter in network.parameters()) == 2_590_116
    assert multiply_adds(network, 224) == 545_646_592


def test_multiply_adds_worked_by_hand() -> None:
    network = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.Flatten(), nn.Linear(3 * 16, 2, bias=False))
    assert multiply_adds(network, 4) == 16 * 3 * 9 + 48 * 2


def test_convolutions_of_the_cnn_start_he_normal() -> None:
    torch.manual_seed(0)
    for layer in build_network("cnn").modules():
        if isinstance(layer, nn.Conv2d):
            expected = (2 / (layer.out_channels * 9)) ** 0.5
            assert float(layer.weight.detach().std()) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("model", ["cnn", "resnet"])
def test_the_head_is_the_documented_one(model: str) -> None:
    first, norm, rectify, dropout, last = build_network(model).head
    assert (first.out_features, norm.num_features, dropout.p) == (512, 512, 0.6)
    assert isinstance(norm, nn.BatchNorm1d)
    assert isinstance(rectify, nn.ReLU)
    assert (last.in_features, last.out_features) == (512, 4)


def test_the_backbone_sees_three_equal_channels_in_imagenet_statistics() -> None:
    network = build_network("cnn")
    seen: list[torch.Tensor] = []
    network.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    image = torch.rand(2, 1, 32, 32)
    network.features(image)
    expected = tv.normalize(image.repeat(1, 3, 1, 1), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert_close(seen[0], expected)


def test_resnet_has_torchvisions_tensor_names_and_shapes() -> None:
    from torchvision.models import resnet18

    expected = {key: value.shape for key, value in resnet18().state_dict().items() if not key.startswith("fc.")}
    assert {key: value.shape for key, value in build_network("resnet").backbone.state_dict().items()} == expected


def test_frozen_parts_are_bit_identical_after_training_and_the_others_are_not() -> None:
    torch.manual_seed(0)
    network = build_network("resnet")
    freeze(network, RESNET_FROZEN)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], 1e-3, weight_decay=0.01)
    for _ in range(3):
        train_mode(network, RESNET_FROZEN)
        loss = nn.functional.cross_entropy(network(torch.rand(4, 1, 64, 64)), torch.tensor([0, 1, 2, 3]))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    after = network.state_dict()
    frozen = tuple(f"backbone.{part}." for part in RESNET_FROZEN)
    for key, value in before.items():
        assert torch.equal(value, after[key]) == key.startswith(frozen), key


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "resnet10t"])
def test_a_timm_network_with_spatial_features_works(name: str) -> None:
    network = build_network(name).eval()
    features = network.features(torch.zeros(2, 1, 96, 96))
    assert features.shape[2:] == (3, 3)
    assert network(torch.zeros(2, 1, 96, 96)).shape == (2, 4)


@pytest.mark.parametrize("model", ["cnn", "resnet", "mobilenetv3_small_050"])
@pytest.mark.parametrize("stride", [8, 16])
def test_finer_features_have_the_size_of_an_early_stage_and_know_the_later_ones(model: str, stride: int) -> None:
    network = build_network(model, map_stride=stride).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)  # timm starts those at the end of a block at 0
    image = torch.rand(2, 1, 96, 128).requires_grad_()
    features = network.features(image)
    assert features.shape[2:] == (96 // stride, 128 // stride)
    features[0, :, 0, 0].sum().backward()
    assert image.grad is not None
    assert image.grad[0, 0, 40:, 40:].any()  # far from what a single field of this stride covers


def test_a_stride_that_no_stage_has_is_refused() -> None:
    with pytest.raises(DataError, match="cnn has no features of stride 12; choose one of 2, 4, 8, 16, 32"):
        build_network("cnn", map_stride=12)


def test_attention_starts_even_and_then_pools_where_it_rests() -> None:
    torch.manual_seed(0)
    network = build_network("cnn", map_stride=8, attention=True).eval()
    image = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        features = network.features(image)
        even = network.log_attention(features)
        assert_close(even.exp(), torch.full((2, 1, 8, 8), 1 / 64))
        assert_close(network.pool(features, even), features.mean(dim=(2, 3)))
        resting = torch.full((2, 1, 8, 8), -torch.inf)
        resting[:, :, 3, 5] = 0
        assert_close(network.pool(features, resting), features[:, :, 3, 5])
        network.attention.weight.normal_()
        assert_close(network.log_attention(features).exp().sum(dim=(2, 3)), torch.ones(2, 1))


def test_without_attention_all_positions_count_alike() -> None:
    network = build_network("cnn").eval()
    logits, log_attention = network.with_attention(torch.rand(2, 1, 64, 64))
    assert logits.shape == (2, 4)
    assert_close(log_attention.exp(), torch.full((2, 1, 2, 2), 1 / 4))


def test_a_transformer_is_refused_with_the_reason() -> None:
    with pytest.raises(
        DataError, match=r"vit_tiny_patch16_224 cannot be used: its features have the shape \(2, 197, 192\)"
    ):
        build_network("vit_tiny_patch16_224")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["coatnet_0_224", "crossvit_9_240"])
def test_a_network_that_fails_on_slices_is_refused_in_one_sentence(name: str) -> None:
    with pytest.raises(DataError, match=f"^{name} cannot be used with slices of any size") as refusal:
        build_network(name)
    assert "\n" not in str(refusal.value)


def test_an_unknown_name_is_refused_with_near_ones() -> None:
    with pytest.raises(DataError, match=r"no model is called 'resnet1888'; choose cnn, resnet or a timm name .*resnet"):
        build_network("resnet1888")
