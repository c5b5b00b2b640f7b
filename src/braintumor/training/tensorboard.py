"""Curves of a run for TensorBoard, where it is installed."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from braintumor.training.checkpoint import Epoch

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class CurveWriter:
    """Curves of a run below a folder, one point per epoch; nothing is written where TensorBoard is not installed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: SummaryWriter | None = None

    def epoch(self, row: Epoch) -> None:
        """Add one epoch to every curve."""
        if self._writer is None:
            # At the first epoch, not before: a run that fails earlier leaves no folder.
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                return
            self._writer = SummaryWriter(self._folder, purge_step=row.epoch)  # a resumed run writes over lost epochs
        for name, value in asdict(row).items():
            if name != "epoch":
                self._writer.add_scalar(name, value, row.epoch)
        self._writer.flush()
