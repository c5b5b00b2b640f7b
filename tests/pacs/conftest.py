"""An archive that fails as it is told to, with a watcher of it; a network with a running Orthanc where there is one."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from braintumor.models.session import Model
from braintumor.pacs import retry
from braintumor.pacs.watch import WatchStats, watch
from tests.pacs.fake import Archive, serving
from tests.pacs.hospital import Hospital, missing


@pytest.fixture
def archive(shared_decoders: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Archive]:
    """Yield an archive like Orthanc's, for a watcher that waits a hundredth of the usual time."""
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.01)
    with serving(Archive()) as served:
        yield served


@pytest.fixture
def lines() -> list[str]:
    """Return the lines that the watcher says, as they come."""
    return []


@pytest.fixture
def run(archive: Archive, bundled: Model, tmp_path: Path, lines: list[str]) -> Callable[..., WatchStats]:
    """Return what watches the archive until nothing is left to do."""

    def run(path: str = "", model: Model = bundled) -> WatchStats:
        return watch(archive.url + path, model, tmp_path / "state", poll_seconds=0.01, once=True, say=lines.append)

    return run


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
