"""Files that a service may be sent by those who mean it ill: bombs, and mutants of valid files that keep their type.

Structure-aware mutants change fields, lengths, order and checksums so that the file still looks like what it was: the
changed part is reached, not refused at the door.
"""

import gzip
import io
import random
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image
from record import ROOT

sys.path.insert(0, str(ROOT))  # the files of the tests
from tests.dicom.test_attacks import ATTACKS

PNG_START = b"\x89PNG\r\n\x1a\n"
ODD_NUMBERS = (0, 1, 2, 3, 7, 8, 9, 16, 255, 256, 32767, 32768, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1)
Mutate = Callable[[random.Random, bytes], bytes]


def picture() -> Image.Image:
    """Return a small grey picture with a head-like blob."""
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    return Image.fromarray((200 * np.exp(-3 * (x**2 + y**2)) + 20 * np.sin(9 * x) ** 2).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """Return the image in a file format."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    """Return a ZIP archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


# --- bombs ------------------------------------------------------------------------------------------------------------


def png_of(width: int, height: int, rows: int, *more: tuple[bytes, bytes]) -> bytes:
    """Return a grey PNG that says it has this size and holds so many black rows."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    packer = zlib.compressobj(9)
    body = b"".join(packer.compress(bytes(width + 1)) for _ in range(rows)) + packer.flush()
    chunks = [(b"IHDR", head), *more, (b"IDAT", body), (b"IEND", b"")]
    return PNG_START + b"".join(chunk(*each) for each in chunks)


def chunk(kind: bytes, content: bytes) -> bytes:
    """Return one piece of a PNG with a right checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def bombs() -> dict[str, bytes]:
    """Return small files that become large, or never end, by name."""
    zeros = zlib.compress(bytes(1 << 30), 9)
    picture_file = encoded(picture(), "PNG")
    bitmap = bytearray(encoded(picture(), "BMP"))
    struct.pack_into("<ii", bitmap, 18, 7_999, 7_999)  # no such rows follow
    nested = picture_file
    for _ in range(50):
        nested = zipped({"a.zip": nested})
    return {
        "png 40000 x 40000": png_of(40_000, 40_000, 40_000),
        "png 12800 x 12800": png_of(12_800, 12_800, 12_800),
        "png 4000 x 4000 (at the limit)": png_of(4_001, 4_000, 4_000),
        "png of a lying height": png_of(2_000, 2_000_000_000, 2_000),
        "png with 1 GiB of text": png_of(64, 64, 64, (b"zTXt", b"a\0\0" + zeros)),
        "png with a 1 GiB profile": png_of(64, 64, 64, (b"iCCP", b"a\0\0" + zeros)),
        "bmp without its rows": bytes(bitmap),
        "tiff of 100,000 frames": frames(encoded(picture(), "TIFF"), 100_000),
        "tiff 15000 x 15000, packed": encoded(Image.new("1", (15_000, 15_000)), "TIFF", compression="group4"),
        "jpeg 12000 x 12000": encoded(Image.new("L", (12_000, 12_000)), "JPEG"),
        "zip of 1 GiB": zipped({"a.png": bytes(1 << 30)}),
        "zip of 8 x 32 MiB": zipped({f"{n}.png": bytes(32 << 20) for n in range(8)}),
        "zip of 8 x 15 MiB that begin like PNG": zipped({f"{n}.png": PNG_START + bytes(15 << 20) for n in range(8)}),
        "zip of 12 TIFFs of 100,000 frames": zipped(
            {f"{n}.tif": frames(encoded(picture(), "TIFF"), 100_000) for n in range(12)}
        ),
        "zip of 100,000 files": zipped({f"{n}.png": b"" for n in range(100_000)}),
        "zip of 500 bombs": zipped({f"{n}.png": png_of(3_900, 3_900, 1) for n in range(500)}),
        "zip of zips": zipped({f"{n}.zip": zipped({"a.png": bytes(16 << 20)}) for n in range(300)}),
        "zip in zip in zip …": nested,
        "gzip": b"\x1f\x8b" + zeros,
        "nifti of 1 GiB, packed": packed_volume(1 << 30),
        "nifti that says it has 32767 slices": volume_head(64, 64, 32_767) + bytes(64 * 64 * 2),
        **{f"dicom: {name}": make() for name, (make, _) in ATTACKS.items()},
        "polyglot of PNG and ZIP": picture_file[:100] + zipped({"a.png": bytes(100 << 20)}),
    }


def volume_head(columns: int, rows: int, slices: int) -> bytes:
    """Return the head of a NIfTI-1 file of 16-bit grey values."""
    head = bytearray(352)
    struct.pack_into("<i", head, 0, 348)
    struct.pack_into("<8h", head, 40, 3, columns, rows, slices, 1, 1, 1, 1)
    struct.pack_into("<2h", head, 70, 4, 16)
    struct.pack_into("<8f", head, 76, 1, 1, 1, 1, 1, 1, 1, 1)
    struct.pack_into("<f", head, 108, 352)
    head[344:348] = b"n+1\0"
    return bytes(head)


def packed_volume(size: int) -> bytes:
    """Return a gzipped NIfTI file of so many zeros."""
    return gzip.compress(volume_head(1024, 1024, size >> 21) + bytes(size), 1)


def frames(tiff: bytes, count: int) -> bytes:
    """Return a TIFF with copies of its directory, one after the other."""
    start = struct.unpack_from("<I", tiff, 4)[0]
    length = 2 + 12 * struct.unpack_from("<H", tiff, start)[0]
    directory = tiff[start : start + length]
    places = [len(tiff) + number * (length + 4) for number in range(count)]
    chain = b"".join(directory + struct.pack("<I", each) for each in [*places[1:], 0])
    return tiff[: start + length] + struct.pack("<I", places[0]) + tiff[start + length + 4 :] + chain


# --- mutants ----------------------------------------------------------------------------------------------------------


def pieces(content: bytes) -> list[tuple[bytes, bytes]]:
    """Return the chunks of a valid PNG."""
    found, place = [], len(PNG_START)
    while place < len(content):
        (length,) = struct.unpack_from(">I", content, place)
        found.append((content[place + 4 : place + 8], content[place + 8 : place + 8 + length]))
        place += 12 + length
    return found


def mutated_png(chance: random.Random, content: bytes) -> bytes:
    """Change header fields, image data before packing, order or number of chunks; checksums stay right."""
    chunks = pieces(content)
    way = chance.randrange(5)
    if way == 0:
        head = bytearray(chunks[0][1])
        place = chance.choice((0, 4))
        if chance.random() < 0.5:
            struct.pack_into(">I", head, place, chance.choice(ODD_NUMBERS))
        head[chance.randrange(8, 13)] = chance.choice((0, 1, 2, 3, 4, 6, 8, 16, 255))
        chunks[0] = (b"IHDR", bytes(head))
    elif way == 1:
        body = zlib.decompress(b"".join(data for kind, data in chunks if kind == b"IDAT"))
        changed = flipped(chance, body, 8)[: chance.choice((len(body), len(body) // 2, 1, 0))]
        chunks = [each for each in chunks if each[0] != b"IDAT"]
        chunks.insert(1, (b"IDAT", zlib.compress(changed)))
    elif way == 2:
        index = chance.randrange(1, len(chunks))
        chunks[index] = (chunks[index][0], flipped(chance, chunks[index][1], 4))
    elif way == 3:
        chunks.insert(chance.randrange(1, len(chunks) + 1), odd_chunk(chance))
    else:
        chunks.insert(1, chunks.pop(chance.randrange(1, len(chunks))))
        chunks = chunks[: chance.randrange(1, len(chunks) + 1)]
    return PNG_START + b"".join(chunk(*each) for each in chunks)


def odd_chunk(chance: random.Random) -> tuple[bytes, bytes]:
    """Return a chunk that a PNG may have, with content that it should not have."""
    kind = chance.choice((b"PLTE", b"tRNS", b"gAMA", b"iCCP", b"zTXt", b"iTXt", b"acTL", b"fcTL", b"pHYs", b"eXIf"))
    return kind, chance.choice((b"", chance.randbytes(3), chance.randbytes(26), b"x\0\0" + zlib.compress(bytes(99))))


def mutated_jpeg(chance: random.Random, content: bytes) -> bytes:
    """Change a segment's fields, remove, repeat or reorder segments, or flip bits of the picture."""
    segments, place = [], 2
    while content[place + 1] != 0xDA:
        (length,) = struct.unpack_from(">H", content, place + 2)
        segments.append(content[place : place + 2 + length])
        place += 2 + length
    rest = content[place:]
    way, index = chance.randrange(5), chance.randrange(len(segments))
    if way == 0:
        segment = segments[index]
        segments[index] = segment[:4] + flipped(chance, segment[4:], 3)
    elif way == 1:
        del segments[index]
    elif way == 2:
        segments.insert(chance.randrange(len(segments) + 1), segments[index])
    elif way == 3:
        size = next(number for number, each in enumerate(segments) if each[1] in (0xC0, 0xC2))
        frame = bytearray(segments[size])
        struct.pack_into(">HH", frame, 5, *(chance.choice(ODD_NUMBERS) & 0xFFFF for _ in range(2)))
        segments[size] = bytes(frame)
    else:
        rest = flipped(chance, rest[:12], 1) + flipped(chance, rest[12:], 20)
    return content[:2] + b"".join(segments) + rest


def mutated_tiff(chance: random.Random, content: bytes) -> bytes:
    """Change type, count or value of a few entries of the directory, or where it leads."""
    changed = bytearray(content)
    directory = struct.unpack_from("<I", content, 4)[0]
    count = struct.unpack_from("<H", content, directory)[0]
    for _ in range(chance.randint(1, 3)):
        entry = directory + 2 + 12 * chance.randrange(count)
        way = chance.randrange(4)
        if way == 0:
            struct.pack_into("<H", changed, entry + 2, chance.randrange(14))
        elif way == 1:
            struct.pack_into("<I", changed, entry + 4, chance.choice(ODD_NUMBERS))
        elif way == 2:
            value = chance.choice((*ODD_NUMBERS, 5, 6, 32773, 34712, 34925, 50000))
            struct.pack_into("<I", changed, entry + 8, value)
        else:
            struct.pack_into("<I", changed, directory + 2 + 12 * count, chance.choice((directory, 4, 8, 2**31)))
    return bytes(changed)


def mutated_bmp(chance: random.Random, content: bytes) -> bytes:
    """Change a few fields of the headers."""
    changed = bytearray(content)
    for _ in range(chance.randint(1, 3)):
        place = chance.choice((10, 14, 18, 22, 26, 28, 30, 34, 46, 50))
        struct.pack_into("<I", changed, place, chance.choice((*ODD_NUMBERS, 4, 5, 6, 12, 40, 64, 108, 124)))
    return bytes(changed)


def mutated_zip(chance: random.Random, content: bytes) -> bytes:
    """Change a few fields of the directory, of a member's head or of the last record."""
    changed = bytearray(content)
    places = [content.find(b"PK\x01\x02"), 0, len(content) - 22]
    for _ in range(chance.randint(1, 3)):
        start = chance.choice(places)
        place = start + chance.randrange(4, 20 if start == places[2] else 26, 2)
        struct.pack_into("<H", changed, place, chance.choice(ODD_NUMBERS) & 0xFFFF)
    return bytes(changed)


def flipped(chance: random.Random, content: bytes, most: int) -> bytes:
    """Change up to so many bytes."""
    changed = bytearray(content)
    for _ in range(chance.randint(1, most) if content else 0):
        changed[chance.randrange(len(changed))] = chance.choice((0, 1, 127, 128, 255, chance.randrange(256)))
    return bytes(changed)


def shuffled(chance: random.Random, content: bytes) -> bytes:
    """Cut, repeat, insert or overwrite pieces without regard for structure."""
    changed = bytearray(content)
    for _ in range(chance.randint(1, 6)):
        place, length = chance.randrange(len(changed) + 1), chance.choice((0, 1, 2, 8, 100))
        changed[place : place + chance.choice((0, 1, 4, 50))] = chance.randbytes(length)
    return bytes(changed[: chance.choice((len(changed), chance.randrange(len(changed) + 1)))])


def valid_files() -> list[tuple[bytes, Mutate]]:
    """Return small valid files, each with how to change it by its structure."""
    grey = picture()
    colour = Image.merge("RGB", (grey, grey, grey))
    png = encoded(grey, "PNG")
    return [
        (png, mutated_png),
        (encoded(colour.convert("P"), "PNG"), mutated_png),
        (encoded(grey.convert("I;16"), "PNG"), mutated_png),
        (encoded(grey, "JPEG"), mutated_jpeg),
        (encoded(colour, "JPEG", progressive=True), mutated_jpeg),
        (encoded(grey, "TIFF"), mutated_tiff),
        (encoded(colour, "TIFF", compression="tiff_lzw"), mutated_tiff),
        (encoded(colour, "TIFF", compression="jpeg"), mutated_tiff),
        (encoded(grey.convert("F"), "TIFF"), mutated_tiff),
        (encoded(grey, "BMP"), mutated_bmp),
        (zipped({"a.png": png, "b/c.png": png}), mutated_zip),
    ]


def malformed(count: int, seed: int = 0) -> list[bytes]:
    """Return so many malformed files: three in five changed by structure, the others at random places."""
    chance, valid = random.Random(seed), valid_files()
    found = []
    for number in range(count):
        content, mutate = valid[number % len(valid)]
        found.append(mutate(chance, content) if chance.random() < 0.6 else shuffled(chance, content))
    return found
