"""Write a model card from measurements: what a model is for, what it was measured on and what it does not know.

Source: Mitchell and others, 2019, doi 10.1145/3287560.3287596.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from braintumor.classes import CLASSES, DISCLAIMER, TITLES
from braintumor.intervals import FEW, FEW_MARK
from braintumor.models.session import Card

PROTOCOLS: Final = {
    "official": "the test part of the data folder",
    "held-out": "images set aside before training",
    "clean": "test images that share no group with training",
    "folds": "every image, by a model trained without its patient, as far as known, and all slices like it",
}
UNKNOWN: Final = "–"


def model_card(card: Card, report: Mapping[str, Any], name: str) -> str:
    """Return the model card as Markdown.

    Args:
        card: of the model, or of the first one of folds.
        report: the content of its `report.json`.
        name: what to call the model.
    """
    return "\n".join(_lines(card, report, name)) + "\n"


def _lines(card: Card, report: Mapping[str, Any], name: str) -> Iterator[str]:
    """Yield the lines of the card."""
    metrics, decisions = report["metrics"], report["decisions"]
    yield from (f"# {name}", "", f"**{DISCLAIMER}**", "")
    yield from ("## Intended use", "", card.intended_use, "")
    yield "Input: one slice; output: probabilities of glioma, meningioma, pituitary tumor and no tumor, a decision or a"
    yield "referral with its reason, and a map per class. Licence of the weights: " + card.licence + "."
    yield from ("", "## The model", "")
    settings = card.train
    yield f"- {card.architecture}, recipe `{card.recipe}`, {card.metrics['parameters']:,} parameters,"
    yield f"  {card.metrics['multiply_adds'] / 1e9:.2f} billion multiply-adds a slice of {card.preprocess.size} pixels"
    yield f"- starting weights: {origin(card.weights_origin)}"
    yield f"- taught by outlines of tumors: {'yes' if settings.get('masks') else 'no'}"
    shuffled = card.metrics.get("shuffled_maps")
    if shuffled:
        left = list(shuffled.values())[-1]
        yield f"- its maps correlate {left:.2f} with those of the same network with shuffled weights"
    yield from ("", "## How it was measured", "")
    counts = ", ".join(f"{report['per_class'][label]['support']:,} {TITLES[label].lower()}" for label in CLASSES)
    images = f"{report['n_images']:,} images of {report['n_groups']:,} groups"
    yield f"On {PROTOCOLS[report['protocol']]}: {images} ({counts})."
    yield from _known_from_training(report["leakage"])
    yield f"Intervals are 95 %, over whole groups; {FEW_MARK} marks numbers from fewer than {FEW} images."
    yield from ("", "| | value |", "|---|---|")
    for title, entry in (
        ("accuracy", metrics["accuracy"]),
        ("macro-F1", metrics["f1"]),
        *((f"recall, {TITLES[label].lower()}", report["per_class"][label]["recall"]) for label in CLASSES),
        ("calibration error (ECE)", metrics["ece"]),
        ("answered at the default operating point", decisions["answered"]),
        ("accuracy of these answers", decisions["accuracy"]),
        ("referred as not a brain MRI or unlike the training images", decisions["refused"]),
    ):
        yield f"| {title} | {percent_with_range(entry)} |"
    maps = report.get("localisation")
    if maps:
        for title, key in (
            ("map's maximum in the tumor", "pointing"),
            ("share of the map in the tumor", "energy"),
            ("other answer without the tumor", "flip"),
            ("other answer without another piece", "flip_control"),
        ):
            yield f"| {title} | {percent_with_range(maps['overall'][key])} |"
    yield from ("", "## For whom it works", "")
    yield "| part | images | accuracy | calibration error | referred | map in the tumor |"
    yield "|---|---|---|---|---|---|"
    for way, parts in report["subgroups"].items():
        for part, rates in parts.items():
            numbers = (percent_with_range(rates[key]) for key in ("accuracy", "ece", "referred", "energy"))
            yield f"| {way}: {TITLES.get(part, part)} | {rates['accuracy']['n']:,} | {' | '.join(numbers)} |"
    yield from ("", "## What this model does not know", "", "| measured | what follows |", "|---|---|")
    yield from (f"| {fact} | {consequence} |" for fact, consequence in gaps(report))
    yield ""


def _known_from_training(leakage: Mapping[str, Any]) -> Iterator[str]:
    """Yield how many of the images share a group with training, as far as that is known."""
    related = sum(leakage[kind] or 0 for kind in ("exact", "near", "shared"))
    if related:
        yield f"{related:,} of {leakage['n']:,} share a group with training: the number says little about new patients."
    if not leakage["known"]:
        yield f"How many share a group with training is not fully known: {leakage['reason']}."


def origin(weights: str) -> str:
    """Return where the starting weights come from, with the number of the tensors that they lack, not their names."""
    # the card lists every tensor by name, which is too much for a page
    file, _, missing = weights.partition(", He-normal: ")
    return f"{file}; {len(missing.split(', '))} tensors start He-normal" if missing else file or "none"


def gaps(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what the data lacks, as measured, and what follows from it."""
    for way, parts in report["crossed"].items():
        for label in CLASSES:
            total = sum(counts[label] for counts in parts.values())
            for part, counts in parts.items():
                # below 5 % of a class there is nothing to measure it on
                if total and counts[label] < 0.05 * total:
                    yield (
                        f"{counts[label]:,} of {total:,} slices of {TITLES[label].lower()} are of the {way} {part}",
                        f"an answer on such a slice rests on other {way}s",
                    )
    shares = {
        part: sum(counts[label] for label in CLASSES if label != "no_tumor") / max(1, sum(counts.values()))
        for part, counts in report["crossed"]["source"].items()
    }
    for part, share in shares.items():
        # where nearly all slices of a source show a tumor, the source gives the answer away
        if share > 0.95:
            yield (
                f"{share:.1%} of the slices from {part} show a tumor",
                "the way of acquisition gives the tumor away; how healthy slices of this kind fare was not measured",
            )
    yield "four labels in the data", "other tumors, metastases, strokes and all other findings get one of these labels"
    sources = ", ".join(report["crossed"]["source"]) or "unknown sources"
    yield f"single slices from {sources}", "other scanners, sequences and populations are another question"


def percent_with_range(entry: Mapping[str, Any] | None) -> str:
    """Return a rate with its interval in percent."""
    if not entry or entry["value"] is None:
        return UNKNOWN
    value = f"{100 * entry['value']:.1f} %"
    ends = "" if entry["low"] is None else f" ({100 * entry['low']:.1f} to {100 * entry['high']:.1f})"
    return value + ends + (f" {FEW_MARK}" if entry["n"] < FEW else "")
