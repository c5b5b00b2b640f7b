"""What synthetic slices show."""

from pathlib import Path

import numpy as np
import pytest

from braintumor.classes import CLASSES
from braintumor.data.duplicates.groups import group_numbers
from braintumor.data.duplicates.thumbnails import make_thumbnails
from braintumor.data.layout import list_images
from braintumor.data.phantom import phantom, write_phantoms
from braintumor.io.read import read


@pytest.mark.parametrize("label", CLASSES)
def test_a_slice_is_a_head_on_black(label: str) -> None:
    image = phantom(label, 3)
    assert (image.shape, image.dtype) == ((224, 224), np.float32)
    assert 0 == image.min() < image.max() <= 1
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    assert not border.any()
    assert 0.3 < (image > 0.05).mean() < 0.7


def test_a_seed_gives_the_same_slice_and_another_seed_another() -> None:
    np.testing.assert_array_equal(phantom("glioma", 1), phantom("glioma", 1))
    assert not np.array_equal(phantom("glioma", 1), phantom("glioma", 2))


def brightest(label: str, seed: int) -> float:
    """Return how far the brightest percent of the middle of the head lies above its median."""
    rows, columns = np.mgrid[:224, :224] / 111.5 - 1
    middle = phantom(label, seed)[np.hypot(rows / 1.15, columns) < 0.5]
    return float(np.quantile(middle, 0.99) / np.median(middle))


def test_every_class_but_no_tumor_has_a_bright_mass() -> None:
    contrast = {label: np.mean([brightest(label, seed) for seed in range(8)]) for label in CLASSES}
    assert {label for label in CLASSES if contrast[label] > 1.5} == set(CLASSES) - {"no_tumor"}
    assert contrast["no_tumor"] < 1.3


def test_an_unknown_class_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected one of glioma, .*, got 'notumor'"):
        phantom("notumor", 0)


def test_written_phantoms_are_a_data_set_of_different_heads(tmp_path: Path) -> None:
    write_phantoms(tmp_path, per_class=10, size=64)
    manifest = list_images(tmp_path).manifest
    assert manifest.counts() == {"train": dict.fromkeys(CLASSES, 8), "test": dict.fromkeys(CLASSES, 2)}
    result, _ = make_thumbnails(manifest, tmp_path / "cache")
    assert group_numbers(manifest, result).max() == 39
    np.testing.assert_allclose(
        read(tmp_path / "Testing/notumor/notumor-0000.png").pixels, phantom("no_tumor", 0, 64), atol=0.5 / 255 + 1e-6
    )


def test_too_few_phantoms_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected at least two slices per class, got 1"):
        write_phantoms(tmp_path, per_class=1)
