"""What a slice shows apart from its grey levels."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from braintumor.data.duplicates.descriptors import structure_descriptor

LEVELS = np.random.default_rng(0).integers(0, 256, (2, 48, 48), np.uint8)


def test_structure_has_mean_0_and_norm_1() -> None:
    result = structure_descriptor(LEVELS)
    assert (result.shape, result.dtype) == ((2, 24, 24), np.float32)
    assert result.mean(axis=(1, 2)) == pytest.approx(0, abs=1e-6)
    assert np.linalg.norm(result, axis=(1, 2)) == pytest.approx(1, abs=1e-5)


def test_structure_is_the_detail_over_the_local_contrast() -> None:
    grey = np.sqrt(LEVELS[0] / 255).reshape(24, 2, 24, 2).mean(axis=(1, 3))
    detail = grey - gaussian_filter(grey, 1.5, mode="nearest", truncate=8)
    expected = detail / (np.sqrt(gaussian_filter(detail**2, 1.5, mode="nearest", truncate=8)) + 0.03)
    inner = slice(8, 16)  # away from the borders, where the mean is renormalised instead
    result = structure_descriptor(LEVELS[:1])[0]
    assert np.corrcoef(result[inner, inner].ravel(), expected[inner, inner].ravel())[0, 1] > 0.99999


def test_a_window_is_compared_as_if_the_rest_were_not_there() -> None:
    blocks = np.repeat(np.repeat(LEVELS[:, :24, :24], 2, axis=1), 2, axis=2)
    assert structure_descriptor(blocks, (0, 0.5, 0.5, 1)) == pytest.approx(
        structure_descriptor(np.repeat(np.repeat(LEVELS[:, :12, 12:24], 4, axis=1), 4, axis=2)), abs=1e-5
    )


@pytest.mark.parametrize("level", [0, 7, 255])
def test_a_picture_without_contrast_has_no_structure(level: int) -> None:
    assert not structure_descriptor(np.full((1, 48, 48), level, np.uint8)).any()
