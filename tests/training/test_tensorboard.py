import sys
from pathlib import Path

import pytest

from braintumor.training.checkpoint import Epoch
from braintumor.training.tensorboard import CurveWriter

ROWS = [Epoch(number, 1e-4, 0.5 / number, 0.4, 0.9, 0.8 + number / 100, 80.0, 12.0) for number in (1, 2, 3)]


def curve(folder: Path, name: str) -> list[tuple[int, float]]:
    """Return the points of a curve as TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_every_epoch_is_a_point_on_every_curve(tmp_path: Path) -> None:
    board = CurveWriter(tmp_path)
    for row in ROWS:
        board.epoch(row)
    assert curve(tmp_path, "val_macro_f1") == [
        (1, pytest.approx(0.81)),
        (2, pytest.approx(0.82)),
        (3, pytest.approx(0.83)),
    ]
    assert curve(tmp_path, "train_loss")[1] == (2, pytest.approx(0.25))


def test_a_resumed_run_replaces_the_epochs_that_were_lost(tmp_path: Path) -> None:
    board = CurveWriter(tmp_path)
    for row in ROWS:
        board.epoch(row)
    CurveWriter(tmp_path).epoch(Epoch(2, 1e-4, 0.7, 0.4, 0.9, 0.5, 80.0, 12.0))
    assert curve(tmp_path, "val_macro_f1") == [(1, pytest.approx(0.81)), (2, pytest.approx(0.5))]


def test_without_tensorboard_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    CurveWriter(tmp_path / "curves").epoch(ROWS[0])
    assert not (tmp_path / "curves").exists()
