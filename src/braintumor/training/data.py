"""Data for training: the manifest with its validation part, and the decoded images from a cache."""

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from braintumor.classes import CLASSES
from braintumor.data.duplicates.alignment import CANDIDATE, DUPLICATE
from braintumor.data.duplicates.groups import group_numbers, name_of
from braintumor.data.duplicates.pairs import RELATED
from braintumor.data.duplicates.thumbnails import make_thumbnails
from braintumor.data.layout import list_images
from braintumor.data.manifest import Manifest, Row, read_manifest, write_manifest
from braintumor.data.outlines import mask, outlines
from braintumor.data.split import leaks, split
from braintumor.errors import DataError, UnreadableDataError
from braintumor.files import file_sha256, replacing, write_text
from braintumor.io.read import read
from braintumor.models.preprocess import Preprocess

CACHE_VERSION = 2
DECODERS = 4  # threads; decoding releases the interpreter's lock
MASK_SIDE = 112  # half of the usual input: masks guide class maps of a quarter of that or less


@dataclass(frozen=True, eq=False)
class Images:
    """Decoded images of one split.

    Attributes:
        grey: (N, S, S) uint8, mapped from a file or on a GPU.
        labels: (N,) int64.
        masks: (N, M, M) uint8, the share of each field that lies inside the tumor's outline, 0 to 255; all 0 for an
            image without a known outline; None without a reference.
    """

    grey: NDArray[np.uint8] | Tensor
    labels: Tensor
    masks: Tensor | None = None

    def on(self, device: torch.device) -> "Images":
        """Return the images in the memory of a GPU, which reads them fastest there; unchanged for a CPU."""
        if device.type == "cpu":
            return self
        masks = None if self.masks is None else self.masks.to(device)
        return replace(self, grey=torch.from_numpy(np.array(self.grey)).to(device), masks=masks)

    def batch(self, indices: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the (B, 1, S, S) uint8 images and (B,) labels at these positions, on the device."""
        if isinstance(self.grey, Tensor):
            grey = self.grey[indices.to(self.grey.device, non_blocking=True)]
        else:
            grey = torch.from_numpy(self.grey[indices.numpy()])
        return grey[:, None].to(device, non_blocking=True), self.labels[indices].to(device, non_blocking=True)

    def outlined(self, indices: Tensor, device: torch.device) -> Tensor | None:
        """Return the (B, 1, M, M) uint8 masks at these positions, on the device; None without a reference."""
        if self.masks is None:
            return None
        return self.masks[indices.to(self.masks.device)][:, None].to(device, non_blocking=True)

    def batches(self, size: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all images in order as (B, 1, S, S) float32 in [0, 1], with their labels."""
        for indices in torch.arange(len(self.labels)).split(size):
            grey, labels = self.batch(indices, device)
            yield grey.float() / 255, labels


def prepare(
    data_dir: Path, cache: Path, *, fraction: float, seed: int, skip_unreadable: bool
) -> tuple[Manifest, dict[str, str]]:
    """Return the manifest with groups and splits, and the files left out with their reasons.

    A given validation part is kept; otherwise one is cut from the training part, whole groups at a time. Where the
    layout has no parts, a test part is cut first. A test part that is given is neither listed nor opened. The result
    is kept in the cache folder under the fingerprint of the files and settings.

    Raises:
        DataError: the folder cannot be used, or a group lies in training and in the given validation part.
        UnreadableDataError: files cannot be read, and they are not to be skipped.
    """
    listing = list_images(data_dir, parts={"train", "val"})
    # The thresholds of the search for duplicates belong to the key: other thresholds make other groups.
    key = [CACHE_VERSION, RELATED, CANDIDATE, DUPLICATE, listing.manifest.fingerprint(), fraction, seed]
    entry = cache / "manifests" / sha256(json.dumps(key).encode()).hexdigest()[:32]
    cached = _read_entry(entry, data_dir)
    manifest, undecodable = cached or _grouped(listing.manifest, cache)
    skipped = {**listing.skipped, **undecodable}
    if skipped and not skip_unreadable:
        raise UnreadableDataError(data_dir, skipped)
    if not cached:
        manifest = _with_splits(manifest, fraction, seed)
        write_manifest(manifest, entry / "manifest.csv")
        write_text(entry / "undecodable.json", json.dumps(undecodable, indent=2))
    return manifest, skipped


def _read_entry(entry: Path, data_dir: Path) -> tuple[Manifest, dict[str, str]] | None:
    """Return manifest and undecodable files from an entry of the cache; None where it is absent or damaged."""
    try:
        undecodable = json.loads((entry / "undecodable.json").read_text())
        return read_manifest(entry / "manifest.csv", data_dir), undecodable
    except (OSError, ValueError, DataError):
        return None


def _grouped(manifest: Manifest, cache: Path) -> tuple[Manifest, dict[str, str]]:
    """Return the manifest with group names filled in, without the files that cannot be decoded, and these.

    Raises:
        DataError: no image of a class can be decoded.
    """
    thumbnails, problems = make_thumbnails(manifest, cache)
    decodable = [index for index, row in enumerate(manifest.rows) if row.image not in problems]
    usable = replace(manifest, rows=tuple(manifest.rows[index] for index in decodable))
    lost_labels = {row.label for row in manifest} - {row.label for row in usable}
    if lost_labels:
        lines = (f"  {image}: {reason}" for image, reason in sorted(problems.items()))
        raise DataError(f"no usable image of {', '.join(sorted(lost_labels))} in {manifest.root}:", *lines)
    numbers = group_numbers(usable, thumbnails[decodable])
    named = tuple(replace(row, group=name_of(number)) for row, number in zip(usable, numbers.tolist(), strict=True))
    return replace(manifest, rows=named), problems


def _with_splits(manifest: Manifest, fraction: float, seed: int) -> Manifest:
    """Return the grouped manifest with a validation part, and with a test part where the layout has no parts."""
    if not any(row.split for row in manifest.rows):
        manifest = split(manifest, fraction, seed, "test")
    if any(row.split == "val" for row in manifest.rows):
        _refuse_leaks(manifest)
        return manifest
    return split(manifest, fraction, seed, "val")


def _refuse_leaks(manifest: Manifest) -> None:
    """Raise where a group has images in more than one split."""
    shared = {name for name, _ in leaks(manifest)}
    if shared:
        images = [row.image for row in manifest.rows if row.group in shared and row.split == "val"]
        raise DataError(
            f"{len(images)} validation image(s) have a duplicate in the training part, so the validation scores would "
            "be too good:",
            *(f"  {image}" for image in images),
            "Remove them, or remove the val folder; a validation part without duplicates is then cut off.",
        )


def decoded(manifest: Manifest, size: int, cache: Path, report: Callable[[str], None]) -> Images:
    """Return the images of a manifest as `Preprocess(size)` makes them, memory-mapped from the cache.

    The cache entry is keyed by the manifest's fingerprint and carries the SHA-256 of its file; where it is absent,
    stale or damaged it is made again.

    Args:
        manifest: of the images.
        size: side of the decoded images in pixels.
        cache: folder of the cache.
        report: called with a sentence where images are decoded.
    """
    order = [row.image for row in manifest.rows]
    key = sha256(json.dumps([CACHE_VERSION, size, manifest.fingerprint(), order]).encode()).hexdigest()[:32]
    file, seal = cache / "images" / f"{key}.npy", cache / "images" / f"{key}.json"
    shape = (len(manifest.rows), size, size)
    if not _is_sealed(file, seal, shape):
        report(f"decoding {shape[0]} images into the cache, once for all runs")
        with replacing(file) as aside:
            images = np.lib.format.open_memmap(aside, "w+", np.uint8, shape)
            _reserve(aside)
            _fill(images, manifest, Preprocess(size))
            images.flush()
        # Written last: without its seal an entry is made again, so one that was interrupted is never used.
        write_text(seal, json.dumps({"sha256": file_sha256(file)}))
    grey = np.load(file, mmap_mode="r")
    labels = torch.tensor([CLASSES.index(row.label) for row in manifest.rows], dtype=torch.int64)
    return Images(grey, labels)


def outlined(images: Images, manifest: Manifest, reference: Path, cache: Path) -> Images:
    """Return the images with the masks of their tumors, as far as a reference folder knows their outlines.

    Raises:
        DataError: the reference folder cannot be used, or knows the outline of no image.
    """
    masks = torch.zeros((len(manifest), MASK_SIDE, MASK_SIDE), dtype=torch.uint8)
    for index, polygon in enumerate(outlines(manifest, reference, cache)):
        if polygon is not None:
            masks[index] = torch.from_numpy(mask(polygon, MASK_SIDE).copy())
    return replace(images, masks=masks)


def _reserve(file: Path) -> None:
    """Allocate the file's whole length on the disk: a full disk is an error here, but SIGBUS in a memory map."""
    with file.open("rb+") as stream:
        os.posix_fallocate(stream.fileno(), 0, file.stat().st_size)


def _fill(images: NDArray[np.uint8], manifest: Manifest, preprocess: Preprocess) -> None:
    """Decode the images of a manifest into an array (N, S, S)."""

    def decode(index: int, row: Row) -> None:
        images[index] = preprocess.grey_levels(read(manifest.path(row)))

    with ThreadPoolExecutor(DECODERS) as pool:
        for _ in pool.map(decode, range(len(manifest.rows)), manifest.rows):  # asking for results raises their errors
            pass


def _is_sealed(file: Path, seal: Path, shape: tuple[int, ...]) -> bool:
    """Tell whether a cache entry is complete, of this shape and unchanged since it was written."""
    try:
        expected = json.loads(seal.read_text())["sha256"]
        stored = np.load(file, mmap_mode="r")
        return bool(stored.shape == shape and stored.dtype == np.uint8 and file_sha256(file) == expected)
    except (OSError, ValueError, KeyError, TypeError):
        return False
