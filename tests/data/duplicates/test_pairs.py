"""Which slices are similar, and what belongs together through them."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from braintumor.data.duplicates import pairs
from braintumor.data.duplicates.alignment import same_slice
from braintumor.data.duplicates.descriptors import structure_descriptor
from braintumor.data.duplicates.pairs import CROPS, Pairs, components, inverse, largest, parity_parts, similar_pairs
from braintumor.data.duplicates.symmetries import ORIENTATIONS, oriented
from braintumor.data.duplicates.thumbnails import NOTHING, Thumbnails, make_thumbnail, make_thumbnails
from braintumor.data.layout import list_images
from braintumor.data.manifest import Manifest
from braintumor.data.phantom import smooth_noise
from braintumor.io.scan import Scan


def texture(seed: int) -> np.ndarray:
    """Return random blobs, (96, 96) in [0, 1]; two of them resemble each other by chance only."""
    random = np.random.default_rng(seed)
    blobs = smooth_noise(random, 96, 6) + smooth_noise(random, 96, 15)
    result: np.ndarray = (0.5 + 0.2 * blobs).clip(0, 1).astype(np.float32)
    return result


def small(*pictures: np.ndarray) -> Thumbnails:
    """Return the miniatures of pictures."""
    return Thumbnails.stacked([make_thumbnail(Scan(np.ascontiguousarray(picture, np.float32))) for picture in pictures])


def couples(pairs: Pairs) -> list[tuple[int, int]]:
    """Return the positions of pairs."""
    return list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))


def test_copies_are_similar_and_other_slices_are_not() -> None:
    plain = [texture(seed) for seed in range(4)]
    copies = [plain[0][:, ::-1], plain[1] ** 0.7 * 0.8, np.rot90(plain[2], 3), plain[3][4:-1, 1:-3]]
    assert couples(similar_pairs(small(*plain, *copies))) == [(0, 4), (1, 5), (2, 6), (3, 7)]
    assert couples(similar_pairs(small(*copies, *plain))) == [(0, 4), (1, 5), (2, 6), (3, 7)]
    assert couples(similar_pairs(small(*plain), small(*reversed(copies)))) == [(0, 3), (1, 2), (2, 1), (3, 0)]


@pytest.mark.parametrize("number", range(len(ORIENTATIONS)))
def test_the_orientation_brings_the_first_into_the_place_of_the_second(number: int) -> None:
    picture = texture(7)
    turned = oriented(picture[None], number)[0]
    pairs = similar_pairs(small(picture), small(turned))
    assert pairs.orientation.tolist() == [number]
    assert pairs.score == pytest.approx(1, abs=1e-3)


def test_the_head_alone_is_compared_too() -> None:
    picture = texture(3)
    framed = np.pad(picture, ((60, 10), (5, 40)))
    pairs = similar_pairs(small(picture), small(framed))
    assert couples(pairs) == [(0, 0)]
    top, left = 60 / framed.shape[0], 5 / framed.shape[1]
    expected = [top, top + 96 / framed.shape[0], left, left + 96 / framed.shape[1]]
    assert pairs.window[0].tolist() == pytest.approx(np.array([[0, 1, 0, 1], expected], np.float32))


def test_the_window_of_a_crop_is_told_for_the_side_that_was_cropped() -> None:
    picture = np.pad(texture(5)[8:-8, 8:-8], 8, constant_values=0.5)  # bright to its edges: the head is the whole
    part = picture[: round(0.95 * 96), : round(0.95 * 96)]
    forward, backward = similar_pairs(small(picture), small(part)), similar_pairs(small(part), small(picture))
    assert forward.window[0].tolist() == pytest.approx(np.array([CROPS[0], (0, 1, 0, 1)], np.float32))
    assert backward.window[0].tolist() == pytest.approx(np.array([(0, 1, 0, 1), CROPS[0]], np.float32))
    within = similar_pairs(small(part, picture))
    assert couples(within) == [(0, 1)]
    assert within.window.tolist() == backward.window.tolist()


def test_slices_without_contrast_resemble_nothing() -> None:
    grey = small(*[np.full((64, 64), 0.7)] * 2)
    assert len(similar_pairs(grey, threshold=0.0)) == 0
    assert len(similar_pairs(Thumbnails.stacked([NOTHING] * 3))) == 0
    assert len(similar_pairs(grey[:0])) == 0


def test_a_pair_counts_by_its_best_view(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "BLOCK", 7)
    thumbnails = small(*[texture(seed) for seed in range(14)])
    ways = [
        (structure_descriptor(thumbnails.whole), structure_descriptor(thumbnails.whole)),
        (structure_descriptor(thumbnails.head), structure_descriptor(thumbnails.head)),
    ]
    ways += [(structure_descriptor(thumbnails.whole, crop), structure_descriptor(thumbnails.whole)) for crop in CROPS]
    expected = {}
    for mine, theirs in ways:
        for first in range(14):
            for second in range(14):
                if first == second:
                    continue
                score = max((oriented(mine[[first]], number)[0] * theirs[second]).sum() for number in range(8))
                key = min(first, second), max(first, second)
                expected[key] = max(expected.get(key, -1), float(score))
    similar = similar_pairs(thumbnails, threshold=0.16)
    assert couples(similar) == sorted(key for key, score in expected.items() if score > 0.16)
    assert 10 < len(similar) < 80
    assert similar.score.tolist() == pytest.approx([expected[key] for key in couples(similar)], abs=1e-5)


def test_the_largest_correlation_over_mirrorings_comes_from_four_products() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 5, 24, 24)).astype(np.float32)
    mirrored = [b, b[:, :, ::-1], b[:, ::-1], b[:, ::-1, ::-1]]
    expected = np.max([np.einsum("nij,mij->nm", a, picture) for picture in mirrored], axis=0)
    assert largest(parity_parts(a), list(parity_parts(b))) == pytest.approx(expected, rel=1e-4, abs=1e-3)


def test_members_exchanged_are_brought_back_by_the_inverse_orientation() -> None:
    quarter = ORIENTATIONS.index((0, 1))
    picture = texture(1)
    pairs = similar_pairs(small(np.rot90(picture), texture(2), picture))
    assert couples(pairs) == [(0, 2)]
    assert pairs.orientation.tolist() == [inverse(quarter)]


def test_components_of_a_chain_a_pair_and_a_loner() -> None:
    links = np.array([[5, 3], [3, 0], [0, 6], [1, 4]])
    assert components(7, links).tolist() == [0, 1, 2, 0, 1, 0, 0]
    assert components(0, np.empty((0, 2), np.int64)).tolist() == []


def test_long_chains_are_one_component() -> None:
    order = np.random.default_rng(0).permutation(500)
    assert components(500, np.stack([order[:-1], order[1:]], axis=1)).max() == 0


@pytest.mark.slow
@pytest.mark.data
def test_made_copies_of_real_slices_are_found_and_others_are_not(data_folder: Path, tmp_path: Path) -> None:
    listing = list_images(data_folder / "brain-tumor-mri").manifest
    sample = Manifest(listing.root, listing.rows[::140])
    thumbnails, _ = make_thumbnails(sample, tmp_path)
    copies = small(*(changed(Image.open(sample.path(row))) for row in sample))
    pairs = similar_pairs(thumbnails, copies, 0.8)
    same = pairs[same_slice(pairs, thumbnails, copies)]
    assert (same.first == same.second).sum() >= 0.97 * len(sample)
    assert (same.first != same.second).sum() <= 2  # duplicates in the set itself


def changed(image: Image.Image) -> np.ndarray:
    """Return a slice mirrored, cropped by 4 %, scaled, brightened and compressed."""
    content = io.BytesIO()
    image.convert("L").transpose(Image.Transpose.FLIP_LEFT_RIGHT).crop((3, 6, 218, 221)).resize((160, 160)).save(
        content, "JPEG", quality=60
    )
    return (np.asarray(Image.open(content), np.float32) / 255) ** 0.8
