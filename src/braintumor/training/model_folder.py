"""Model folder of a finished run: weights, ONNX file, manifest, history and card."""

import csv
import io
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

import braintumor
from braintumor.data.manifest import Manifest, write_manifest
from braintumor.evaluate.calibration import rejection, temperature
from braintumor.files import write_text
from braintumor.models.preprocess import Preprocess
from braintumor.models.session import ONNX_FILES, Card
from braintumor.predictor import softmax
from braintumor.training import checkpoint, export
from braintumor.training.checkpoint import Epoch, State
from braintumor.training.config import TrainConfig
from braintumor.training.data import Images
from braintumor.training.networks import Network, multiply_adds
from braintumor.training.sanity_checks import cascade

PARITY_BATCHES = 2


def write_artefact(
    out: Path,
    network: Network,
    config: TrainConfig,
    state: State,
    *,
    manifest: Manifest,
    skipped: Mapping[str, str],
    gate_images: Images,
    validation: Images,
    machine: Mapping[str, Any],
) -> Card:
    """Write the model folder of a network that is in the state of the epoch to keep; return its card.

    Args:
        out: the model folder.
        network: is moved to the CPU.
        config: of the run.
        state: after the last epoch.
        manifest: with the parts `train` and `val`.
        skipped: reasons by the names of the files that were left out.
        gate_images: training images, unaugmented, to which the OOD scores are fitted.
        validation: images of the part `val`.
        machine: entries of the card about the hardware of the run.

    Raises:
        TrainingError: the ONNX file does not answer as the network does.
        StorageError: the folder cannot be written to.
    """
    network.cpu()
    file = out / ONNX_FILES["float32"]
    checkpoint.write_tensors(out / "weights.safetensors", network.state_dict())
    cpu = torch.device("cpu")
    ood_scorer = export.gate_of(network, (batch for batch, _ in gate_images.batches(config.batch_size, cpu)))
    export.export(network, ood_scorer, config.size, file)
    batches = [batch for batch, _ in validation.batches(config.batch_size, cpu)]
    parity = export.check_parity(network, ood_scorer, batches[:PARITY_BATCHES], file)
    shuffled_maps = cascade(network, ood_scorer, batches[0])
    # From here on by the ONNX file, not by the network: the card describes the file that is used.
    outputs = export.run(file, batches)
    labels, groups = validation.labels.numpy(), np.array(manifest.part("val").group_numbers(), np.int64)
    fitted_temperature = temperature(outputs.logits, labels)
    probabilities = softmax(outputs.logits / np.float32(fitted_temperature)).astype(np.float64)
    write_manifest(manifest, out / "manifest.csv")
    write_text(out / "history.csv", _history_text(state.history))
    card = Card(
        name=f"{config.model}-{config.recipe}",
        version=braintumor.__version__,
        architecture=config.model,
        preprocess=Preprocess(config.size),
        class_map_scale=export.class_map_scale(outputs.class_maps, labels),
        temperature=fitted_temperature,
        rejection={"float32": rejection(probabilities, outputs.ood_score.astype(np.float64), labels, groups)},
        package_version=braintumor.__version__,
        recipe=config.recipe,
        train={**_settings(state), **machine},
        weights_origin=state.weights_origin,
        data=_data_facts(manifest, skipped),
        precisions={"float32": parity},
        metrics=_metrics(network, config.size, state, outputs.logits, labels) | {"shuffled_maps": shuffled_maps},
    )
    write_text(out / "card.json", card.to_json())  # last: a folder with a card is a finished model
    return card


def _settings(state: State) -> dict[str, Any]:
    """Return every setting of the run; of files and folders only the name, since a path says nothing elsewhere."""
    recorded = state.identity["settings"]
    names = {name: Path(recorded[name]).name for name in ("weights", "masks")}
    return {**recorded, **names, "precision": state.precision}


def _data_facts(manifest: Manifest, skipped: Mapping[str, str]) -> dict[str, Any]:
    """Return the card's entry about the data: fingerprint, counts, split fractions and files left out."""
    counts = manifest.counts()
    total = sum(sum(classes.values()) for classes in counts.values())
    fractions = {part: round(sum(classes.values()) / total, 4) for part, classes in counts.items()}
    return {
        "fingerprint": manifest.fingerprint(),
        "counts": counts,
        "fractions": fractions,
        "groups": len({row.group for row in manifest.rows}),
        "skipped": dict(skipped),
    }


def _metrics(network: Network, size: int, state: State, logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Return the card's entry about the run: size, time, epochs and the validation part's scores."""
    return {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "multiply_adds": multiply_adds(network, size),
        "train_minutes": round(state.seconds / 60, 2),
        "epochs": len(state.history),
        "kept_epoch": state.kept.epoch,
        "validation": {
            "accuracy": float((logits.argmax(axis=1) == labels).mean()),
            "macro_f1": state.kept.val_macro_f1,
            "n": len(labels),
        },
    }


def _history_text(history: list[Epoch]) -> str:
    """Return the content of history.csv: one line per epoch."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Epoch)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in history)
    return text.getvalue()
