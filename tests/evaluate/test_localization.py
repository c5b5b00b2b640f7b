"""How maps are compared with outlines, each rate worked out by hand or on made slices."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from braintumor.data.manifest import Manifest, Row
from braintumor.errors import DataError
from braintumor.evaluate import localization as module
from braintumor.evaluate.localization import (
    SIDE,
    THRESHOLDS,
    LocalizedModel,
    Overlap,
    SliceLocalization,
    elsewhere,
    enlarged,
    filled,
    head_of,
    localize,
    overlap,
    summarize_localization,
)
from braintumor.evaluate.report.gallery import survivors
from braintumor.models.policy import Policy
from braintumor.models.session import ModelOutput


def square(top: int, left: int, side: int = 64) -> np.ndarray:
    inside = np.zeros((SIDE, SIDE), bool)
    inside[top : top + side, left : left + side] = True
    return inside


def test_overlap_worked_by_hand() -> None:
    heat = np.zeros((SIDE, SIDE), np.float32)
    heat[100:164, 100:164] = 1
    heat[100:164, 164:228] = 0.5
    result = overlap(heat, square(100, 100))
    assert result.pointing
    assert result.energy == pytest.approx(1 / 1.5)
    assert result.iou[THRESHOLDS <= 0.5] == pytest.approx(0.5)
    assert result.iou[THRESHOLDS > 0.5] == pytest.approx(1)


@pytest.mark.parametrize(("distance", "pointing"), [(15, True), (16, False)])
def test_a_maximum_near_the_outline_still_points_at_the_tumor(distance: int, pointing: bool) -> None:
    heat = np.zeros((SIDE, SIDE), np.float32)
    heat[120, 163 + distance] = 1
    result = overlap(heat, square(100, 100))
    assert (result.pointing, result.energy) == (pointing, 0)


def test_a_map_of_zeros_points_nowhere() -> None:
    result = overlap(np.zeros((SIDE, SIDE), np.float32), square(0, 0))
    assert (result.pointing, result.energy, float(result.iou.max())) == (False, 0, 0)


def test_maps_are_enlarged_bilinearly_between_the_middles_of_their_fields() -> None:
    large = enlarged(np.array([[0.0, 1.0], [0.0, 1.0]], np.float32))
    assert large.shape == (SIDE, SIDE)
    at = (np.arange(SIDE) + 0.5) / SIDE  # the middles lie at 0.25 and 0.75
    assert np.allclose(large, np.clip((at - 0.25) / 0.5, 0, 1), atol=1e-4)


def test_a_hole_is_filled_smoothly_from_its_edge() -> None:
    ramp = np.tile(np.arange(0, 240, 4, dtype=np.uint8), (60, 1))  # a ramp solves Laplace's equation
    hole = np.zeros(ramp.shape, bool)
    hole[10:40, 10:40] = True
    damaged = np.where(hole, 255, ramp).astype(np.uint8)
    assert np.abs(filled(damaged, hole).astype(int) - ramp).max() <= 1
    hole[:, 40:] = True  # reaches the slice's edge
    result = filled(damaged, hole)
    assert (result[~hole] == ramp[~hole]).all()
    assert result[:, 40:].max() <= ramp[~hole].max()


def test_the_head_is_the_largest_bright_region_with_its_holes() -> None:
    levels = np.zeros((50, 50), np.uint8)
    levels[10:40, 10:40] = 200
    levels[20:30, 20:30] = 0  # a hole
    levels[45:48, 45:48] = 255  # writing beside it
    expected = np.zeros((50, 50), bool)
    expected[10:40, 10:40] = True
    assert (head_of(levels) == expected).all()
    assert not head_of(np.zeros((8, 8), np.uint8)).any()


def test_the_piece_elsewhere_is_as_large_lies_in_the_head_and_does_not_touch_the_tumor() -> None:
    head = np.zeros((60, 60), bool)
    head[5:55, 10:50] = True
    hole = np.zeros_like(head)
    hole[10:20, 12:20] = True
    result = elsewhere(hole, head, 0)
    assert result is not None
    mirrored = np.zeros_like(head)
    mirrored[10:20, 40:48] = True
    assert (result == mirrored).all()
    middle = np.zeros_like(head)
    middle[20:30, 25:35] = True  # its mirror image is itself
    moved = elsewhere(middle, head, 0)
    assert moved is not None
    assert (moved.sum(), (moved & middle).sum(), (moved & ~head).sum()) == (100, 0, 0)
    assert elsewhere(head, head, 0) is None


def look(predicted: str, without: str, control: str | None, area: float, energy: float) -> SliceLocalization:
    result = Overlap(energy > 0.5, energy, np.full(len(THRESHOLDS), energy, np.float32))
    baselines = dict.fromkeys(module.BASELINES, replace(result, energy=area))
    return SliceLocalization(Row("a.png", "glioma"), predicted, area, result, baselines, 0.25, without, control)


def test_rates_worked_by_hand() -> None:
    slices = [
        look("glioma", "no_tumor", "glioma", 0.005, 0.8),
        look("glioma", "glioma", None, 0.02, 0.4),
        look("pituitary", "glioma", "glioma", 0.04, 0.6),  # not right: does not count for flips
    ]
    result = summarize_localization(slices, np.array([0, 0, 1]), [0.5] * 3, dict.fromkeys(module.BASELINES, 0.5), {})
    overall = result.overall
    assert (overall["pointing"].value, overall["pointing"].n) == (pytest.approx(2 / 3), 3)
    assert overall["energy"].value == pytest.approx(0.6)
    assert (overall["flip"].value, overall["flip"].n) == (0.5, 2)
    assert (overall["flip_control"].value, overall["flip_control"].n) == (0, 1)
    assert {name: rates["energy"].value for name, rates in result.per_size.items()} == {
        "small": pytest.approx(0.8),
        "medium": pytest.approx(0.4),
        "large": pytest.approx(0.6),
    }
    assert result.baselines["head"]["energy"].value == pytest.approx(0.065 / 3)
    assert len(result.survivors) == 1
    with pytest.raises(DataError, match="no test image has a known tumor outline"):
        summarize_localization([], np.array([], int), [], {}, {})


class Seeing:
    """A model that finds the white square: its map is the brightest pixels, and where there are any it says glioma."""

    class Card:
        from braintumor.models.preprocess import Preprocess

        preprocess = Preprocess(64)
        temperature = 1.0
        class_map_scale = 1.0

    card = Card()
    identity = "seeing 1"
    policy = Policy()

    def __call__(self, images: np.ndarray) -> ModelOutput:
        bright = (images[:, 0] > 0.9).astype(np.float32)  # (N, 64, 64)
        logits = np.zeros((len(images), 4), np.float32)
        logits[:, 0] = np.where(bright.any(axis=(1, 2)), 3, -3)
        return ModelOutput(logits, np.repeat(bright[:, None], 4, axis=1), np.ones(len(images), np.float32))


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    """Return a reference folder of four grey heads with a white square, which is outlined."""
    (tmp_path / "images").mkdir()
    lines = ["figshare_id,class,patient,tumor_outline_xy"]
    for number in range(4):
        levels = np.zeros((64, 64), np.uint8)
        levels[4:60, 4:60] = 100 + np.random.default_rng(number).integers(20, size=(56, 56))
        top = 8 + 6 * number
        levels[top : top + 12, 12:24] = 255
        Image.fromarray(levels).save(tmp_path / "images" / f"{number}.png")
        lines.append(f"{number},glioma,P{number},12 {top};24 {top};24 {top + 12};12 {top + 12}")
    (tmp_path / "annotations.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_a_model_that_sees_the_tumor_alone_has_full_marks(reference: Path, tmp_path: Path) -> None:
    rows = tuple(Row(f"images/{number}.png", "glioma") for number in range(4))
    part = LocalizedModel(Seeing(), Manifest(reference, rows[:3]), Manifest(reference, rows[3:]))  # type: ignore[arg-type]
    done: list[tuple[int, int]] = []
    groups = {row.image: index for index, row in enumerate(rows)}
    result = localize([part], groups, reference, tmp_path / "cache", lambda *step: done.append(step))
    overall = {name: estimate.value for name, estimate in result.overall.items()}
    assert (overall["pointing"], overall["flip"], overall["flip_control"], overall["outside"]) == (1, 1, 0, 0)
    assert overall["energy"] > 0.85
    assert overall["iou"] > 0.8
    assert overall["area"] == pytest.approx(12 * 12 / 64**2, rel=0.1)
    assert result.baselines["head"]["energy"].value == pytest.approx(12 * 12 / 56**2, rel=0.1)
    assert result.survivors == ()
    assert done == [(4, 4)]


class Stubborn(Seeing):
    """A model that says glioma whatever it sees."""

    def __call__(self, images: np.ndarray) -> ModelOutput:
        answers = super().__call__(images)
        answers.logits[:, 0] = 3
        return answers


def test_answers_that_need_no_tumor_are_named_and_shown(reference: Path, tmp_path: Path) -> None:
    rows = tuple(Row(f"images/{number}.png", "glioma") for number in range(4))
    test, model = Manifest(reference, rows[:3]), Stubborn()
    part = LocalizedModel(model, test, Manifest(reference, rows[3:]))  # type: ignore[arg-type]
    groups = {row.image: index for index, row in enumerate(rows)}
    result = localize([part], groups, reference, tmp_path / "cache")
    assert result.survivors == tuple(row.image for row in rows[:3])
    shown = survivors(model, test, reference, tmp_path / "cache")  # type: ignore[arg-type]
    assert [survivor.image for survivor in shown] == list(result.survivors)
    assert all(survivor.slice != survivor.without for survivor in shown)
