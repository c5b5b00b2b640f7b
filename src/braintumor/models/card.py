"""Define the fields of card.json, a model's description of itself, and check those that others wrote."""

import dataclasses
import json
import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final, Self

from braintumor.classes import CLASSES
from braintumor.errors import ModelError
from braintumor.models.preprocess import Preprocess
from braintumor.text import visible

TEMPERATURE_RANGE: Final = (1e-6, 1e6)
"""Temperatures that are accepted; training fits 0.05 to 20."""
SCALE_RANGE: Final = (1e-12, 1e12)
"""Scales of class maps that are accepted; float32 divides by them without loss."""
LONGEST_TEXTS: Final = {
    **dict.fromkeys(("name", "version", "architecture", "recipe", "package_version"), 100),
    **dict.fromkeys(("licence", "intended_use"), 2000),
    "weights_origin": 100_000,  # it names the tensors that the starting weights lack
}
"""The most characters of each text field."""
MAPPINGS: Final = ("train", "data", "rejection", "precisions", "metrics")


@dataclass(frozen=True)
class Card:
    """The description of a model, all it takes to judge and rebuild it; `card.json` holds the same fields.

    Attributes:
        class_map_scale: value of a class map that is shown as full colour (see `overlay`).
        temperature: the logits are divided by it before the softmax; 1 changes nothing.
        data: fingerprint of the manifest, counts per split and class, split fractions, files left out.
        train: every setting of the run, so that it can be repeated.
        rejection: for each precision, when answers are withheld, from validation images: `ood_threshold` and
            `far_ood_threshold`, the largest OOD scores of images that are answered, and that are classified as brain
            MRI; `points`, the least probability for a coverage, with the error there; `sets`, the quantiles of
            prediction sets by their error.
        precisions: one entry per ONNX file: how far float32 agrees with the trained network, the others with float32.
    """

    name: str
    version: str
    architecture: str
    preprocess: Preprocess
    class_map_scale: float
    package_version: str
    classes: tuple[str, ...] = CLASSES
    recipe: str = "reference"
    train: dict[str, Any] = field(default_factory=dict)
    weights_origin: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    temperature: float = 1.0
    rejection: dict[str, Any] = field(default_factory=dict)
    precisions: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    licence: str = "MIT"
    intended_use: str = "Research on brain MRI slices. Not a medical device, not for diagnosis."

    def __post_init__(self) -> None:
        if self.classes != CLASSES:
            raise ModelError(f"expected the classes {CLASSES} in this order, the card has {self.classes}")
        (least_scale, largest_scale), (least, largest) = SCALE_RANGE, TEMPERATURE_RANGE
        # Written so that NaN fails, too.
        if not (least_scale <= self.class_map_scale <= largest_scale and least <= self.temperature <= largest):
            raise ModelError(
                "expected a positive, finite class_map_scale and temperature, "
                f"the card has {self.class_map_scale} and {self.temperature}"
            )

    def to_json(self) -> str:
        """Return the text of `card.json`."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the card in the text of a `card.json`, checked like any input.

        Raises:
            ModelError: not JSON, or a field is missing, unknown, repeated, of another type or out of range.
        """
        try:
            fields = json.loads(text, object_pairs_hook=_without_repeats)
            fields["preprocess"] = Preprocess(**fields["preprocess"])
            fields["classes"] = tuple(fields["classes"])
            card = cls(**fields)
            _check(card)
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            raise ModelError(f"card.json cannot be used ({error}); export the model again with this version") from error
        return card


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object.

    Raises:
        ValueError: a name is repeated, of which people would read one value and programs the other.
    """
    fields = dict(pairs)
    if len(fields) < len(pairs):
        repeated = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
        raise ValueError(f"{', '.join(repeated)} appears more than once")
    return fields


def _check(card: Card) -> None:
    """Raise if a card from elsewhere holds what no card of ours holds.

    Raises:
        AttributeError, KeyError, OverflowError, TypeError, ValueError: a field is of another type, out of range, or
            holds characters that act on a terminal or cannot be seen.
    """
    for name, longest in LONGEST_TEXTS.items():
        text = getattr(card, name)
        if not isinstance(text, str) or len(text) > longest or visible(text) != text:
            raise ValueError(f"expected at most {longest} visible characters as {name}, got {_short(text)}")
    for name in ("class_map_scale", "temperature"):
        number = getattr(card, name)
        if not _is_number(number):
            raise TypeError(f"expected a number as {name}, got {_short(number)}")
    if type(card.preprocess.size) is not int:
        raise TypeError(f"expected a whole number of pixels as side of the input, got {_short(card.preprocess.size)}")
    for name in MAPPINGS:
        if not isinstance(getattr(card, name), dict):
            raise TypeError(f"expected a JSON object as {name}, got {_short(getattr(card, name))}")
    for precision, entry in card.rejection.items():
        _check_rejection(entry, precision)
    json.dumps([card.train, card.data, card.precisions, card.metrics], allow_nan=False)  # other programs read no NaN


def _check_rejection(entry: Any, precision: str) -> None:
    """Raise if thresholds, operating points or sets are not as `policy.Policy.of` needs them."""
    if not entry:  # a model that was never validated
        return
    where = f"under rejection, {_short(precision)}"
    sets = entry.get("sets", {})
    shares = [point[name] for point in entry["points"] for name in ("coverage", "error")]
    shares += [share for quantiles in sets.values() for share in quantiles] + [float(error) for error in sets]
    if not entry["points"] or not all(_is_number(share) and 0 <= share <= 1 for share in shares):
        raise ValueError(f"expected operating points and sets from 0 to 1 {where}")
    if not all(_is_number(point["confidence"]) for point in entry["points"]):  # above 1 all answers are withheld
        raise ValueError(f"expected a number as confidence {where}")
    if any(len(quantiles) != len(CLASSES) for quantiles in sets.values()):
        raise ValueError(f"expected sets of one number for each class {where}")
    if not all(_is_number(entry[name]) and entry[name] > 0 for name in ("ood_threshold", "far_ood_threshold")):
        raise ValueError(f"expected positive thresholds {where}")


def _is_number(value: object) -> bool:
    """Tell whether a value is a finite number; True and False are none, although Python takes them for integers."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
