"""Which images show the same slice: byte-identical, near-identical or mirrored ones.

Provisional: rotated copies and shared patients are not found.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from braintumor.data.manifest import Manifest, Row
from braintumor.errors import ImageError, UnreadableDataError
from braintumor.read import read
from braintumor.scan import Scan

SIDE: Final = 32
HEAD_GREY: Final = 20 / 255
HEAD_SHARE: Final = 0.02
BLOCK: Final = 1024


def thumbnail(scan: Scan) -> NDArray[np.float32]:
    """Return the (32, 32) float32 miniature of the head, with mean 0 and norm 1.

    The head is the box of the rows and columns in which more than 2 % of the pixels exceed 20/255. A slice without
    contrast gives zeros, which resemble nothing, not even each other.
    """
    bright = scan.pixels > HEAD_GREY
    rows = np.flatnonzero(bright.mean(axis=1) > HEAD_SHARE)
    columns = np.flatnonzero(bright.mean(axis=0) > HEAD_SHARE)
    if not rows.size or not columns.size:
        return np.zeros((SIDE, SIDE), np.float32)
    head = scan.pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    small = Image.fromarray(np.ascontiguousarray(head)).resize((SIDE, SIDE), Image.Resampling.BOX)
    values = np.asarray(small, np.float32)
    centred = values - values.mean()
    norm = np.linalg.norm(centred)
    return centred / norm if norm > FLAT else np.zeros_like(centred)


FLAT: Final = 1e-3


def thumbnails(manifest: Manifest, skip_unreadable: bool = False) -> tuple[NDArray[np.float32], dict[str, str]]:
    """Return the (N, 32, 32) miniatures of all rows, and the reason for every image that cannot be read.

    Args:
        manifest: N rows.
        skip_unreadable: give unreadable images a miniature of zeros instead of raising.

    Raises:
        UnreadableDataError: with all images that cannot be read.
    """

    def one(row: Row) -> tuple[NDArray[np.float32], str]:
        try:
            return thumbnail(read(manifest.path(row))), ""
        except ImageError as error:
            return np.zeros((SIDE, SIDE), np.float32), error.reason

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(one, manifest.rows))
    problems = {row.image: reason for row, (_, reason) in zip(manifest.rows, results, strict=True) if reason}
    if problems and not skip_unreadable:
        raise UnreadableDataError(manifest.root, problems)
    return np.array([miniature for miniature, _ in results], np.float32).reshape(-1, SIDE, SIDE), problems


def similar_pairs(
    a: NDArray[np.float32], b: NDArray[np.float32], threshold: float = 0.98
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the indices (i, j) of all pairs a[i], b[j] whose correlation exceeds the threshold, mirrored or not.

    Args:
        a: (N, 32, 32) miniatures.
        b: (M, 32, 32) miniatures; with `a` itself the pairs (i, i) are included.
        threshold: smallest correlation, the value at which two slices were found to be the same.
    """
    plain, mirrored = b.reshape(-1, SIDE * SIDE).T, b[:, :, ::-1].reshape(-1, SIDE * SIDE).T
    found = [np.empty((0, 2), np.int64)]
    for start in range(0, len(a), BLOCK):
        block = a[start : start + BLOCK].reshape(-1, SIDE * SIDE)
        similarity = np.maximum(block @ plain, block @ mirrored)  # (block, M)
        found.append(np.argwhere(similarity > threshold) + np.array([start, 0], np.int64))
    pairs = np.concatenate(found)
    return pairs[:, 0], pairs[:, 1]


def group(miniatures: NDArray[np.float32], hashes: Sequence[str]) -> NDArray[np.int64]:
    """Return (N,) group numbers from 0: images of one group are linked by similarity or by identical bytes.

    Args:
        miniatures: (N, 32, 32) of `thumbnails`.
        hashes: N SHA-256 of the files; empty ones link nothing.
    """
    first: dict[str, int] = {}
    same = [(first.setdefault(sha256, index), index) for index, sha256 in enumerate(hashes) if sha256]
    links = np.concatenate(
        [np.array(same, np.int64).reshape(-1, 2), np.stack(similar_pairs(miniatures, miniatures), 1)]
    )
    return components(len(miniatures), np.concatenate([links, links[:, ::-1]]))


def components(size: int, links: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return (size,) numbers of the connected components, in the order of their first members.

    Args:
        size: number of nodes.
        links: (L, 2) pairs of linked nodes, each in both directions.
    """
    smallest, before = np.arange(size), np.full(size, -1)
    while (smallest != before).any():
        before = smallest.copy()
        np.minimum.at(smallest, links[:, 0], smallest[links[:, 1]])
        smallest = smallest[smallest]  # every node points at a node of its component that comes earlier
    return np.unique(smallest, return_inverse=True)[1].astype(np.int64)
