"""Checkpoints: the state of a run after its last finished epoch, on disk whole or not at all."""

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from braintumor.errors import TrainingError
from braintumor.files import file_sha256, replacing, write_text


@dataclass(frozen=True)
class Epoch:
    """One line of history.csv: an epoch of training and its scores on the validation part."""

    epoch: int
    learning_rate: float
    train_loss: float
    val_loss: float
    val_accuracy: float
    val_macro_f1: float
    images_per_second: float
    seconds: float


@dataclass(frozen=True)
class State:
    """State of a run after its last finished epoch.

    Attributes:
        identity: settings and data fingerprint; a run is resumed only where they are the same.
        precision: `bfloat16` or `float32`, as measured when the run began.
        weights_origin: where the starting weights came from.
        seconds: wall time of the run so far, without the time between an interruption and the resume.
    """

    identity: dict[str, Any]
    precision: str
    weights_origin: str
    seconds: float = 0.0
    history: list[Epoch] = field(default_factory=list)

    @property
    def best(self) -> Epoch:
        """Return the first epoch with the highest validation macro-F1."""
        return max(self.history, key=lambda epoch: (epoch.val_macro_f1, -epoch.epoch))

    @property
    def kept(self) -> Epoch:
        """Return the epoch whose weights the model gets: the last or the best one, depending on the settings."""
        return self.history[-1] if self.identity["settings"].get("keep_last") else self.best


def save_checkpoint(
    folder: Path, state: State, network: nn.Module, averaged: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Write the state after an epoch, its tensors and, where this is the epoch to keep, the weights to keep."""
    last = state.history[-1].epoch
    tensors = {f"network.{key}": value for key, value in network.state_dict().items()}
    if averaged is not network:
        tensors |= {f"averaged.{key}": value for key, value in averaged.state_dict().items()}
    for index, entry in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": value for key, value in entry.items()}
    write_tensors(folder / last_name(last), tensors)
    if state.kept.epoch == last:
        write_tensors(folder / _kept_name(last), averaged.state_dict())
    # The order matters: state.json names the files that count, so it comes after them and before older ones go. An
    # interruption anywhere in between leaves a checkpoint that is whole, the old one or the new one.
    names = (last_name(last), _kept_name(state.kept.epoch))
    record = asdict(state) | {"files": {name: file_sha256(folder / name) for name in names}}
    write_text(folder / "state.json", json.dumps(record, indent=2))
    for file in folder.glob("*.safetensors"):
        if file.name not in names:
            file.unlink()


def load_checkpoint(folder: Path) -> State:
    """Return the state in a checkpoint folder.

    Raises:
        TrainingError: there is none, or one of its files is missing or changed.
    """
    try:
        record = json.loads((folder / "state.json").read_text())
        files = record.pop("files")
        record["history"] = [Epoch(**epoch) for epoch in record["history"]]
        state = State(**record)
    except FileNotFoundError as error:
        raise TrainingError(
            f"nothing to resume in {folder}: no epoch was finished; start again without --resume"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{folder / 'state.json'} is damaged ({error}); delete {folder} and start again") from error
    for name, sha256 in files.items():
        if not (folder / name).is_file() or file_sha256(folder / name) != sha256:
            raise TrainingError(f"{folder / name} is missing or damaged; delete {folder} and start again")
    return state


def restore_checkpoint(
    folder: Path, state: State, network: nn.Module, averaged: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Put the network, its average and the optimizer into the state after the last finished epoch."""
    tensors = read_tensors(folder / last_name(state.history[-1].epoch))
    network.load_state_dict(under(tensors, "network."))
    if averaged is not network:
        averaged.load_state_dict(under(tensors, "averaged."))
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    # Tensors only: the settings of the optimizer are made anew from the run's, and the learning rate is set every step.
    entries: dict[int, dict[str, Tensor]] = {}
    for key, value in under(tensors, "optimizer.").items():
        index, name = key.split(".", 1)
        entries.setdefault(int(index), {})[name] = _laid_out_like(parameters[int(index)], value)
    optimizer.load_state_dict({"state": entries, "param_groups": optimizer.state_dict()["param_groups"]})


def _laid_out_like(parameter: Tensor, value: Tensor) -> Tensor:
    """Return the value in the parameter's memory format: the fused optimizer walks both in memory order."""
    return torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value


def restore_kept(folder: Path, state: State, network: nn.Module) -> None:
    """Put the network into the state after the epoch that is kept."""
    network.load_state_dict(read_tensors(folder / _kept_name(state.kept.epoch)))


def clear(folder: Path) -> None:
    """Remove a checkpoint folder that is no longer needed; files that cannot be removed stay."""
    shutil.rmtree(folder, ignore_errors=True)


def write_tensors(target: Path, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file, whole or not at all."""
    content = safetensors.torch.save({key: value.detach().cpu().contiguous() for key, value in tensors.items()})
    with replacing(target) as aside:
        aside.write_bytes(content)


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file of a checkpoint.

    Raises:
        TrainingError: it cannot be read.
    """
    try:
        return safetensors.torch.load_file(file)
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"{file} cannot be read ({error}); delete {file.parent} and start again") from error


def under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names start with the prefix, without it."""
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def last_name(epoch: int) -> str:
    """Return the name of the file with everything that a resume after this epoch needs."""
    return f"last-{epoch:03d}.safetensors"


def _kept_name(epoch: int) -> str:
    return f"kept-{epoch:03d}.safetensors"
