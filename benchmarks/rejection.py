"""Whether pictures that are no usual brain slice are told apart, by the models of the folds on patients new to them.

Every set is scored by all five models of the ResNet18 (and of the CNN, under `cnn.`), each of which also scores the
slices that it was tested on; a score counts in units of the model's own threshold, which comes from its validation
slices. `auroc` is the chance that a picture of the set scores above a real slice; `fpr95` the share of real slices
above the score that 95 % of the set exceed; intervals are over groups of real slices and over pictures. `refused` is
the share of the set that is refused, `refused_real` that of the real slices.

The score was chosen by `photographs`, `noise`, `blank`, `text` and `phantom`, and is judged by `spine-mri`, `turned`,
`half` and `inverted`; no picture of any set has a part in the thresholds. `compare` holds scores that others have
published, on the first fold's ResNet18, without its threshold.

Takes: long, a quarter of an hour with the models of `folds.py`.
Command: python benchmarks/rejection.py
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from foreign import SETS, TURNED
from numpy.typing import NDArray
from record import ROOT, data_folder, number, record
from safetensors.torch import load_file

from braintumor.data.manifest import Manifest, read_manifest
from braintumor.evaluate.metrics import areas_under_curves
from braintumor.io.read import read
from braintumor.io.scan import Scan
from braintumor.models.ood import fit_ood_scorer
from braintumor.models.session import Model, load_folder
from braintumor.predictor import Predictor
from braintumor.training.networks import build_network, stages_of

FOLDS: Final = 5
EVERY: Final = 8  # of the test slices of a fold, one is turned, halved and inverted
RESAMPLES: Final = 1000
NEIGHBOURS: Final = 10
FITTED: Final = 4  # of the training slices, one in so many fits the published scores
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Numbers = dict[str, dict[str, Any]]


def main() -> None:
    """Produce `rejection.json`."""
    numbers: Numbers = {}
    for prefix, name in (("", "resnet-best"), ("cnn.", "cnn-best")):
        folders = [ROOT / "runs" / "folds" / name / str(fold) for fold in range(FOLDS)]
        numbers |= {prefix + key: entry for key, entry in judged(folders).items()}
    numbers |= compared(ROOT / "runs" / "folds" / "resnet-best" / "0")
    record("rejection", "python benchmarks/rejection.py", numbers)


def judged(folders: Sequence[Path]) -> Numbers:
    """Return the rates of every set, pooled over folds."""
    real: list[Floats] = []
    groups: list[Integers] = []
    found: dict[str, list[Floats]] = {}
    origin: dict[str, list[Integers]] = {}
    for fold, folder in enumerate(folders):
        model, test = load_folder(folder), test_part(folder)
        members = np.array(test.group_numbers(), np.int64) + fold * 100_000
        real.append(scores([read(test.path(row)) for row in test], model))
        groups.append(members)
        for name, pictures in pictures_of(test).items():
            found.setdefault(name, []).append(scores(pictures, model))
            own = members[::EVERY] if name in TURNED else np.arange(len(pictures))
            origin.setdefault(name, []).append(own)
    usual, members = np.concatenate(real), np.concatenate(groups)
    numbers: Numbers = {"refused_real": rate(usual > 1, members)}
    for name, parts in found.items():
        foreign, places = np.concatenate(parts), np.concatenate(origin[name])
        pictures = len(np.unique(places)) if name not in TURNED else len(places)
        numbers |= {f"{name}.{key}": entry for key, entry in separation(usual, members, foreign, places).items()}
        numbers[f"{name}.refused"] = rate(foreign > 1, places)
        numbers[f"{name}.n"] = number(pictures, "pictures")
    return numbers


def test_part(folder: Path) -> Manifest:
    """Return the slices that the model of a fold was tested on."""
    return read_manifest(folder / "manifest.csv", data_folder() / "brain-tumor-mri").part("test")


def pictures_of(test: Manifest) -> dict[str, list[Scan]]:
    """Return the pictures of every set; some are made from slices that the model has not seen."""
    spines = sorted((data_folder() / "ood" / "spine-mri").glob("*.png"))
    some = [read(test.path(row)) for row in test.rows[::EVERY]]
    made = {name: [change(brain, place) for place, brain in enumerate(some)] for name, change in TURNED.items()}
    return {"spine-mri": [read(file) for file in spines], **{name: make() for name, make in SETS.items()}, **made}


def scores(scans: Sequence[Scan], model: Model) -> Floats:
    """Return (N,) OOD scores of scans, in units of the model's threshold."""
    answers = Predictor(model).run(scans)
    return np.array([getattr(answer, "ood_score", np.nan) for answer in answers]) / model.policy.ood_threshold


def rate(flags: NDArray[np.bool_], members: Integers) -> dict[str, Any]:
    """Return the share of flags that are set, with its interval over members."""
    weights = drawn(members)
    low, high = np.quantile(weights @ flags / weights.sum(axis=1), (0.025, 0.975)).tolist()
    return number(float(flags.mean()), "fraction", low=low, high=high, n=len(flags))


def drawn(members: Integers) -> Floats:
    """Return (R, N) how often each of N scores counts, for R draws of whole members with replacement."""
    names, places = np.unique(members, return_inverse=True)
    random = np.random.default_rng(0)
    return random.multinomial(len(names), np.full(len(names), 1 / len(names)), size=RESAMPLES)[:, places].astype(float)


def separation(usual: Floats, members: Integers, foreign: Floats, places: Integers) -> Numbers:
    """Return auroc and fpr95 of foreign scores over usual ones."""
    positive = np.concatenate([np.zeros(len(usual), bool), np.ones(len(foreign), bool)])
    values = np.concatenate([usual, foreign])
    found = {}
    for key, statistic in (("auroc", area), ("fpr95", passed)):
        value = statistic(positive, values, np.ones((1, len(values))))[0]
        weights = np.concatenate([drawn(members), drawn(places)], axis=1)
        low, high = np.quantile(statistic(positive, values, weights), (0.025, 0.975)).tolist()
        found[key] = number(float(value), "fraction", low=low, high=high, n=len(values))
    return found


def area(positive: NDArray[np.bool_], values: Floats, weights: Floats) -> Floats:
    """Return (R,) the areas under the ROC curve."""
    return np.concatenate([areas_under_curves(positive, values, part)[0] for part in np.array_split(weights, 20)])


def passed(positive: NDArray[np.bool_], values: Floats, weights: Floats) -> Floats:
    """Return (R,) the share of usual values at least as large as the foreign value that 95 % of these exceed."""
    order = np.argsort(values[positive])
    foreign, shares = values[positive][order], weights[:, positive][:, order].cumsum(axis=1)
    border = foreign[(shares > 0.05 * shares[:, -1:]).argmax(axis=1)]
    usual = weights[:, ~positive]
    return (usual * (values[~positive] >= border[:, None])).sum(axis=1) / usual.sum(axis=1)


@torch.no_grad()
def compared(folder: Path) -> Numbers:
    """Return the auroc of published scores for every set, on one fold."""
    model, test = load_folder(folder), test_part(folder)
    settings = model.card.train
    network = build_network(
        model.card.architecture, map_stride=settings["map_stride"], attention=settings["attention"]
    ).eval()
    network.load_state_dict(load_file(folder / "weights.safetensors"))

    def described(scans: Sequence[Scan]) -> dict[str, Floats]:
        parts: dict[str, list[Floats]] = {}
        for scan in scans:
            image = torch.from_numpy(model.card.preprocess(scan))[None]
            features = network.features(image)
            pooled = network.pool(features, network.log_attention(features))
            stages = stages_of(network.backbone, network.normalised(image))[1]
            answer = {"pooled": pooled, "logits": network.head(pooled), "gate": network.features_and_gate(image)[1]}
            answer |= {f"stage{place}": stage.mean(dim=(2, 3)) for place, stage in enumerate(stages)}
            for name, value in answer.items():
                parts.setdefault(name, []).append(value[0].double().numpy())
        return {name: np.stack(values) for name, values in parts.items()}

    manifest = read_manifest(folder / "manifest.csv", test.root).part("train")
    usual = described([read(manifest.path(row)) for row in manifest.rows[::FITTED]])
    rules = published(usual, network.head)
    real = described([read(test.path(row)) for row in test])
    numbers: Numbers = {}
    for name, pictures in pictures_of(test).items():
        foreign = described(pictures)
        for rule, score in rules.items():
            values = np.concatenate([score(real), score(foreign)])
            positive = np.arange(len(values)) >= len(test)
            found = area(positive, values, np.ones((20, len(values))))[0]
            numbers[f"compare.{rule}.{name}.auroc"] = number(float(found), "fraction", n=len(values))
    return numbers


def published(usual: dict[str, Floats], head: torch.nn.Module) -> dict[str, Callable[[dict[str, Floats]], Floats]]:
    """Return scores that are higher for out-of-distribution images, fitted to training images.

    Sources: maximum softmax arXiv:1610.02136; energy arXiv:2010.03759; nearest neighbours arXiv:2204.06507; ViM
    arXiv:2203.10807; Mahalanobis arXiv:1807.03888, here one Gaussian for all classes.
    """

    def lengths(values: Floats) -> Floats:
        return values / np.linalg.norm(values, axis=1, keepdims=True).clip(1e-12)

    def energy(logits: Floats) -> Floats:
        return np.log(np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1)) + logits.max(axis=1)

    def confidence(logits: Floats) -> Floats:
        return np.exp(logits.max(axis=1) - energy(logits))

    near = lengths(usual["pooled"])
    centre = usual["pooled"].mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov((usual["pooled"] - centre).T))
    rest = vectors[:, : len(values) // 2]  # the half with least variance
    residual = np.linalg.norm((usual["pooled"] - centre) @ rest, axis=1)
    scale = usual["logits"].max(axis=1).mean() / residual.mean()

    def mahalanobis(name: str) -> Callable[[dict[str, Floats]], Floats]:
        gate = fit_ood_scorer(usual[name])
        return lambda found: (((found[name] - gate.centre) @ gate.whitening) ** 2).mean(axis=1)

    return {
        "softmax": lambda found: -confidence(found["logits"]),
        "energy": lambda found: -energy(found["logits"]),
        "neighbours": lambda found: -np.sort(lengths(found["pooled"]) @ near.T, axis=1)[:, -NEIGHBOURS],
        "vim": lambda found: (
            scale * np.linalg.norm((found["pooled"] - centre) @ rest, axis=1) - energy(found["logits"])
        ),
        "mahalanobis.pooled": mahalanobis("pooled"),
        **{f"mahalanobis.{name}": mahalanobis(name) for name in sorted(usual) if name.startswith("stage")},
        "ours": mahalanobis("gate"),
    }


if __name__ == "__main__":
    main()
