import importlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from braintumor.errors import ImageError
from braintumor.io.sandbox import Sandbox
from tests.dicom import make

pytestmark = pytest.mark.slow

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def mutants() -> Iterator[ModuleType]:
    pytest.importorskip("uvicorn", reason="the service needs the extra serve")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        patch.setattr(sys, "path", list(sys.path))
        yield importlib.import_module("dicom_mutants")


def test_mutants_get_an_answer_or_a_clear_refusal_soon(mutants: ModuleType) -> None:
    fuzzed = mutants.fuzz(200, seed=1)
    assert fuzzed.inputs == 200
    assert fuzzed.failures == []


def test_the_same_numbers_make_the_same_mutants(mutants: ModuleType) -> None:
    first, second, other = (list(mutants.mutants(20, seed)) for seed in (1, 1, 2))
    assert first == second != other


def test_pieces_make_the_file_they_come_from(mutants: ModuleType) -> None:
    for content in mutants.valid_files():
        again = mutants.pieces(content).encoded()
        if mutants.pieces(content).syntax != make.DEFLATED:  # packed again, perhaps otherwise
            assert again == content
        assert mutants.pieces(again) == mutants.pieces(content)


def test_many_mutants_are_read_and_many_are_not_for_many_reasons(mutants: ModuleType) -> None:
    outcomes = []
    with Sandbox() as sandbox:
        for content in mutants.mutants(150, seed=3):
            try:
                outcomes += ["read" for _ in sandbox.read_all(content, "m")][:1]
            except ImageError as error:
                outcomes.append(error.reason)
    assert 20 < outcomes.count("read") < 130
    assert len(set(outcomes)) > 15


@pytest.mark.parametrize("text", ["SECRET^NAME", "of MRN12345"])
def test_a_leak_of_planted_data_is_a_failure(text: str, mutants: ModuleType) -> None:
    assert mutants.leaks(text)
    assert not mutants.leaks("truncated")


def test_silence_leaks_and_delays_on_the_path_of_the_command_line_are_failures(
    mutants: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Answers:
        def __init__(self, *_: object) -> None:
            pass

        def __enter__(self) -> "Answers":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def run(self, _: object) -> Iterator[ImageError]:
            yield ImageError("m0", f"no patient {make.NAME} here")
            yield ImageError("m1", "")
            time.sleep(0.05)
            yield ImageError("m2", "damaged")

    monkeypatch.setattr(mutants, "Predictor", Answers)
    monkeypatch.setattr(mutants, "SLOW_SECONDS", 0.04)
    failures = list(mutants.through_inference([b""] * 4, None))
    assert [failure.split(":")[0] for failure in failures] == [f"inference m{index}" for index in range(4)]
    assert failures[2].startswith("inference m2: 0.")
    assert failures[3] == "inference m3: no answer"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, b'{"detail": "Internal Server Error"}'),
        (200, b'{"slices": []}'),
        (422, b'{"detail": ""}'),
        (422, b'{"detail": "MRN12345"}'),
        (422, b"not JSON"),
    ],
)
def test_what_the_service_must_not_say_is_a_failure(
    status: int, body: bytes, mutants: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mutants, "posted", lambda *_: (status, body))
    assert len(mutants.asked([b""], range(1), 0)) == 1
    monkeypatch.setattr(mutants, "posted", lambda *_: (422, b'{"detail": "truncated"}'))
    assert mutants.asked([b""], range(1), 0) == []


def test_a_process_that_breaks_or_forgets_a_file_is_a_failure(
    mutants: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = SimpleNamespace(returncode=-6, stdout="", stderr="terminate called")
    monkeypatch.setattr(mutants.subprocess, "run", lambda *_, **__: broken)
    assert list(mutants.through_process([b""])) == [
        "process from m0.dcm: status -6, 'terminate called'",
        "process from m0.dcm: nothing about m0.dcm",
    ]
