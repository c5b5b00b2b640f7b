"""Whether the largest value of a deep file changes its answer: real slices, saved again with more than 8 bits.

A slice is divided by its maximum, multiplied by a largest value and rounded, as scanners and converters store it, and
saved in every deep format that is read. Its decision, by the model of the package, is compared with that of the 8-bit
file. 25 slices a class of the public set's test part are drawn once and for all.

Command: python benchmarks/depths.py
Takes: 3 minutes.
"""

import io
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from record import data_folder, number, record

import braintumor
from braintumor.predictor import Prediction

PER_CLASS = 25
LARGEST = (900, 1_030, 2_000, 4_200, 8_000, 17_000, 33_000, 60_000)
Deep = NDArray[np.uint16]


def main() -> None:
    """Produce `depths.json`."""
    files, model = drawn(), braintumor.load()
    plain = decisions([file.read_bytes() for file in files], model)
    slices = [np.asarray(Image.open(file).convert("L"), np.float64) for file in files]
    numbers, changed = {}, []
    for kind, encoded in FORMATS.items():
        for largest in LARGEST:
            contents = [encoded(np.rint(values / values.max() * largest).astype(np.uint16)) for values in slices]
            share = float(np.mean([a != b for a, b in zip(decisions(contents, model), plain, strict=True)]))
            changed.append(share)
            numbers[f"{kind}.{largest}.changed"] = number(share, "share", n=len(files))
    numbers = {"changed.max": number(max(changed), "share", n=len(files)), **numbers}
    record("depths", "python benchmarks/depths.py", numbers)


def drawn() -> list[Path]:
    """Return the slices, always the same."""
    random.seed(1)
    folder = data_folder() / "brain-tumor-mri" / "Testing"
    classes = ("glioma", "meningioma", "pituitary", "notumor")
    return [file for name in classes for file in random.sample(sorted((folder / name).iterdir()), PER_CLASS)]


def decisions(contents: list[bytes], model: braintumor.Model) -> list[str]:
    """Return a class or `refer` for each file, all of which have to be readable."""
    answers = braintumor.predict(contents, model)
    assert all(isinstance(answer, Prediction) for answer in answers)
    return [answer.decision for answer in answers if isinstance(answer, Prediction)]


def png(colour: int, channels: Callable[[Deep], list[Deep]]) -> Callable[[Deep], bytes]:
    """Return what writes a PNG of 16 bits a channel, which Pillow cannot do but for grey (PNG specification, 11.2)."""

    def encoded(values: Deep) -> bytes:
        height, width = values.shape
        rows = np.stack(channels(values), axis=-1).astype(">u2").reshape(height, -1)
        packed = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
        head = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
        parts = ((b"IHDR", head), (b"IDAT", packed), (b"IEND", b""))
        return b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
            for kind, body in parts
        )

    return encoded


def tiff(mode: str, kind: str) -> Callable[[Deep], bytes]:
    """Return what writes a TIFF in one of Pillow's deep modes, from values of this type."""

    def encoded(values: Deep) -> bytes:
        buffer = io.BytesIO()
        height, width = values.shape
        Image.frombytes(mode, (width, height), values.astype(kind).tobytes()).save(buffer, "TIFF")
        return buffer.getvalue()

    return encoded


FORMATS: dict[str, Callable[[Deep], bytes]] = {
    "png.grey": png(0, lambda values: [values]),
    "png.grey_alpha": png(4, lambda values: [values, np.full_like(values, 65_535)]),
    "png.rgb": png(2, lambda values: [values] * 3),
    "png.rgba": png(6, lambda values: [values, values, values, np.full_like(values, 65_535)]),
    "tiff.little": tiff("I;16", "<u2"),
    "tiff.big": tiff("I;16B", ">u2"),
    "tiff.32": tiff("I", "=i4"),
}


if __name__ == "__main__":
    main()
