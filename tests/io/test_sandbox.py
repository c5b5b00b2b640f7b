"""The sandbox: bytes from outside are decoded as by `read`, and hostile ones harm nobody."""

import io
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

from braintumor.errors import ChildLostError, ImageError, Refusal
from braintumor.io import child as child_module
from braintumor.io import sandbox as module
from braintumor.io.child import Child
from braintumor.io.confinement import PROTECTIONS, confine
from braintumor.io.read import read, read_all
from braintumor.io.sandbox import Sandbox
from braintumor.io.scan import SliceSelection
from tests.volume_files import brain


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(children=2) as sandbox:
        yield sandbox


def png(width: int, height: int) -> bytes:
    """Return a black PNG of one bit per pixel, a few kilobytes for any size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    packer = zlib.compressobj(9)
    rows = [packer.compress(bytes(1 + width // 8)) for _ in range(height)]
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    body = b"".join([*rows, packer.flush()])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.slow
def test_pixels_are_those_of_read(sandbox: Sandbox, slices: list[Path]) -> None:
    for file in slices[:4]:
        scan = sandbox.read(file.read_bytes(), "a slice")
        np.testing.assert_array_equal(scan.pixels, read(file).pixels)
        assert scan.source == "a slice"


def test_reasons_are_those_of_read(sandbox: Sandbox, slices: list[Path]) -> None:
    whole = slices[0].read_bytes()
    for content in (b"", b"hello", whole[: len(whole) // 2], png(4, 4)):
        with pytest.raises(ImageError) as expected:
            read(content)
        with pytest.raises(ImageError) as raised:
            sandbox.read(content, "x")
        assert raised.value.reason == expected.value.reason
        assert raised.value.source == "x"


@pytest.mark.parametrize("side", [7_000, 40_000])
def test_bombs_are_refused_from_their_header(sandbox: Sandbox, slices: list[Path], side: int) -> None:
    bomb = png(side, side)
    began = time.monotonic()
    with pytest.raises(ImageError, match="pixels; at most"):
        sandbox.read(bomb, "bomb")
    assert time.monotonic() - began < 1
    assert sandbox.read(slices[0].read_bytes(), "next").pixels.size


def test_what_takes_too_long_is_refused_and_the_child_replaced(slices: list[Path]) -> None:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (3900, 3900), np.uint8)).save(stream, "PNG")
    with Sandbox(children=1) as sandbox:
        sandbox.read(slices[0].read_bytes(), "first")
        before = sandbox._all[0].process.pid
        sandbox.deadline = 0.02
        with pytest.raises(ImageError, match="takes too long to decode; export it again without compression"):
            sandbox.read(stream.getvalue(), "slow")
        sandbox.deadline = 20
        assert sandbox.read(slices[0].read_bytes(), "next").pixels.size
        assert sandbox._all[0].process.pid != before


@pytest.mark.slow
def test_children_killed_while_idle_cost_nobody_an_answer(slices: list[Path]) -> None:
    with Sandbox(children=2) as sandbox:
        sandbox.read(slices[0].read_bytes(), "first")
        for _ in range(2):
            for child in list(sandbox._all):
                child.process.kill()
                child.process.wait()
            assert sandbox.read(slices[0].read_bytes(), "next").source == "next"


class Disturbed(Child):
    """A child that gets a signal as soon as it has a file, as often as there are signals left."""

    signals: ClassVar[list[signal.Signals]] = []

    def ask(self, *arguments: Any) -> Iterator[tuple[dict[str, Any], bytearray]]:
        self.protections()
        messages = super().ask(*arguments)
        if self.signals:
            os.kill(self.process.pid, self.signals.pop())
        yield from messages


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_child_killed_or_stopped_at_work_costs_one_retry(
    slices: list[Path], monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.setattr(module, "Child", Disturbed)
    monkeypatch.setattr(Disturbed, "signals", [number])
    with Sandbox(children=1) as sandbox:
        began = time.monotonic()
        np.testing.assert_array_equal(sandbox.read(slices[0].read_bytes(), "x").pixels, read(slices[0]).pixels)
        assert not Disturbed.signals
        assert time.monotonic() - began < 10  # seconds; not the longest wait for a child without a processor


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_after_the_retry_the_machine_is_to_blame(
    slices: list[Path], monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.setattr(module, "Child", Disturbed)
    monkeypatch.setattr(Disturbed, "signals", [number, number])
    with Sandbox(children=1) as sandbox:
        with pytest.raises(ImageError, match="cannot be decoded now: this machine is busy") as raised:
            sandbox.read(slices[0].read_bytes(), "x")
        assert raised.value.code == Refusal.BUSY
        assert sandbox.read(slices[0].read_bytes(), "next").pixels.size


@pytest.mark.slow
def test_a_file_that_makes_its_decoder_crash_is_refused_at_once(
    slices: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "Child", Disturbed)
    monkeypatch.setattr(Disturbed, "signals", [signal.SIGSEGV])
    with Sandbox(children=1) as sandbox:
        with pytest.raises(ImageError, match="damaged, or of a kind that cannot be decoded") as raised:
            sandbox.read(slices[0].read_bytes(), "x")
        assert raised.value.code == Refusal.UNDECODABLE
        assert sandbox.read(slices[0].read_bytes(), "next").pixels.size


def test_asking_for_protections_where_no_child_starts_takes_no_place_for_ever(
    slices: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Sandbox(children=1) as sandbox:
        sandbox.read(slices[0].read_bytes(), "x")
        with monkeypatch.context() as patch:
            patch.setattr(sandbox, "_take_child", lambda: sandbox._free.get() and None)
            with pytest.raises(ChildLostError):
                sandbox.missing_protections()
        assert sandbox._free.get(timeout=1) is None


@pytest.mark.slow
def test_a_volume_goes_on_after_its_child_was_killed_in_the_middle() -> None:
    content = brain()
    expected = list(read_all(content, "volume"))
    with Sandbox(children=1) as sandbox:
        scans = sandbox.read_all(content, "volume")
        first = [next(scans) for _ in range(3)]
        sandbox._all[0].process.kill()
        sandbox._all[0].process.wait()
        whole = [*first, *scans]
    assert [scan.source for scan in whole] == [scan.source for scan in expected]
    np.testing.assert_array_equal([scan.pixels for scan in whole], [scan.pixels for scan in expected])


def test_the_clock_refuses_nothing_while_others_have_the_processor(slices: list[Path]) -> None:
    assert child_module.processor_time(os.getpid()) == pytest.approx(time.process_time(), abs=0.05)
    with Sandbox(children=1, deadline=0.2) as sandbox:
        sandbox.read(slices[0].read_bytes(), "started")
        content = brain()
        began = time.monotonic()
        with closing(sandbox.read_all(content, "volume")) as scans:
            next(scans)
            pid = sandbox._all[0].process.pid
            for _ in range(6):
                os.kill(pid, signal.SIGSTOP)
                time.sleep(0.04)
                os.kill(pid, signal.SIGCONT)
            assert len(list(scans)) == 11
        assert time.monotonic() - began > 0.2


def test_memory_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    pid = os.fork()
    if pid == 0:  # a process of its own, since limits cannot be taken back
        try:
            confine()
            np.ones(1 << 28)
        except MemoryError:
            os._exit(7)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


def test_threads_get_their_own_answers(sandbox: Sandbox, slices: list[Path]) -> None:
    files = slices * 4
    with ThreadPoolExecutor(6) as pool:
        scans = list(pool.map(lambda file: sandbox.read(file.read_bytes(), str(file)), files))
    for file, scan in zip(files, scans, strict=True):
        np.testing.assert_array_equal(scan.pixels, read(file).pixels)


def test_closing_ends_the_children(slices: list[Path]) -> None:
    sandbox = Sandbox(children=2)
    sandbox.close()
    assert all(child.process.returncode is not None for child in sandbox._all)


def test_all_slices_of_a_volume_come_one_by_one(sandbox: Sandbox) -> None:
    content = brain()
    expected = list(read_all(content, "volume"))
    actual = list(sandbox.read_all(content, "volume"))
    assert len(actual) == len(expected) == 12
    for own, other in zip(expected, actual, strict=True):
        np.testing.assert_array_equal(other.pixels, own.pixels)
        assert (other.source, other.spacing, other.notes, other.place) == (
            own.source,
            own.spacing,
            own.notes,
            own.place,
        )
    assert actual[4].source == "volume#5"
    wanted = list(sandbox.read_all(content, "volume", SliceSelection("coronal", ((40, 41),))))
    assert [scan.place and scan.place.number for scan in wanted] == [40, 41]


def test_several_slices_are_not_one(sandbox: Sandbox) -> None:
    with pytest.raises(ImageError, match="holds several slices; ask for all of them, or choose one"):
        sandbox.read(brain(), "volume")


@pytest.mark.slow
def test_a_child_is_given_back_when_not_all_slices_are_taken(slices: list[Path]) -> None:
    with Sandbox(children=1) as sandbox:
        remaining = sandbox.read_all(brain(), "volume")
        next(remaining)
        remaining.close()
        assert sandbox.read(slices[0].read_bytes(), "another").source == "another"


@pytest.mark.slow
def test_time_spent_by_who_takes_the_slices_does_not_count() -> None:
    with Sandbox(children=1) as sandbox:
        list(sandbox.read_all(brain(), "started"))
        sandbox.deadline = 0.3
        for _ in sandbox.read_all(brain(), "volume"):
            time.sleep(0.1)  # 1.2 seconds in all


SLICE = {"file": 1, "shape": [16, 16], "spacing": None, "source": "x", "notes": [], "place": None, "origin": None}
BLACK = np.zeros((16, 16), np.float32).tobytes()
END = {"file": 1}


def message(reply: Any, pixels: bytes = b"") -> bytes:
    text = json.dumps(reply).encode()
    return struct.pack("<Q", len(text)) + text + struct.pack("<Q", len(pixels)) + pixels


def position(**other: Any) -> dict[str, Any]:
    return {"volume": "x", "number": 1, "position": None, **other}


@pytest.mark.parametrize(
    "reply",
    [
        struct.pack("<Q", 2**62),
        struct.pack("<Q", 2) + b"{}" + struct.pack("<Q", 2**63),
        struct.pack("<Q", 200_000) + b"[" * 200_000 + struct.pack("<Q", 0),
        message([]),
        message({}),
        message(END),
        message(SLICE | {"file": 2}, BLACK),
        message(SLICE | {"shape": [16, 17]}, BLACK),
        message(SLICE | {"shape": "16"}, BLACK),
        message(SLICE, np.full((16, 16), np.nan, np.float32).tobytes()),
        message(SLICE | {"source": "another"}, BLACK),
        message(SLICE | {"source": "x#2", "place": position()}, BLACK),
        message(SLICE | {"place": position(volume="../x")}, BLACK),
        message(SLICE | {"place": position(number="one")}, BLACK),
        message(SLICE | {"place": position(surprise=1)}, BLACK),
        message(SLICE | {"notes": ["\x1b[2J"]}, BLACK),
        message(END | {"described": 3}),
        message(END | {"reason": "\x1b[2J", "code": "undecodable"}),
        message(END | {"reason": ["x"], "code": "undecodable"}),
        message(END | {"reason": "x" * 1000, "code": "undecodable"}),
        message(END | {"reason": "x"}),
        message(END | {"reason": "x", "code": "busy"}),
        message(END | {"reason": "x", "code": "surprise"}),
        message(SLICE | {"shape": [True, 256]}, BLACK),
        message(SLICE | {"shape": [1, 256]}, BLACK),
        message(SLICE | {"shape": [-16, -16]}, BLACK),
        message(SLICE | {"spacing": [0.0, 1.0]}, BLACK),
        message(SLICE | {"spacing": [1.0]}, BLACK),
        message(SLICE | {"spacing": [float("nan"), 1.0]}, BLACK),
        message(SLICE | {"spacing": ["1", "1"]}, BLACK),
        message(SLICE | {"place": position(number=2**40)}, BLACK),
        message(SLICE | {"place": position(number=True)}, BLACK),
        message(SLICE | {"place": position(position=float("inf"))}, BLACK),
        message(SLICE | {"notes": ["x"] * 1000}, BLACK),
        message(SLICE | {"origin": []}, BLACK),
        message(SLICE, np.full((16, 16), 1.5, np.float32).tobytes()),
    ],
)
def test_a_child_that_is_taken_over_can_say_nothing_but_that_its_file_is_refused(
    slices: list[Path], reply: bytes
) -> None:
    with Sandbox(children=1) as sandbox:
        child = sandbox._all[0]
        child.socket.close()
        child.socket, theirs = socket.socketpair()
        child._protections = PROTECTIONS  # has started, as far as anybody can tell
        talking = threading.Thread(target=theirs.sendall, args=(reply,))
        talking.start()
        with pytest.raises(ImageError, match="damaged, or of a kind that cannot be decoded"):
            sandbox.read(b"content", "x")
        talking.join()
        theirs.close()
        if b'"shape"' in reply:
            assert child.process.returncode is not None


def test_a_child_that_never_comes_to_an_end_is_not_listened_to_for_ever(
    slices: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_module, "MOST_SLICES", 5)
    with Sandbox(children=1) as sandbox, closing(sandbox.read_all(brain(), "volume")) as scans:
        assert len(list(islice(scans, 5))) == 5
        with pytest.raises(ImageError, match="damaged"):
            next(scans)


def test_without_a_further_process_files_are_refused_for_now_and_nobody_waits(
    slices: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = slices[0].read_bytes()

    def none() -> None:
        raise OSError("Cannot allocate memory")

    with Sandbox(children=1) as sandbox:
        sandbox._all[0].process.kill()
        with monkeypatch.context() as patched:
            patched.setattr(module, "Child", none)
            with pytest.raises(ImageError):
                sandbox.read(content, "first")
            with pytest.raises(ImageError, match="cannot be decoded now"):
                sandbox.read(content, "second")
        assert sandbox.read(content, "third").pixels.size


def test_children_know_no_passwords(slices: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRAINTUMOR_PACS_PASSWORD", "opensesame")
    with Sandbox(children=1) as sandbox:
        sandbox.read(slices[0].read_bytes(), "x")
        assert b"opensesame" not in Path(f"/proc/{sandbox._all[0].process.pid}/environ").read_bytes()


@pytest.mark.slow
def test_children_outlive_what_asks_the_whole_group_to_end(slices: list[Path]) -> None:
    with Sandbox(children=1) as sandbox:
        sandbox.read(slices[0].read_bytes(), "first")
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(sandbox._all[0].process.pid, number)
        assert sandbox.read(slices[0].read_bytes(), "second").pixels.size


@pytest.mark.slow
def test_a_child_whose_file_never_ends_ends_itself() -> None:
    code = "from braintumor.io import worker; worker.LONGEST_SECONDS = 1\nwith worker._timed():\n  while True: pass"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGPROF
