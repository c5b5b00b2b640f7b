"""DICOM files as nobody should send them: mutants of valid ones that keep their look, and what becomes of them.

A mutant is made of a valid file of many kinds by one to three changes to single elements (length, VR, tag, value,
order), to the transfer syntax, to items and offset tables of compressed pixels, or to the compressed stream itself; the
rest stays right, so that the changed part is reached. The same numbers give the same mutants.
"""

import http.client
import json
import random
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from record import ROOT

from braintumor.errors import ImageError
from braintumor.models.registry import load
from braintumor.models.session import Model
from braintumor.predictor import Predictor
from braintumor.server.app import create_app
from braintumor.server.run import Server, configuration
from braintumor.server.settings import Settings

sys.path.insert(0, str(ROOT))  # the files of the tests
from tests.dicom import make

SLOW_SECONDS = 3.0
SIDE = 48  # pixels of the valid files
THREADS = 2
PROCESS_EACH = 25
PROCESS_FILES = 50
STATUSES = (0, 2, 3)  # of `braintumor predict`: all answered, nothing usable, some refused
PLANTED = ("SECRET", make.PATIENT)
BOUNDARY = "mutant"

ODD_NUMBERS = (0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 32, 255, 256, 4_095, 32_767, 32_768, 65_535)
ODD_LENGTHS = (0, 1, 2, 3, 4, 7, 8, 65_535, 65_534, 2**24, 2**31 - 1, 2**31, 2**32 - 16, 2**32 - 2, 2**32 - 1)
ODD_TEXTS = (
    *(
        b"",
        b" ",
        b"\\",
        b"\\\\\\\\",
        b"0",
        b"-1",
        b"-0",
        b"1e400",
        b"1e308",
        b"-1e308",
        b"1e-320",
        b"nan",
        b"inf",
        b"-inf",
    ),
    *(b"1\\", b"\\1", b"abc", b"SECRET^NAME", b"99999999999999999999", b"1.5", b"0x10", b"\0\0", b"\xff\xfe\xfd\xfc"),
    *(
        b"\x1b$B",
        b"\x1b(B^=",
        b"1\\2\\3\\4\\5\\6\\7",
        b"MONOCHROME1",
        b"PALETTE COLOR",
        b"RGB",
        b"YBR_FULL_422",
        b"9" * 65,
    ),
)
VRS = (
    *(b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"OB", b"OD", b"OF", b"OL"),
    *(b"OV", b"OW", b"PN", b"SH", b"SL", b"SQ", b"SS", b"ST", b"SV", b"TM", b"UC", b"UI", b"UL", b"UN", b"UR", b"US"),
    *(b"UT", b"UV", b"XX", b"\0\0"),
)
LONG_VRS = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
SYNTAXES = (
    *make.LOSSLESS,
    make.JPEG_LS_LOSSY,
    make.JPEG_2000,
    "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.4.51",
    "1.2.840.10008.1.2.4.201",
    "1.2.840.10008.1.2.4.203",
    "1.2.840.10008.1.2.4.100",
    "1.2.3",
    "",
)
PIXEL_DATA = 0x7FE00010
SYNTAX = 0x00020010
BIG_ENDIAN, IMPLICIT = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2"
UNDEFINED = 0xFFFFFFFF


@dataclass
class Element:
    """One data element.

    Attributes:
        tag: group and element.
        vr: two letters.
        value: its bytes.
        length: what is said about their number; None for the truth.
    """

    tag: int
    vr: bytes
    value: bytes
    length: int | None = None


@dataclass
class File:
    """A DICOM file in pieces.

    Attributes:
        syntax: how it is written, whatever its meta data says.
        meta: elements of group 2, without the group's length.
        elements: those of the dataset.
    """

    syntax: str
    meta: list[Element] = field(default_factory=list)
    elements: list[Element] = field(default_factory=list)

    def pixels(self) -> Element:
        """Return the pixel data, or the last element where there is none."""
        return next((each for each in self.elements if each.tag == PIXEL_DATA), self.elements[-1])

    def encoded(self) -> bytes:
        """Return the file."""
        meta = b"".join(written(each, "1.2.840.10008.1.2.1") for each in self.meta)
        size = written(Element(0x00020000, b"UL", struct.pack("<I", len(meta))), "1.2.840.10008.1.2.1")
        content = b"".join(written(each, self.syntax) for each in self.elements)
        if self.syntax == make.DEFLATED:
            packer = zlib.compressobj(6, zlib.DEFLATED, -15)
            content = packer.compress(content) + packer.flush()
        return bytes(128) + b"DICM" + size + meta + content


def written(element: Element, syntax: str) -> bytes:
    """Return an element in a transfer syntax."""
    order = ">" if syntax == BIG_ENDIAN else "<"
    length = len(element.value) if element.length is None else element.length
    tag = struct.pack(order + "HH", element.tag >> 16, element.tag & 0xFFFF)
    if syntax == IMPLICIT:
        return tag + struct.pack(order + "I", length) + element.value
    if element.vr in LONG_VRS:
        return tag + element.vr + struct.pack(order + "2xI", length) + element.value
    return tag + element.vr + struct.pack(order + "H", min(length, 65_535)) + element.value


def pieces(content: bytes) -> File:
    """Return a valid file in pieces."""
    (size,) = struct.unpack_from("<I", content, 140)
    meta = walked(content[144 : 144 + size], "1.2.840.10008.1.2.1")
    syntax = next(each.value for each in meta if each.tag == SYNTAX).rstrip(b"\0").decode()
    rest = content[144 + size :]
    return File(syntax, meta, walked(zlib.decompress(rest, -15) if syntax == make.DEFLATED else rest, syntax))


def walked(content: bytes, syntax: str) -> list[Element]:
    """Return the elements of valid content."""
    order = ">" if syntax == BIG_ENDIAN else "<"
    place, found = 0, []
    while place < len(content):
        group, number = struct.unpack_from(order + "HH", content, place)
        vr = content[place + 4 : place + 6]
        if syntax == IMPLICIT:
            vr, head, (length,) = b"UN", 8, struct.unpack_from("<I", content, place + 4)
        elif vr in LONG_VRS:
            head, (length,) = 12, struct.unpack_from(order + "I", content, place + 8)
        else:
            head, (length,) = 8, struct.unpack_from(order + "H", content, place + 6)
        start = place + head
        end = len(content) if length == UNDEFINED else start + length
        said = UNDEFINED if length == UNDEFINED else None
        found.append(Element(group << 16 | number, vr, content[start:end], said))
        place = end
    return found


# --- changes ----------------------------------------------------------------------------------------------------------


def number(chance: random.Random, file: File) -> None:
    """Change what says how pixels are stored."""
    order = ">" if file.syntax == BIG_ENDIAN else "<"
    described = [each for each in file.elements if each.tag >> 16 == 0x0028 and len(each.value) == 2]
    chance.choice(described).value = struct.pack(order + "H", chance.choice(ODD_NUMBERS))


def text(chance: random.Random, file: File) -> None:
    """Change the text of an element; its length stays right."""
    value = chance.choice(ODD_TEXTS)
    chance.choice(file.elements[:-1]).value = value + b" " * (len(value) % 2)


def said_length(chance: random.Random, file: File) -> None:
    """Say another length than the value's."""
    each = chance.choice(file.elements)
    each.length = (
        max(0, len(each.value) + chance.choice((-2, -1, 1, 2))) if chance.random() < 0.4 else chance.choice(ODD_LENGTHS)
    )


def kind(chance: random.Random, file: File) -> None:
    """Change an element's VR."""
    chance.choice(file.elements).vr = chance.choice(VRS)


def tag(chance: random.Random, file: File) -> None:
    """Change an element's tag: to another's, to a private or odd one, to an item's."""
    others = [each.tag for each in file.elements]
    odd = (0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD, 0x00090010, 0x7FE00008, 0x7FE00009, 0x52009229, 0x52009230, 0, UNDEFINED)
    chance.choice(file.elements).tag = chance.choice((chance.choice(others), chance.choice(odd)))


def order(chance: random.Random, file: File) -> None:
    """Remove, repeat or move elements."""
    index = chance.randrange(len(file.elements))
    each = file.elements[index]
    way = chance.randrange(3)
    if way != 1 and len(file.elements) > 2:
        del file.elements[index]
    if way:
        file.elements.insert(chance.randrange(len(file.elements) + 1), each)


def flips(chance: random.Random, file: File) -> None:
    """Change bytes of a value before the pixels."""
    each = chance.choice(file.elements[:-1])
    each.value = flipped(chance, each.value, 4)


def transfer_syntax(chance: random.Random, file: File) -> None:
    """Say another transfer syntax than the file is written in."""
    value = chance.choice(SYNTAXES).encode()
    each = next(each for each in file.meta if each.tag == SYNTAX)
    each.value = value + b"\0" * (len(value) % 2)


def meta(chance: random.Random, file: File) -> None:
    """Change the meta data."""
    each = chance.choice(file.meta)
    way = chance.randrange(4)
    if way == 0:
        each.value = flipped(chance, each.value, 3)
    elif way == 1:
        each.length = chance.choice(ODD_LENGTHS)
    elif way == 2:
        each.vr = chance.choice(VRS)
    else:
        file.meta.remove(each)


def inserted(chance: random.Random, file: File) -> None:
    """Add what changes reading or display: sequences in sequences, tables, windows, groups, palettes."""
    way = chance.randrange(7)
    little = "<" if file.syntax != BIG_ENDIAN else ">"
    if way == 0:
        depth = chance.choice((1, 10, 200, 1_000, 5_000))
        start = struct.pack(little + "HHI", 0xFFFE, 0xE000, UNDEFINED)
        head = written(Element(0x0040A730, b"SQ", b"", UNDEFINED), file.syntax)
        made = Element(0x0040A730, b"SQ", (start + head) * depth, UNDEFINED)
    elif way == 1:
        made = Element(
            chance.choice((0x52009229, 0x52009230, 0x00283010, 0x00283000)),
            b"SQ",
            chance.randbytes(chance.choice((0, 8, 40))),
        )
    elif way == 2:
        described = [chance.choice(ODD_NUMBERS) for _ in range(3)]
        inner = written(Element(0x00283002, b"US", struct.pack(little + "3H", *described)), file.syntax)
        inner += written(Element(0x00283006, b"OW", chance.randbytes(chance.choice((0, 2, 512)))), file.syntax)
        item = struct.pack(little + "HHI", 0xFFFE, 0xE000, len(inner)) + inner
        made = Element(chance.choice((0x00283010, 0x00283000)), b"SQ", item)
    elif way == 3:
        made = Element(chance.choice((0x00281050, 0x00281051, 0x00281052, 0x00281053)), b"DS", chance.choice(ODD_TEXTS))
    elif way == 4:
        made = Element(chance.choice((0x00280008, 0x00200013)), b"IS", chance.choice(ODD_TEXTS))
    elif way == 5:
        made = Element(
            chance.choice((0x00281101, 0x00281201, 0x00280120, 0x00280121)),
            b"US",
            chance.randbytes(chance.choice((0, 2, 6))),
        )
    else:
        made = Element(
            0x00080005,
            b"CS",
            chance.choice((b"ISO_IR 192", b"ISO 2022 IR 87", b"\\ISO 2022 IR 87", b"SECRET", b"utf8")),
        )
    file.elements = sorted([*(each for each in file.elements if each.tag != made.tag), made], key=lambda each: each.tag)


def items(chance: random.Random, file: File) -> None:
    """Change items and offset table of compressed pixels; native ones get another length."""
    pixels = file.pixels()
    starts = [
        place
        for place in range(0, len(pixels.value) - 8, 2)
        if pixels.value[place : place + 4] in (b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0")
    ]
    if pixels.length != UNDEFINED or not starts:
        pixels.value = pixels.value[: chance.randrange(len(pixels.value) + 1)]
        return
    value, place = bytearray(pixels.value), chance.choice(starts)
    way = chance.randrange(5)
    if way == 0:
        struct.pack_into("<I", value, place + 4, chance.choice(ODD_LENGTHS))
    elif way == 1:
        value[place : place + 4] = chance.choice((b"\xfe\xff\xdd\xe0", b"\xfe\xff\x0d\xe0", chance.randbytes(4)))
    elif way == 2:
        del value[-8:]
    elif way == 3:
        value[place:place] = struct.pack("<HHI", 0xFFFE, 0xE000, 0) * chance.choice((1, 3, 1_000))
    else:
        table = struct.pack("<4I", *(chance.choice((0, 8, 1_000, UNDEFINED)) for _ in range(4)))
        value[:8] = struct.pack("<HHI", 0xFFFE, 0xE000, len(table)) + table
    pixels.value = bytes(value)


def stream(chance: random.Random, file: File) -> None:
    """Change bytes of the compressed stream, its head more often than the rest; of native pixels any."""
    pixels = file.pixels()
    start = 24 if pixels.length == UNDEFINED else 0
    end = start + 120 if chance.random() < 0.6 else len(pixels.value) - 8
    head, body, tail = pixels.value[:start], pixels.value[start:end], pixels.value[end:]
    pixels.value = head + flipped(chance, body, chance.choice((1, 2, 8))) + tail


def flipped(chance: random.Random, content: bytes, count: int) -> bytes:
    """Return content with up to so many bytes changed."""
    changed = bytearray(content)
    for _ in range(chance.randint(1, count) if content else 0):
        changed[chance.randrange(len(changed))] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
    return bytes(changed)


CHANGES: tuple[Callable[[random.Random, File], None], ...] = (
    *(number, number, text, text, said_length, kind, tag, order, flips, transfer_syntax, meta),
    *(inserted, inserted, items, items, stream, stream, stream),
)


@cache
def valid_files() -> tuple[bytes, ...]:
    """Return small valid files of all kinds."""
    made = [
        make.mr(size=SIDE, bits=bits, signed=signed, inverted=inverted, syntax=syntax)
        for syntax in make.LOSSLESS
        for bits, signed, inverted in ((12, False, False), (8, False, True), (16, True, False))
    ]
    made += [make.mr(size=SIDE, syntax=syntax) for syntax in (make.JPEG_LS_LOSSY, make.JPEG_2000)]
    made += [make.mr(size=SIDE, bits=8, syntax=f"1.2.840.10008.1.2.4.{kind}") for kind in (50, 51)]
    made += [make.enhanced(("glioma", "pituitary"), size=SIDE, syntax=syntax) for syntax in make.LOSSLESS]
    made += [make.capture(size=SIDE, syntax=syntax) for syntax in (*make.LOSSLESS, "1.2.840.10008.1.2.4.50")]
    made += [make.mr(size=SIDE, window=False), make.ct(size=SIDE)]
    return tuple(make.encoded(each) for each in made)


def mutants(count: int, seed: int = 0) -> Iterator[bytes]:
    """Yield so many mutants, always the same ones."""
    files = [pieces(content) for content in valid_files()]
    for index in range(count):
        chance = random.Random(f"{seed} {index}")
        like = chance.choice(files)
        file = File(like.syntax, *([Element(**vars(each)) for each in part] for part in (like.meta, like.elements)))
        for _ in range(chance.choice((1, 1, 2, 3))):
            if len(file.elements) > 1 and any(each.tag == SYNTAX for each in file.meta):
                chance.choice(CHANGES)(chance, file)
        content = file.encoded()
        yield content[: chance.randrange(300, len(content) + 1)] if chance.random() < 0.05 else content


# --- what becomes of them ---------------------------------------------------------------------------------------------


class Fuzzed(NamedTuple):
    """What became of mutants.

    Attributes:
        inputs: how many there were; each went through the path of the command line and through the service.
        failures: what was neither an answer nor a clear refusal in time.
        seconds: for all of them.
    """

    inputs: int
    failures: list[str]
    seconds: float


def fuzz(count: int, seed: int = 0) -> Fuzzed:
    """Send mutants through `Predictor`, the service, and every 25th through `braintumor predict`.

    A failure is an exception, an end of the process, a status of 500 or more, an answer that is no JSON, more than
    three seconds, or planted patient data in what is said.
    """
    began = time.perf_counter()
    made = list(mutants(count, seed))
    model = load(threads=1)
    failures = [*through_inference(made, model), *through_service(made, model), *through_process(made[::PROCESS_EACH])]
    return Fuzzed(count, failures, time.perf_counter() - began)


def through_inference(made: list[bytes], model: Model) -> Iterator[str]:
    """Yield the failures on the path that the command line takes; each mutant has an answer or a reason.

    Answers come in batches, so that the time is that since the batch before, for each file in it.
    """
    answered, began = set(), time.perf_counter()
    with Predictor(model) as predictor:
        for answer in predictor.run((content, f"m{index}") for index, content in enumerate(made)):
            seconds, began = time.perf_counter() - began, time.perf_counter()
            name = answer.source if isinstance(answer, ImageError) else answer.image
            said = answer.reason if isinstance(answer, ImageError) else " ".join(map(str, answer.record().values()))
            answered.add(name.partition("#")[0])
            if leaks(said) or (isinstance(answer, ImageError) and not answer.reason):
                yield f"inference {name}: says {said!r}"
            if seconds > SLOW_SECONDS:
                yield f"inference {name}: {seconds:.1f} seconds"
    yield from (f"inference m{index}: no answer" for index in range(len(made)) if f"m{index}" not in answered)


def leaks(said: str) -> bool:
    """Tell whether planted patient data is in a text."""
    return any(each in said for each in PLANTED)


def through_service(made: list[bytes], model: Model) -> list[str]:
    """Return the failures of a service that is asked over HTTP, one file at a time on each of two connections."""
    with serving(model) as port, ThreadPoolExecutor(THREADS) as pool:
        parts = [range(start, len(made), THREADS) for start in range(THREADS)]
        return [each for part in pool.map(lambda indices: asked(made, indices, port), parts) for each in part]


@contextmanager
def serving(model: Model) -> Iterator[int]:
    """Yield the port of a service in a thread that ends with the block."""
    told = threading.Event()
    server = Server(configuration(create_app([model], Settings()), "127.0.0.1", 0), lambda _: told.set())
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert told.wait(60)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


def asked(made: list[bytes], indices: range, port: int) -> list[str]:
    """Return the failures of the service on some of the mutants."""
    failures = []
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    for index in indices:
        began = time.perf_counter()
        try:
            status, body = posted(connection, made[index])
            said = json.loads(body)
        except (OSError, ValueError, http.client.HTTPException) as error:
            failures.append(f"service m{index}: {type(error).__name__}")
            connection.close()
            continue
        seconds = time.perf_counter() - began
        is_right = bool(said["slices"]) if status == 200 else 400 <= status < 500 and bool(said["detail"])
        if not is_right or leaks(body.decode()):
            failures.append(f"service m{index}: status {status}, {body[:200]!r}")
        if seconds > SLOW_SECONDS:
            failures.append(f"service m{index}: {seconds:.1f} seconds")
    connection.close()
    return failures


def posted(connection: http.client.HTTPConnection, content: bytes) -> tuple[int, bytes]:
    """Return status and body of the answer to one file."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="files"; filename="a.dcm"\r\n\r\n'
    body = head.encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()
    connection.request("POST", "/v1/predictions", body, {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"})
    answer = connection.getresponse()
    return answer.status, answer.read()


def through_process(made: list[bytes]) -> Iterator[str]:
    """Yield the failures of `braintumor predict` on files, fifty at a time."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"m{index}.dcm" for index in range(len(made))]
        for path, content in zip(paths, made, strict=True):
            path.write_bytes(content)
        remaining = iter(paths)
        while batch := list(islice(remaining, PROCESS_FILES)):
            command = [sys.executable, "-m", "braintumor", "predict", *map(str, batch)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
            said = done.stdout + done.stderr
            if done.returncode not in STATUSES or "Traceback" in said or leaks(said):
                yield f"process from {batch[0].name}: status {done.returncode}, {done.stderr[-300:]!r}"
            silent = [path.name for path in batch if path.name not in said]
            if silent:
                yield f"process from {batch[0].name}: nothing about {', '.join(silent)}"
