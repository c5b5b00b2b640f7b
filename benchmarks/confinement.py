"""What a taken-over decoder can do, what it costs to prevent it, and whether all good files are still decoded.

Each operation of `confined_operations` is tried in a confined process as root and as an account without rights, and,
to show that it would have worked, once as root without confinement. Good files are pydicom's own, and small ones of all
transfer syntaxes, image and volume formats: all that are read without confinement have to be read with it, alike.

Command: python benchmarks/confinement.py
Takes: 2 minutes.
"""

import gzip
import io
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom.data import get_testdata_files
from record import ROOT, number, record, spread

from braintumor.errors import BrainTumorError
from braintumor.io.read import read_all
from braintumor.io.sandbox import Sandbox
from braintumor.io.scan import Scan
from braintumor.io.worker import LARGEST

sys.path.append(str(ROOT))

import confined_operations
from dicom_mutants import valid_files

from tests.volume_files import brain, head, nifti

ROOT_USER, NOBODY = 0, 65534
STARTS = 10
COMPRESSIONS = ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "zstd", "lzma")
VOXELS = ("uint8", "int16", "uint16", "int32", "float32", "float64")


def main() -> None:
    """Produce `confinement.json`."""
    names = confined_operations.names()
    allowed = {user: confined_operations.attempts(user) for user in (ROOT_USER, NOBODY)}
    possible = confined_operations.attempts(ROOT_USER, confined=False)
    for user, succeeded in allowed.items():
        print(f"account {user}: {len(succeeded)} of {len(names)} operations succeeded {succeeded}")
    files = list(good_files())
    with Sandbox(1, deadline=30) as sandbox:
        missing = sandbox.missing_protections()
        failed = [name for name, content, scans in files if not same(scans, decoded(sandbox, content))]
    print(f"protections missing here: {missing or 'none'}; good files that no longer decode: {failed or 'none'}")
    numbers = {
        "operations": number(len(names), "operations"),
        "possible": number(len(possible), "operations", n=len(names)),
        "allowed": number(sum(map(len, allowed.values())), "operations", n=len(allowed) * len(names)),
        "start.milliseconds": spread([start_milliseconds() for _ in range(STARTS)], "milliseconds"),
        "decoded.files": number(len(files), "files"),
        "decoded.slices": number(sum(len(scans) for *_, scans in files), "slices"),
        "decoded.failed": number(len(failed), "files", n=len(files)),
    }
    record("confinement", "python benchmarks/confinement.py", numbers)


def start_milliseconds() -> float:
    """Return how long a decoder takes from its start until it is confined and waits for a file."""
    began = time.perf_counter()
    with Sandbox(1) as sandbox:
        sandbox.missing_protections()
        return 1000 * (time.perf_counter() - began)


def good_files() -> Iterator[tuple[str, bytes, list[Scan]]]:
    """Yield name, content and slices of every file that is read without confinement."""
    for name, content in [*pydicom_files(), *made_files()]:
        with suppress(BrainTumorError):
            yield name, content, list(read_all(content, name, largest=LARGEST))


def pydicom_files() -> Iterator[tuple[str, bytes]]:
    """Yield pydicom's own files, as far as they lie on this machine."""
    with warnings.catch_warnings(action="ignore"):
        for path in map(Path, get_testdata_files()):
            if path.is_file():
                yield path.name, path.read_bytes()


def made_files() -> Iterator[tuple[str, bytes]]:
    """Yield small files of all transfer syntaxes, image and volume formats."""
    yield from ((f"dicom {index}", content) for index, content in enumerate(valid_files()))
    grey = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8))
    for mode in ("L", "1", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16"):
        image = grey.convert("I").convert(mode) if mode == "I;16" else grey.convert("RGB").convert(mode)
        for kind in ("PNG", "JPEG", "TIFF", "BMP"):
            with suppress(OSError):  # a format that has no such pixels
                yield f"{mode} {kind}", saved(image, kind)
    for compression in COMPRESSIONS:
        yield f"TIFF {compression}", saved(grey, "TIFF", compression=compression)
    yield "JPEG progressive", saved(grey, "JPEG", progressive=True)
    turned = Image.Exif()
    turned[0x0112] = 6  # the orientation
    yield "JPEG turned", saved(grey, "JPEG", exif=turned)
    yield "NIfTI packed", brain()
    for voxels in VOXELS:
        content = nifti(head().astype(voxels))
        yield f"NIfTI {voxels}", content
        yield f"NIfTI {voxels} packed", gzip.compress(content)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    """Return an image as the content of a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(sandbox: Sandbox, content: bytes) -> list[Scan]:
    """Return what the sandbox reads, nothing where it refuses."""
    with suppress(BrainTumorError):
        return list(sandbox.read_all(content, "x"))
    return []


def same(ours: list[Scan], theirs: list[Scan]) -> bool:
    """Tell whether slices have the same pixels."""
    return len(ours) == len(theirs) and all(
        np.array_equal(one.pixels, other.pixels) for one, other in zip(ours, theirs, strict=True)
    )


if __name__ == "__main__":
    main()
