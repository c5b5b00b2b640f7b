"""Which images show the same slice: byte-identical, near-identical or mirrored ones.

Provisional: rotated copies and shared patients are not found.
"""

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

from braintumor.data.manifest import Manifest, Row, at_hand
from braintumor.errors import ImageError, StorageError
from braintumor.files import replacing
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


def thumbnails(manifest: Manifest, cache: Path) -> tuple[NDArray[np.float32], dict[str, str]]:
    """Return the (N, 32, 32) miniatures of all rows, and the reason for every image that cannot be read.

    An unreadable image has a miniature of zeros. If all are readable, the miniatures are kept in the cache folder
    under the SHA-256 of the files, so that no file is decoded for its miniature twice.

    Args:
        manifest: N rows, with the SHA-256 of the files; without them nothing is kept.
        cache: the cache folder; if it cannot be written, nothing is kept.
    """
    hashes = [row.sha256 for row in manifest]
    key = hashlib.sha256(json.dumps([CACHE_VERSION, PIL.__version__, hashes]).encode()).hexdigest()[:32]
    file = cache / "thumbnails" / f"{key}.float32"
    kept = recall(file, len(manifest)) if all(hashes) else None
    if kept is not None:
        return kept, {}
    miniatures, problems = made(manifest)
    if all(hashes) and not problems:
        with suppress(OSError, StorageError):
            if len(at_hand(manifest)) == len(manifest):  # still what was listed
                keep(file, miniatures)
    return miniatures, problems


CACHE_VERSION: Final = 1  # raise it when `read` or `thumbnail` gives other values


def recall(file: Path, count: int) -> NDArray[np.float32] | None:
    """Return the (count, 32, 32) miniatures that `keep` wrote; None if the file is absent or damaged."""
    try:
        content = memoryview(file.read_bytes())
    except OSError:
        return None
    seal, values = content[:SEAL_BYTES], content[SEAL_BYTES:]
    if len(values) != count * SIDE * SIDE * 4 or hashlib.sha256(values).digest() != seal:
        return None
    return np.frombuffer(values, np.float32).reshape(count, SIDE, SIDE)


SEAL_BYTES: Final = 32


def keep(file: Path, miniatures: NDArray[np.float32]) -> None:
    """Write miniatures after the SHA-256 of their bytes, whole or not at all."""
    values = miniatures.tobytes()
    with replacing(file) as aside:
        aside.write_bytes(hashlib.sha256(values).digest() + values)


def made(manifest: Manifest) -> tuple[NDArray[np.float32], dict[str, str]]:
    """Return the (N, 32, 32) miniatures of the files, zeros for unreadable ones, and the reasons of these."""

    def one(row: Row) -> tuple[NDArray[np.float32], str]:
        try:
            return thumbnail(read(manifest.path(row))), ""
        except ImageError as error:
            return np.zeros((SIDE, SIDE), np.float32), error.reason

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(one, manifest.rows))
    problems = {row.image: reason for row, (_, reason) in zip(manifest.rows, results, strict=True) if reason}
    return np.array([miniature for miniature, _ in results], np.float32).reshape(-1, SIDE, SIDE), problems


def similar_pairs(
    a: NDArray[np.float32], b: NDArray[np.float32] | None = None, threshold: float = 0.98
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the indices (i, j) of all pairs a[i], b[j] whose correlation exceeds the threshold, mirrored or not.

    Args:
        a: (N, 32, 32) miniatures.
        b: (M, 32, 32) miniatures; by default `a` itself, with i < j.
        threshold: smallest correlation, the value at which two slices were found to be the same.
    """
    ours = even_and_odd(a)
    theirs = ours if b is None else even_and_odd(b)
    found = [np.empty((0, 2), np.int64)]
    for start in range(0, len(a), BLOCK):
        first = start if b is None else 0
        even, odd = (mine[start : start + BLOCK] @ other[first:].T for mine, other in zip(ours, theirs, strict=True))
        even += np.abs(odd, out=odd)  # (block, M) the larger correlation: even + odd with b, even - odd with b mirrored
        found.append(np.argwhere(even > threshold) + np.array([start, first], np.int64))
    pairs = np.concatenate(found)
    if b is None:
        pairs = pairs[pairs[:, 0] < pairs[:, 1]]
    return pairs[:, 0], pairs[:, 1]


def even_and_odd(miniatures: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the parts (N, 512) of (N, 32, 32) miniatures that a mirror keeps and that it negates.

    The correlation of two miniatures is the sum of the parts' inner products, that with the mirrored one their
    difference: both together cost as much as one.
    """
    left, right = miniatures[:, :, : SIDE // 2], miniatures[:, :, : SIDE // 2 - 1 : -1]
    even, odd = ((left + sign * right) * np.float32(0.5**0.5) for sign in (1, -1))
    return even.reshape(-1, SIDE * SIDE // 2), odd.reshape(-1, SIDE * SIDE // 2)


def group(miniatures: NDArray[np.float32], hashes: Sequence[str]) -> NDArray[np.int64]:
    """Return (N,) group numbers from 0: images of one group are linked by similarity or by identical bytes.

    Args:
        miniatures: (N, 32, 32) of `thumbnails`.
        hashes: N SHA-256 of the files; empty ones link nothing.
    """
    first: dict[str, int] = {}
    same = [(first.setdefault(sha256, index), index) for index, sha256 in enumerate(hashes) if sha256]
    links = np.concatenate([np.array(same, np.int64).reshape(-1, 2), np.stack(similar_pairs(miniatures), 1)])
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
