"""Checks of everything that a run needs but its data, which is not opened before."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from braintumor.data.reference import check_reference
from braintumor.errors import TrainingError
from braintumor.files import check_writable
from braintumor.training import checkpoint, pretrained
from braintumor.training.checkpoint import State
from braintumor.training.config import TrainConfig
from braintumor.training.networks import Network, build_network


@dataclass(frozen=True, eq=False)
class TrainingStart:
    """Network before its first epoch, or that of an interrupted run.

    Attributes:
        network: with its starting weights; where the run is resumed, still without those of the checkpoint.
        origin: of the weights, for the card.
        state: of the run that is resumed; None for a new one.
    """

    network: Network
    origin: str
    state: State | None


def look_up(config: TrainConfig, out: Path, device: torch.device, *, resume: bool) -> TrainingStart:
    """Check what a run needs and return its network and, where it is resumed, its state.

    Network and weights must exist, `out` must be writable, and the settings must be those the run began with.

    Raises:
        DataError: there is no such network, or `masks` is no reference folder.
        WeightsError: the starting weights cannot be fetched or read, or do not fit.
        TrainingError: `out` is occupied or holds nothing to resume, or the settings are not those of the run there.
        StorageError: `out` cannot be written to.
    """
    _check_folder(out, resume)
    if config.masks:
        check_reference(Path(config.masks))
    state = checkpoint.load_checkpoint(out / "checkpoint") if resume else None
    if state:
        check_same_run(state, {"settings": settings_of(config)}, out)  # `train` compares the data, too
    # Right before the network is built, so that its random weights depend on the seed alone.
    torch.manual_seed(config.seed)
    stride = config.map_stride
    network = build_network(config.model, dropout=config.dropout, map_stride=stride, attention=config.attention)
    _check_frozen(network, config)
    network = network.to(device)
    if state:
        return TrainingStart(network, state.weights_origin, state)
    origin = pretrained.start(network, config.model, config.weights, allow_partial=config.allow_partial_weights)
    return TrainingStart(network, origin, None)


def _check_folder(out: Path, resume: bool) -> None:
    """Raise where writing to `out` is impossible or would overwrite a model or an unfinished run."""
    if (out / "card.json").exists():
        raise TrainingError(f"{out} already holds a finished model; choose another folder with --out, or delete it")
    if not resume and (out / "checkpoint" / "state.json").exists():
        raise TrainingError(f"{out} holds an unfinished run; go on with --resume, or choose another folder with --out")
    check_writable(out)


def _check_frozen(network: Network, config: TrainConfig) -> None:
    """Raise where the backbone has no part of a name that is to be frozen."""
    names = {name for name, _ in network.backbone.named_modules()}
    unknown = [prefix for prefix in config.frozen if prefix not in names]
    if unknown:
        parts = ", ".join(name for name, _ in network.backbone.named_children())
        raise TrainingError(f"frozen: {config.model} has no part {', '.join(unknown)}; it has {parts}")


def settings_of(config: TrainConfig) -> dict[str, Any]:
    """Return all settings as JSON holds them, with lists for tuples, to be compared with those of a checkpoint."""
    settings: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    return settings


def check_same_run(state: State, identity: dict[str, Any], out: Path) -> None:
    """Raise where settings or data differ from those that the run began with.

    A setting that did not exist when the run began counts as having had its default then.

    Args:
        state: of the interrupted run.
        identity: its `settings` and the fingerprint of its `data` as they are now; without `data` while that is unread.
        out: the folder of the run.

    Raises:
        TrainingError: naming what differs.
    """
    before, now = settings_of(TrainConfig("cnn")) | _flat(state.identity), _flat(identity)
    changed = list(_changes(before, now))
    if changed:
        raise TrainingError(
            f"the run in {out} was started with other settings or data ({'; '.join(changed)}); "
            "resume with the same ones"
        )


def _changes(before: dict[str, Any], now: dict[str, Any]) -> Iterable[str]:
    """Yield what differs, setting by setting."""
    for key in sorted(now):
        if before.get(key) != now[key]:
            yield f"{key}: was {before.get(key)}, is {now[key]}"


def _flat(identity: dict[str, Any]) -> dict[str, Any]:
    """Return the settings and, where it is given, the data's fingerprint on one level."""
    data = {"data": identity["data"]} if "data" in identity else {}
    return {**identity["settings"], **data}
