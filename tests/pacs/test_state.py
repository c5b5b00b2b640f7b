import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from braintumor.errors import StorageError
from braintumor.pacs.state import WatchState

SETTLING = """
import sys
from pathlib import Path
from braintumor.pacs.state import WatchState
with WatchState(Path(sys.argv[1])) as state:
    seq = state.cursor[0]
    while True:
        seq += 1
        state.begin([f"image {seq}"], "model")
        state.mark_done([(f"image {seq}", f"entry {seq}", "")])
        state.advance(seq, f"entry {seq}")
        print(seq, flush=True)
"""


def test_what_was_recorded_is_there_afterwards(tmp_path: Path) -> None:
    with WatchState(tmp_path / "deep" / "state") as state:
        assert state.cursor == (0, "")
        state.begin(["a", "b", "c"], "model 1")
        state.mark_done([("a", "entry a", ""), ("b", "entry b", "truncated")])
        state.advance(7, "entry b")
    with WatchState(tmp_path / "deep" / "state") as state:
        assert state.cursor == (7, "entry b")
        assert state.settled(["a", "b", "c", "d"]) == {"a", "b"}
        assert state.under_way() == {"model 1": 1}
        state.advance(0, "")
        assert state.cursor == (0, "")
        state.clear_in_progress()
        assert state.under_way() == {}


def test_any_number_of_images_can_be_asked_about(tmp_path: Path) -> None:
    images = [f"image {number}" for number in range(1_700)]
    with WatchState(tmp_path) as state:
        state.mark_done((image, "", "") for image in images[::2])
        assert state.settled(images) == set(images[::2])
        assert state.settled([]) == set()


def test_only_one_watcher_can_use_a_folder(tmp_path: Path) -> None:
    with WatchState(tmp_path), pytest.raises(StorageError, match="in use by another watcher"):
        WatchState(tmp_path)
    WatchState(tmp_path).close()


def test_nobody_else_can_look_into_it(tmp_path: Path) -> None:
    with WatchState(tmp_path / "state") as state:
        state.advance(1, "entry")
        assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
        assert {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "state").iterdir()} == {0o600}


def test_a_folder_that_cannot_be_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="choose another folder"):
        WatchState(tmp_path / "file")
    (tmp_path / "journal.sqlite").write_text("something else" * 100)
    with pytest.raises(StorageError, match="choose another folder"):
        WatchState(tmp_path)
    (tmp_path / "journal.sqlite").unlink()
    WatchState(tmp_path).close()  # the refused ones have let go of it


@pytest.mark.slow
def test_killed_at_any_moment_nothing_that_was_settled_is_forgotten(tmp_path: Path) -> None:
    last = 0
    for round_ in range(6):
        command = [sys.executable, "-c", SETTLING, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            assert int(process.stdout.readline()) >= last + 1
            time.sleep(0.013 * round_)
            process.kill()
            printed = [int(line) for line in process.stdout.read().split("\n")[:-1]]
        with WatchState(tmp_path) as state:
            last, entry = state.cursor
            assert last >= max(printed, default=1)
            assert entry == f"entry {last}"
            assert len(state.settled([f"image {seq}" for seq in range(1, last + 1)])) == last
            assert sum(state.under_way().values()) <= 1
