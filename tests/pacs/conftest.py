"""A network with a running Orthanc, where it is installed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pacs.hospital import Hospital, missing


@pytest.fixture
def hospital(tmp_path: Path) -> Iterator[Hospital]:
    """Yield a network with a running, empty Orthanc."""
    reason = missing()
    if reason:
        pytest.skip(reason)
    network = Hospital(tmp_path / "hospital")
    try:
        network.open()
        yield network
    finally:
        network.leave()
