import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from braintumor.model import Model
from braintumor.zoo import load

sys.path.insert(0, str(Path(__file__).parents[2]))  # for `from tests.dicom import make`

from tests.dicom.hospital import Hospital, missing


@pytest.fixture(scope="session")
def bundled() -> Model:
    return load("cnn")


@pytest.fixture
def hospital(tmp_path: Path) -> Iterator[Hospital]:
    """Yield a network with a running, empty Orthanc."""
    reason = missing()
    if reason:
        pytest.skip(reason)
    made = Hospital(tmp_path / "hospital")
    try:
        made.open()
        yield made
    finally:
        made.leave()
