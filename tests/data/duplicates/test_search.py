"""The index proposes what brute force finds."""

import numpy as np
import pytest

from braintumor.data.duplicates import pairs
from braintumor.data.duplicates.pairs import similar_pairs
from braintumor.data.duplicates.search import COMPONENTS, build_index
from braintumor.data.duplicates.symmetries import ORIENTATIONS, oriented
from braintumor.data.duplicates.thumbnails import Thumbnails, make_thumbnail
from braintumor.data.phantom import smooth_noise
from braintumor.io.scan import Scan

pytest.importorskip("faiss")
PICTURES = np.random.default_rng(0).normal(size=(300, 16, 16)).astype(np.float32)


def textures(count: int) -> list[np.ndarray]:
    """Return pictures of random blobs, (60, 60) in [0, 1]."""
    random = np.random.default_rng(1)
    fields = [smooth_noise(random, 60, 6) + smooth_noise(random, 60, 15) for _ in range(count)]
    return [(0.5 + 0.2 * field).clip(0, 1).astype(np.float32) for field in fields]


@pytest.mark.parametrize("number", range(len(ORIENTATIONS)))
def test_a_picture_finds_itself_in_every_orientation(number: int) -> None:
    index = build_index(PICTURES, [PICTURES[:100], PICTURES[100:]])
    back = oriented(PICTURES[[7, 250]], number)
    first, second = index.candidates(back, 0.9)
    assert {(0, 7), (1, 250)} <= set(zip(first.tolist(), second.tolist(), strict=True))
    assert len(first) < 20


@pytest.mark.slow
def test_directions_do_not_depend_on_how_the_sample_lies() -> None:
    index = build_index(PICTURES, [PICTURES])
    assert index.bases.shape == (256, 8 * COMPONENTS)
    plain = index.bases[:, :COMPONENTS]
    assert plain.T @ plain == pytest.approx(np.eye(COMPONENTS), abs=1e-4)
    for number in range(len(ORIENTATIONS)):
        turned = oriented(PICTURES, number).reshape(300, -1) @ plain
        part = index.bases[:, number * COMPONENTS : (number + 1) * COMPONENTS]
        assert PICTURES.reshape(300, -1) @ part == pytest.approx(turned, abs=1e-3)


def test_pictures_without_structure_are_proposed_to_nobody() -> None:
    index = build_index(PICTURES, [PICTURES, np.zeros((3, 16, 16), np.float32)])
    first, _ = index.candidates(np.zeros((2, 16, 16), np.float32), 0.5)
    assert first.size == 0


def test_the_pairs_of_the_index_are_those_of_brute_force(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = textures(120)
    pictures = [
        *plain,
        *(np.rot90(each[:, ::-1], 1) for each in plain[:10]),
        *(each[2:, 1:-1] for each in plain[10:20]),
    ]
    thumbnails = Thumbnails.stacked([make_thumbnail(Scan(np.ascontiguousarray(each))) for each in pictures])
    exact = similar_pairs(thumbnails, threshold=0.8)
    monkeypatch.setattr(pairs, "LARGE", 50)
    near = similar_pairs(thumbnails, threshold=0.8)
    assert {(number, 120 + number) for number in range(20)} <= set(
        zip(exact.first.tolist(), exact.second.tolist(), strict=True)
    )
    assert near.first.tolist() == exact.first.tolist()
    assert near.second.tolist() == exact.second.tolist()
    whole = exact.first < 10
    assert near.orientation[whole].tolist() == exact.orientation[whole].tolist()


def test_two_sets_are_compared_as_by_brute_force(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = textures(80)
    a = Thumbnails.stacked([make_thumbnail(Scan(each)) for each in plain])
    b = Thumbnails.stacked([make_thumbnail(Scan(np.ascontiguousarray(np.rot90(each, 3)))) for each in plain[40:45]])
    exact = similar_pairs(a, b, 0.9)
    monkeypatch.setattr(pairs, "LARGE", 50)
    near = similar_pairs(a, b, 0.9)
    assert exact.first.tolist() == near.first.tolist() == list(range(40, 45))
    assert exact.second.tolist() == near.second.tolist() == list(range(5))
    assert near.score == pytest.approx(exact.score)
