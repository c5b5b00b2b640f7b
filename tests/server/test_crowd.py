"""Many at once: every answer is the one that its slice gets alone, and nothing malformed brings the service down."""

import io
import random
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from PIL import Image
from schemathesis.specs.openapi.checks import positive_data_acceptance

from braintumor.models.session import Model

PATH = "/v1/predictions"


def ask(client: TestClient, content: bytes) -> tuple[int, bytes]:
    answer = client.post(f"{PATH}?maps=true", files={"files": content})
    return answer.status_code, answer.content


@pytest.mark.slow
def test_two_requests_never_see_each_others_answer(both: TestClient, slices: list[Path]) -> None:
    contents = [path.read_bytes() for path in slices]
    serial = [ask(both, content) for content in contents]
    assert {status for status, _ in serial} == {200}
    assert len({content for _, content in serial}) == len(contents)
    order = list(range(len(contents))) * 4
    random.Random(0).shuffle(order)
    with ThreadPoolExecutor(12) as pool:
        crowded = list(pool.map(lambda number: ask(both, contents[number]), order))
    for number, answer in zip(order, crowded, strict=True):
        assert answer == serial[number]


@pytest.fixture(scope="session")
def valid(slices: list[Path]) -> list[bytes]:
    """Return one valid file of each kind."""
    image, files = Image.open(slices[0]), [slices[0].read_bytes()]
    for kind in ("JPEG", "TIFF", "BMP"):
        buffer = io.BytesIO()
        image.save(buffer, kind)
        files.append(buffer.getvalue())
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.png", files[0])
    return [*files, buffer.getvalue()]


def test_mutants_of_valid_files_are_answered_or_refused(client: TestClient, valid: list[bytes]) -> None:
    chance = random.Random(1)
    for number in range(150):
        content = bytearray(valid[number % len(valid)])
        for _ in range(chance.randint(1, 8)):
            place = chance.randrange(8, len(content))
            content[place : place + chance.choice((0, 1, 4))] = chance.randbytes(chance.choice((0, 1, 4)))
        status, _ = ask(client, bytes(content[: chance.choice((None, chance.randrange(8, len(content))))]))
        assert status in (200, 413, 415, 422), number
    assert ask(client, valid[0])[0] == 200


@pytest.fixture(scope="module")
def described(twins: tuple[Model, Model], served: Any) -> Iterator[str]:
    """Yield the address of the description of a service that runs meanwhile."""
    with served(twins[:1]) as (host, port):
        yield f"http://{host}:{port}/openapi.json"


@pytest.mark.slow
@pytest.mark.parametrize("number", range(6))
def test_the_service_keeps_to_its_description(described: str, number: int) -> None:
    # loaded for each operation: what was answered to one changes what is tried with the next
    operations = [result.ok() for result in schemathesis.openapi.from_url(described).get_all_operations()]
    assert len(operations) == 6

    @settings(max_examples=30, deadline=None, derandomize=True, database=None, suppress_health_check=HealthCheck)
    @given(case=operations[number].as_strategy())
    def keeps_to_it(case: schemathesis.Case) -> None:
        case.call_and_validate(excluded_checks=[positive_data_acceptance])  # not all bytes are an image

    keeps_to_it()
