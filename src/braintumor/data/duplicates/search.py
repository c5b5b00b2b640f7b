"""Index a large set of pictures by their main components, to find similar ones without comparing all."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from braintumor.data.duplicates.symmetries import ORIENTATIONS, Floats, oriented

Integers = NDArray[np.int64]
COMPONENTS: Final = 192
NEAREST: Final = 30
PROBES: Final = 16  # cells that are searched per picture
ROUNDS: Final = 10  # of k-means
CELLS_PER_ROOT: Final = 4
PICTURES_PER_CELL: Final = 40
SLACK: Final = 0.03  # by which eight bits and 192 components may underrate a similarity


@dataclass(frozen=True, eq=False)
class Index:
    """Pictures by their main components, in cells of similar ones.

    Attributes:
        bases: (P, 8 x 192) the components' directions, for pictures of P pixels in each of the eight orientations.
        cells: faiss' inverted file, searched by the cosine.
    """

    bases: Floats
    cells: Any

    def candidates(self, pictures: Floats, threshold: float) -> tuple[Integers, Integers]:
        """Return the positions of pictures and of indexed ones whose similarity may exceed a threshold.

        Of each picture in each orientation the 30 nearest are looked at. A pair may come several times.

        Args:
            pictures: (N, S, S).
            threshold: of the cosine of whole pictures, which that of their main components seldom falls short of.
        """
        # the pictures stay as they are and the directions are turned: one product gives all eight orientations
        queries = (pictures.reshape(len(pictures), -1) @ self.bases).reshape(-1, COMPONENTS)
        cosine, second = self.cells.search(_unit(queries), NEAREST)
        first = np.repeat(np.arange(len(pictures)), len(ORIENTATIONS) * NEAREST).reshape(second.shape)
        near = (cosine > threshold - SLACK) & (second >= 0)
        both = np.unique(np.stack([first[near], second[near]], axis=1), axis=0)
        return both[:, 0], both[:, 1]


def build_index(sample: Floats, blocks: Iterable[Floats]) -> Index:
    """Return the index of pictures.

    Args:
        sample: (N, S, S) random ones, at least 24.
        blocks: (B, S, S) each, all of them in order.
    """
    directions = _main_directions(sample)
    size = sample.shape[1]
    square = directions.T.reshape(COMPONENTS, size, size)
    forward = directions.reshape(size * size, COMPONENTS)
    vectors = [_unit(block.reshape(len(block), -1) @ forward).astype(np.float16) for block in blocks]
    return Index(_bases_of(square), _filled(vectors))


def _main_directions(sample: Floats) -> Floats:
    """Return (P, 192) orthonormal main directions of pictures that may lie in any of the eight orientations."""
    turned = np.concatenate([oriented(sample, number) for number in range(len(ORIENTATIONS))])
    flat = turned.reshape(len(turned), -1)
    # eigh sorts by rising eigenvalue: the last columns are the main directions, taken from the largest on
    directions: Floats = np.linalg.eigh(flat.T @ flat)[1][:, : -COMPONENTS - 1 : -1]
    return np.ascontiguousarray(directions, np.float32)


def _bases_of(square: Floats) -> Floats:
    """Return (P, 8 x 192): a picture times them gives the components (192, S, S) of the picture in each orientation."""
    pixels = np.arange(square[0].size).reshape(1, *square.shape[1:])
    flat = square.reshape(len(square), -1)
    parts = []
    for number in range(len(ORIENTATIONS)):
        source = oriented(pixels, number).ravel()  # where each pixel of the oriented picture comes from
        part = np.empty_like(flat)
        part[:, source] = flat
        parts.append(part)
    return np.ascontiguousarray(np.concatenate(parts).T)


def _unit(vectors: Floats) -> Floats:
    """Return (N, D) vectors with norm 1; zeros stay zeros."""
    norm = np.linalg.norm(vectors, axis=1, keepdims=True)
    result: Floats = np.where(norm > 0, vectors / np.where(norm > 0, norm, 1), 0).astype(np.float32)
    return result


def _filled(blocks: list[NDArray[np.float16]]) -> Any:
    """Return the inverted file of vectors, given in blocks of (N, 192)."""
    import faiss

    total = sum(map(len, blocks))
    count = max(1, min(int(CELLS_PER_ROOT * total**0.5), total // PICTURES_PER_CELL))
    coarse, eight_bits = faiss.IndexFlatIP(COMPONENTS), faiss.ScalarQuantizer.QT_8bit
    cells = faiss.IndexIVFScalarQuantizer(coarse, COMPONENTS, count, eight_bits, faiss.METRIC_INNER_PRODUCT)
    cells.cp.niter = ROUNDS
    share = -(-count * PICTURES_PER_CELL // len(blocks))  # of each block for training, rounded up
    random = np.random.default_rng(0)
    cells.train(np.concatenate([block[random.permutation(len(block))[:share]] for block in blocks]).astype(np.float32))
    for block in blocks:
        cells.add(block.astype(np.float32))
    cells.nprobe = PROBES
    return cells
