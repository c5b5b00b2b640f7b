from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from braintumor.classes import CLASSES
from braintumor.data.manifest import Manifest, Row
from braintumor.data.phantom import phantom
from braintumor.data.quality import FileFacts, SliceLook, facts, looks, oddities, quality
from braintumor.io.read import Stored
from braintumor.overlay import font

GREY = Stored("PNG", "L", 0.0)


def head(seed: int = 0, size: int = 224, label: str = "no_tumor") -> Image.Image:
    return Image.fromarray(np.rint(phantom(label, seed, size) * 255).astype(np.uint8))


def odd(image: Image.Image) -> tuple[str, ...]:
    return facts(np.asarray(image), GREY).odd


def written(image: Image.Image, text: str, size: int = 14) -> Image.Image:
    ImageDraw.Draw(image).text((4, 3), text, 255, font(size))
    return image


def pictures(folder: Path, **images: Image.Image) -> Manifest:
    for name, image in images.items():
        image.save(folder / f"{name}.png")
    return Manifest(folder, tuple(Row(f"{name}.png", "glioma") for name in images))


def quiet(done: int, total: int) -> None:
    pass


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("label", CLASSES)
def test_a_plain_slice_is_not_odd(label: str, seed: int) -> None:
    assert odd(head(seed, label=label)) == ()


@pytest.mark.parametrize(("size", "letters"), [(224, 12), (512, 16), (1100, 30)])
@pytest.mark.parametrize("text", ["TR 98", "Se 4", "R 12"])
def test_writing_beside_the_head_is_found(text: str, size: int, letters: int) -> None:
    assert odd(written(head(size=size), text, letters)) == ("text",)


def test_a_ruler_beside_the_head_is_found() -> None:
    image = head()
    pen = ImageDraw.Draw(image)
    for x in range(60, 160, 4):
        pen.line((x, 215, x, 220), 220)
    pen.line((60, 220, 160, 220), 220)
    assert odd(image) == ("text",)


def test_faint_writing_is_not_seen() -> None:
    faint = np.asarray(written(Image.new("L", (224, 224)), "TR 98")) // 7
    assert odd(Image.fromarray(np.maximum(faint, head()))) == ()


def test_two_light_edges_are_a_frame_and_one_is_none() -> None:
    image = np.asarray(head()).copy()
    image[0] = 200
    assert odd(Image.fromarray(image)) == ()
    image[:, -1] = 200
    assert odd(Image.fromarray(image)) == ("frame",)


def test_shape_and_contrast_can_be_odd() -> None:
    assert odd(Image.new("L", (1080, 1920))) == ("screen", "flat")
    assert odd(Image.new("L", (100, 201))) == ("elongated", "flat")
    assert odd(Image.new("L", (100, 200))) == ("flat",)


def test_the_facts_of_a_file_are_those_worked_out_by_hand(tmp_path: Path) -> None:
    image = np.full((20, 40), 51, np.uint8)  # 0.2
    image[3:-3, 3:-3] = 255
    colour = np.repeat(image[:, :, None], 3, axis=2)
    colour[5, 4:14, 0] = 100  # 10 of 800 pixels: 1.25 %
    manifest = pictures(tmp_path, grey=Image.fromarray(image), colour=Image.fromarray(colour))
    result = [file for _, file in quality(manifest, quiet)]
    assert all(isinstance(file, FileFacts) for file in result)
    grey, coloured = (file for file in result if isinstance(file, FileFacts))
    assert grey.stored == GREY
    assert (grey.width, grey.height) == (40, 20)
    assert grey.mean == pytest.approx((800 - 14 * 34) / 800 * 0.2 + 14 * 34 / 800)
    assert grey.border == pytest.approx(0.2)
    assert coloured.stored == Stored("PNG", "RGB", 0.0125)
    assert "coloured" in coloured.odd
    assert "coloured" not in grey.odd


def test_the_hash_of_the_pixels_does_not_depend_on_the_file(tmp_path: Path) -> None:
    image = head(size=64)
    manifest = pictures(tmp_path, a=image, b=image.convert("RGB"), c=image.rotate(90))
    a, b, c = (file.pixels for _, file in quality(manifest, quiet) if isinstance(file, FileFacts))
    assert a == b != c
    assert facts(np.zeros((20, 40), np.uint8), GREY).pixels != facts(np.zeros((40, 20), np.uint8), GREY).pixels


def test_unreadable_files_keep_their_place_and_progress_is_told(tmp_path: Path) -> None:
    manifest = pictures(tmp_path, a=head(size=64), b=head(size=64), c=head(size=64))
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes()[:500])
    steps: list[tuple[int, int]] = []
    result = list(quality(manifest, lambda done, total: steps.append((done, total))))
    assert [row.image for row, _ in result] == ["a.png", "b.png", "c.png"]
    assert result[1][1] == "truncated; copy the file again"
    assert steps == [(3, 3)]


def made(width: int, height: int, mode: str, mean: float) -> FileFacts:
    return FileFacts(Stored("JPEG", mode, 0.0), width, height, mean, 0.0, b"", ())


def test_how_a_class_looks() -> None:
    files = [made(100, 200, "L", 0.1), made(200, 200, "RGB", 0.2), made(200, 200, "L", 0.3), made(300, 200, "L", 0.9)]
    result = looks(files, np.array([1, 1, 1, 0]))
    assert list(result) == ["glioma", "meningioma"]
    assert result["meningioma"] == SliceLook(
        formats={"JPEG L": 2, "JPEG RGB": 1},
        sizes=2,
        size=(200, 200),
        aspect=(0.5, 1.0),
        mean=(0.11, 0.2, 0.29),
        border=(0.0, 0.0, 0.0),
    )


def test_odd_files_are_counted_in_full_and_listed_in_part() -> None:
    rows = tuple(Row(f"{number:03}.png", CLASSES[number % 2]) for number in range(301))
    files = [FileFacts(GREY, 9, 9, 0, 0, b"", ("flat", "screen") if number else ("flat",)) for number in range(301)]
    result = oddities(Manifest(Path(), rows), files)
    assert (result["flat"].images, result["screen"].images, result["text"].images) == (301, 300, 0)
    assert result["flat"].per_class == {"glioma": 151, "meningioma": 150, "pituitary": 0, "no_tumor": 0}
    assert len(result["flat"].listed) == 200
    assert (result["flat"].listed[0], result["flat"].listed[-1]) == ("000.png", "300.png")


@pytest.mark.data
@pytest.mark.slow
def test_what_is_odd_in_the_public_set(data_folder: Path) -> None:
    from braintumor.data.layout import list_images

    manifest = list_images(data_folder / "brain-tumor-mri", parts=("test",)).manifest
    result = [(row, file) for row, file in quality(manifest, quiet) if isinstance(file, FileFacts)]
    counted = oddities(Manifest(manifest.root, tuple(row for row, _ in result)), [file for _, file in result])
    assert counted["coloured"].per_class["no_tumor"] == counted["coloured"].images > 0
    assert counted["text"].per_class["no_tumor"] >= 0.9 * counted["text"].images > 0
