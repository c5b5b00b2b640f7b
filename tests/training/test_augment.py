import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close
from torchvision.transforms.v2 import functional as tv

from braintumor.training.augment import Augment, apply, blur, draw, jitter, resample, unblurred, unvaried


@pytest.fixture
def images() -> torch.Tensor:
    """Smooth images (3, 1, 64, 64): bilinear resampling once or twice differs little on them."""
    coarse = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.interpolate(coarse, (64, 64), mode="bicubic").clamp(0, 1)


def test_nothing_changes_where_nothing_is_drawn(images: torch.Tensor) -> None:
    assert_close(resample(images, unvaried(3), 64), images, atol=1e-6, rtol=0)
    assert_close(jitter(images, torch.ones(3), torch.ones(3)), images)
    assert_close(blur(images, torch.zeros(3)), images)


def test_crop_equals_torchvision(images: torch.Tensor) -> None:
    top, left, height, width = 10, 4, 40, 48
    variation = replace(
        unvaried(3),
        centre=torch.tensor([[(left + width / 2) / 32 - 1, (top + height / 2) / 32 - 1]] * 3),
        half=torch.tensor([[width / 64, height / 64]] * 3),
    )
    expected = tv.resized_crop(images, top, left, height, width, [56, 56], antialias=False)
    # torchvision clamps at the crop's border, one resampling sees the pixel beyond it
    assert_close(resample(images, variation, 56)[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("flip", "operation"), [([-1.0, 1.0], tv.horizontal_flip), ([1.0, -1.0], tv.vertical_flip)], ids=["left", "upside"]
)
def test_flip_equals_torchvision(images: torch.Tensor, flip: list[float], operation: object) -> None:
    variation = replace(unvaried(3), flip=torch.tensor([flip] * 3))
    assert_close(resample(images, variation, 64), operation(images), atol=1e-6, rtol=0)  # type: ignore[operator]


@pytest.mark.parametrize("degrees", [-30.0, 12.5, 30.0])
def test_rotation_equals_torchvision(images: torch.Tensor, degrees: float) -> None:
    variation = replace(unvaried(3), angle=torch.full((3,), math.radians(degrees)))
    expected = tv.rotate(images, degrees, tv.InterpolationMode.BILINEAR)
    rotated = resample(images, variation, 64)
    inside = tv.rotate(torch.ones_like(images), degrees, tv.InterpolationMode.BILINEAR) == 1
    assert_close(rotated[inside], expected[inside], atol=1e-5, rtol=0)
    assert (rotated[tv.rotate(torch.ones_like(images), degrees, tv.InterpolationMode.BILINEAR) == 0] == 0).all()


def test_brightness_then_contrast_equals_torchvision(images: torch.Tensor) -> None:
    expected = tv.adjust_contrast(tv.adjust_brightness(images, 1.2), 0.8)
    assert_close(jitter(images, torch.full((3,), 1.2), torch.full((3,), 0.8)), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0])
def test_blur_equals_torchvision(images: torch.Tensor, sigma: float) -> None:
    chosen = torch.tensor([sigma, 0.0, sigma])
    blurred = blur(images, chosen)
    assert_close(blurred[[0, 2]], tv.gaussian_blur(images[[0, 2]], [3, 3], [sigma, sigma]), atol=1e-6, rtol=0)
    assert torch.equal(blurred[1], images[1])


def test_geometry_in_one_resampling_equals_torchvision_step_by_step(images: torch.Tensor) -> None:
    variation = replace(
        unvaried(3),
        centre=torch.tensor([[0.125, -0.0625]] * 3),
        half=torch.tensor([[0.8125, 0.875]] * 3),
        flip=torch.tensor([[-1.0, -1.0]] * 3),
        angle=torch.full((3,), math.radians(20)),
    )
    # centre and half in pixels of the 64 px image: left 10, top 2, width 52, height 56
    cropped = tv.resized_crop(images, 2, 10, 56, 52, [64, 64], antialias=False)
    expected = tv.rotate(tv.vertical_flip(tv.horizontal_flip(cropped)), 20, tv.InterpolationMode.BILINEAR)
    inside = tv.rotate(torch.ones_like(images), 20, tv.InterpolationMode.BILINEAR) == 1
    resampled = resample(images, variation, 64)
    assert (resampled - expected)[inside].abs().mean() < 0.002
    assert (resampled - expected)[inside].abs().max() < 0.03


def test_variations_depend_on_seed_epoch_and_image_not_on_the_batch() -> None:
    together, alone = draw(Augment(), 7, 3, [5, 9]), draw(Augment(), 7, 3, [9])
    for name in ("centre", "half", "flip", "angle", "brightness", "contrast", "sigma"):
        assert torch.equal(getattr(together, name)[1:], getattr(alone, name))
    assert not torch.equal(draw(Augment(), 7, 4, [9]).angle, alone.angle)
    assert not torch.equal(draw(Augment(), 8, 3, [9]).angle, alone.angle)


def test_drawn_values_follow_the_documented_ranges() -> None:
    variation = draw(Augment(), 0, 0, range(4000))
    area, aspect = variation.half.prod(dim=1), variation.half[:, 0] / variation.half[:, 1]
    assert 0.69 < area.min() < 0.71
    assert 0.98 < area.max() <= 1
    assert aspect.min() > 0.89
    assert aspect.max() < 1.12
    assert ((variation.centre.abs() + variation.half) <= 1 + 1e-6).all()
    assert (variation.flip[:, 0] < 0).float().mean() == pytest.approx(0.5, abs=0.03)
    assert (variation.flip[:, 1] < 0).float().mean() == pytest.approx(0.3, abs=0.03)
    assert variation.angle.abs().max() == pytest.approx(math.radians(30), abs=0.01)
    assert variation.brightness.min() == pytest.approx(0.8, abs=0.01)
    assert variation.contrast.max() == pytest.approx(1.2, abs=0.01)
    assert (variation.sigma > 0).float().mean() == pytest.approx(0.5, abs=0.03)
    assert variation.sigma.max() == pytest.approx(1.0, abs=0.01)
    assert variation.sigma[variation.sigma > 0].min() >= 0.1


def test_a_batch_gives_what_its_images_give_alone() -> None:
    grey = torch.randint(0, 256, (7, 1, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    together = apply(grey, draw(Augment(), 0, 0, range(7)), 32)
    assert together.shape == (7, 1, 32, 32)
    assert together.min() >= 0
    assert together.max() <= 1
    for image in range(7):
        assert_close(together[image : image + 1], apply(grey[image : image + 1], draw(Augment(), 0, 0, [image]), 32))


def test_a_whole_batch_at_once_as_on_a_gpu_gives_what_chunks_give() -> None:
    grey = torch.randint(0, 256, (7, 1, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    variation = draw(Augment(), 0, 0, range(7))
    assert 0 < (variation.sigma > 0).sum() < 7
    at_once = blur(unblurred(grey, variation, 32), variation.sigma)
    assert_close(at_once, apply(grey, variation, 32), atol=1e-6, rtol=0)


def test_the_images_given_are_left_as_they_are() -> None:
    grey = torch.rand(5, 1, 40, 40, generator=torch.Generator().manual_seed(4)) * 255
    before = grey.clone()
    apply(grey, draw(Augment(), 0, 0, range(5)), 32)
    assert torch.equal(grey, before)
