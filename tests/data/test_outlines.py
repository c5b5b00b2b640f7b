"""Whether a tumor's outline follows its slice through mirroring, turns, crops and padding."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from braintumor.data.manifest import Manifest, Row
from braintumor.data.outlines import carried_over, mask, outlines, padded, parsed
from braintumor.data.phantom import phantom
from braintumor.data.reference import Match
from braintumor.errors import DataError

SIDE = 120
OUTLINE = "30 20;70 20;70 50;50 50;50 90;30 90"  # an L, which no turn or mirroring leaves as it is
ROW = Row("a.png", "glioma")


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a reference folder of two slices of 120 x 120 pixels."""
    folder = tmp_path_factory.mktemp("reference")
    (folder / "images").mkdir()
    lines = ["figshare_id,class,patient,tumor_outline_xy"]
    for number in range(2):
        pixels = np.rint(phantom("glioma", number, size=SIDE) * 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        lines.append(f"{number},glioma,P{number},{OUTLINE}")
    (folder / "annotations.csv").write_text("\n".join(lines) + "\n")
    return folder


def inside(side: int = SIDE) -> np.ndarray:
    """Return the (120, 120) bool of the source's outline."""
    y, x = np.mgrid[:side, :side] + 0.5
    return ((x > 30) & (x < 70) & (y > 20) & (y < 50)) | ((x > 30) & (x < 50) & (y > 20) & (y < 90))


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    return float((first & second).sum() / (first | second).sum())


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_an_outline_follows_its_slice(reference: Path, tmp_path: Path, mirrored: bool, turns: int) -> None:
    def changed(pixels: np.ndarray) -> np.ndarray:
        turned = np.rot90(pixels[3:117, 5:119], turns)
        return np.fliplr(turned) if mirrored else turned

    source = np.asarray(Image.open(reference / "images" / "1.png"))
    Image.fromarray(np.ascontiguousarray(changed(source))).save(tmp_path / "a.png")
    (polygon,) = outlines(Manifest(tmp_path, (ROW,)), reference, tmp_path / "cache")
    assert polygon is not None
    assert overlap(mask(polygon, 114) > 127, changed(inside())) > 0.9


def test_a_slice_of_the_reference_folder_has_its_own_outline(reference: Path, tmp_path: Path) -> None:
    manifest = Manifest(reference, (Row("images/1.png", "glioma"), Row("images/0.png", "glioma")))
    for polygon in outlines(manifest, reference, tmp_path):
        assert polygon is not None
        assert overlap(mask(polygon, SIDE) > 127, inside()) > 0.97


def test_another_image_has_no_outline(reference: Path, tmp_path: Path) -> None:
    for name, slice_ in (("a.png", phantom("glioma", 1, size=SIDE)), ("b.png", phantom("glioma", 9, size=SIDE))):
        Image.fromarray(np.rint(slice_ * 255).astype(np.uint8)).save(tmp_path / name)
    result = outlines(Manifest(tmp_path, (ROW, Row("b.png", "glioma"))), reference, tmp_path / "cache")
    assert [polygon is not None for polygon in result] == [True, False]
    with pytest.raises(DataError, match=r"no image of .* comes from a slice in .*, so no tumor outline is known"):
        outlines(Manifest(tmp_path, (Row("b.png", "glioma"),)), reference, tmp_path / "cache")


def test_carrying_over_worked_by_hand() -> None:
    # the image's upper left quarter lies right of the middle of the window and, turned, above it
    source = Match("1", "", "", mirrored=True, rotation=90, window=(100, 200, 300, 400), score=1)
    point = np.array([[150.0, 350.0]])  # a quarter from the left and three quarters from the top of the window
    # turned back clockwise: x = 1 - 0.75, y = 0.25; mirrored back: x = 0.75
    assert carried_over(point, source) == pytest.approx(np.array([[0.75, 0.25]]))


def test_an_image_that_is_not_square_is_padded_as_for_the_network() -> None:
    corners = np.array([[0.0, 0.0], [1.0, 1.0]])
    assert padded(corners, 50, 100) == pytest.approx(np.array([[0, 0.25], [1, 0.75]]))
    assert padded(corners, 100, 50) == pytest.approx(np.array([[0.25, 0], [0.75, 1]]))


def test_a_mask_covers_the_share_of_each_field() -> None:
    result = mask(np.array([[0.25, 0.25], [0.625, 0.25], [0.625, 0.75], [0.25, 0.75]]), 4)
    assert result == pytest.approx(255 * np.outer([0, 1, 1, 0], [0, 1, 0.5, 0]), abs=70)  # edges are drawn a pixel wide
    assert result[1, 1] == 255


@pytest.mark.parametrize("text", ["", "1 2;3 4", "1 2;3;5 6", "a b;c d;e f"])
def test_an_outline_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="expected a tumor outline as 'x y;x y;…' of at least three points, got"):
        parsed(text)
