"""What a run begins with. Whatever can be wrong about it is told here, before any data is opened."""

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
    """A network before its first epoch, or that of an interrupted run.

    Attributes:
        network: with its starting weights, or as it is built where the run is resumed.
        origin: of the weights, for the card.
        state: of the run that is resumed; None for a new one.
    """

    network: Network
    origin: str
    state: State | None


def look_up(config: TrainConfig, out: Path, device: torch.device, *, resume: bool) -> TrainingStart:
    """Return what a run begins with: network and weights exist, `out` can be written to, the settings are as before.

    Raises:
        DataError: there is no such network, or `masks` is no reference folder.
        WeightsError: the starting weights cannot be had, or do not fit.
        TrainingError: `out` is occupied or holds nothing to resume, or the settings are not those of the run there.
        StorageError: `out` cannot be written to.
    """
    _check_folder(out, resume)
    if config.masks:
        check_reference(Path(config.masks))
    state = checkpoint.load_checkpoint(out / "checkpoint") if resume else None
    if state:
        check_same_run(state, {"settings": settings_of(config)}, out)
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
    """Raise where a part that is to be frozen is none of the backbone."""
    known = {name for name, _ in network.backbone.named_modules()}
    unknown = [prefix for prefix in config.frozen if prefix not in known]
    if unknown:
        parts = ", ".join(name for name, _ in network.backbone.named_children())
        raise TrainingError(f"frozen: {config.model} has no part {', '.join(unknown)}; it has {parts}")


def settings_of(config: TrainConfig) -> dict[str, Any]:
    """Return all settings as JSON holds them: what a run that goes on must have in common with its beginning."""
    settings: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    return settings


def check_same_run(state: State, identity: dict[str, Any], out: Path) -> None:
    """Raise where settings or data differ from those the run began with; settings younger than the run were default.

    Args:
        state: of the interrupted run.
        identity: its `settings` and the fingerprint of its `data` as they are now; what is not known yet is left out.
        out: the folder of the run.
    """
    before, now = settings_of(TrainConfig("cnn")) | _flat(state.identity), _flat(identity)
    changed = list(_changes(before, now))
    if changed:
        raise TrainingError(
            f"the run in {out} began differently ({'; '.join(changed)}); resume with the same settings and data"
        )


def _changes(before: dict[str, Any], now: dict[str, Any]) -> Iterable[str]:
    """Yield what differs, setting by setting."""
    for key in sorted(now):
        if before.get(key) != now[key]:
            yield f"{key}: was {before.get(key)}, is {now[key]}"


def _flat(identity: dict[str, Any]) -> dict[str, Any]:
    """Return the settings and, where it is known, the data's fingerprint in one level."""
    return {**identity["settings"], **{key: value for key, value in identity.items() if key == "data"}}
