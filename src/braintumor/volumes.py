"""Summarize the predictions for the slices of a volume: every slice is counted, and none speaks for the volume."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Final

from braintumor.classes import CLASSES, TITLES
from braintumor.errors import ReferralReason
from braintumor.models.policy import REFER
from braintumor.models.referral import Referral, sentence
from braintumor.overlay import EVIDENCE
from braintumor.predictor import Prediction

NO_PICTURE: Final = (ReferralReason.IMAGE_QUALITY, ReferralReason.NOT_BRAIN_MRI)
"""Reasons for referral that make the classes of a slice meaningless."""
TUMORS: Final = tuple(name for name in CLASSES if name != "no_tumor")
SHOWN_GAPS: Final = 5  # in the line for people; a volume read in part may have a gap at every other slice
Range = tuple[int, int]
"""First and last number of slices, both included."""


def summarize_volumes(predictions: Iterable[Prediction], scale: float) -> "list[VolumeSummary]":
    """Return the summary of each volume, in the order in which the volumes come; leave out single images.

    Args:
        predictions: of slices, those of a volume in any order; none of them is kept.
        scale: the card's `class_map_scale`.
    """
    builder = VolumeSummaryBuilder(scale)
    for prediction in predictions:
        builder.add(prediction)
    return builder.summaries()


@dataclass(frozen=True)
class Evidence:
    """The slice with the strongest evidence for a tumor class.

    Attributes:
        slice: its number.
        image: its name in the results.
        strength: largest value of its class map on the card's fixed scale: 1 is full colour, more is possible; below
            0.05 the map shows nothing and the most probable slice is named instead.
        probability: of the class, on that slice.
        decided: whether the class is the decision for the slice; else all slices where the class was the most probable
            one were referred, and this is the strongest of those that show a brain well enough.
    """

    slice: int
    image: str
    strength: float
    probability: float
    decided: bool

    @property
    def visible(self) -> bool:
        """Tell whether the class map shows anything."""
        return self.strength >= EVIDENCE


@dataclass(frozen=True)
class VolumeSummary:
    """The predictions for the slices of one volume in summary, which is no answer about the volume or the patient.

    Attributes:
        volume: the name that the slices share, see `scan.SlicePosition`.
        slices: how many were answered or referred.
        decided: for each class the numbers of the slices with this decision, ascending, with repetitions.
        referred: for each number of a referred slice, ascending, its reasons.
        strongest: the strongest evidence for each tumor class that is most probable on any slice showing a brain.
        longest_run: for each tumor class decided, first and last number of the longest run of neighbouring slices
            with this decision, the first of equals. Slices are neighbours if they follow each other in position, where
            all slices have different ones, else in number, and their numbers differ by at most 1.
        gaps: numbers between the least and the largest without an answer: not chosen, not readable, or not there.
        repeated: numbers that more than one slice has.
        notes: what had to be assumed in reading slices, with the numbers of these.
    """

    volume: str
    slices: int
    decided: Mapping[str, tuple[int, ...]]
    referred: tuple[tuple[int, tuple[Referral, ...]], ...]
    strongest: Mapping[str, Evidence]
    longest_run: Mapping[str, Range]
    gaps: tuple[Range, ...]
    repeated: tuple[int, ...]
    notes: Mapping[str, tuple[int, ...]]

    @property
    def reasons(self) -> dict[ReferralReason, int]:
        """Return the number of slices referred for each reason, the most frequent first."""
        # A set per slice: two defects of its quality are one reason, and the slice counts once.
        codes = Counter(code for _, reasons in self.referred for code in {reason.code for reason in reasons})
        return dict(codes.most_common())

    def record(self) -> dict[str, Any]:
        """Return the summary for JSON; slices are given by their numbers."""
        return {
            "volume": self.volume,
            "slices": self.slices,
            "decided": {name: list(self.decided[name]) for name in CLASSES},
            "referred": [
                {"slice": number, "reasons": [reason.record() for reason in reasons]}
                for number, reasons in self.referred
            ],
            "reasons": self.reasons,
            "strongest": {
                name: {
                    **asdict(evidence),
                    "strength": float(f"{evidence.strength:.4g}"),
                    "probability": round(evidence.probability, 6),
                }
                for name, evidence in self.strongest.items()
            },
            "longest_run": {name: list(run) for name, run in self.longest_run.items()},
            "gaps": [list(gap) for gap in self.gaps],
            "repeated": list(self.repeated),
            "notes": {note: list(numbers) for note, numbers in self.notes.items()},
            "text": str(self),
        }

    def __str__(self) -> str:
        """Return one line for people."""
        parts = [self._tumor(name) for name in TUMORS if name in self.strongest]
        # Not "no tumor": slices cannot say that of the volume.
        without = self.decided["no_tumor"]
        parts.append(f"no tumor class on {len(without)}" + (f" ({numbered(without)})" if without else ""))
        if self.referred:
            by_reasons: dict[str, list[int]] = {}
            for number, reasons in self.referred:
                by_reasons.setdefault(sentence(reasons), []).append(number)
            listed = "; ".join(f"{numbered(numbers)}: {text}" for text, numbers in by_reasons.items())
            parts.append(f"referred {len(self.referred)} ({listed})")
        if self.gaps:
            hidden = len(self.gaps) - SHOWN_GAPS
            more = f" and {hidden} more gaps" if hidden > 0 else ""
            parts.append(f"no answer for {', '.join(_spelled(gap) for gap in self.gaps[:SHOWN_GAPS])}{more}")
        if self.repeated:
            parts.append(f"several slices with the number {numbered(self.repeated)}")
        slices = "1 slice" if self.slices == 1 else f"{self.slices} slices"
        return f"{self.volume}: {slices}: {', '.join(parts)}"

    def lines(self) -> list[str]:
        """Return the line for people, and one for each note."""
        return [str(self), *(f"  slice {numbered(numbers)}: {note}" for note, numbers in self.notes.items())]

    def _tumor(self, name: str) -> str:
        """Return the part of the line for people about a tumor class."""
        numbers, best = self.decided[name], self.strongest[name]
        evidence = f"strongest {best.slice}" if best.visible else f"class map empty, most probable {best.slice}"
        if not numbers:
            return f"{TITLES[name].lower()} on none ({evidence}, referred)"
        return f"{TITLES[name].lower()} on {len(numbers)} ({numbered(numbers)}, {evidence})"


@dataclass(frozen=True)
class SliceOutcome:
    """The part of a prediction that a summary needs, without the class maps, which are large."""

    number: int
    position: float | None
    image: str
    decision: str
    reasons: tuple[Referral, ...]
    notes: tuple[str, ...]
    predicted: str
    strength: float
    probability: float


class VolumeSummaryBuilder:
    """A builder of summaries that takes predictions as they come and keeps a few numbers of each."""

    def __init__(self, scale: float) -> None:
        self._scale = scale
        self._outcomes: dict[str, list[SliceOutcome]] = {}

    def add(self, prediction: Prediction) -> None:
        """Add the prediction for a slice of a volume; one for a single image changes nothing."""
        place = prediction.place
        if place is None:
            return
        best = CLASSES.index(prediction.predicted)
        outcome = SliceOutcome(
            number=place.number,
            position=place.position,
            image=prediction.image,
            decision=prediction.decision,
            reasons=prediction.reasons,
            notes=prediction.notes,
            predicted=prediction.predicted,
            strength=float(prediction.class_maps[best].max()) / self._scale,
            probability=float(prediction.probabilities[best]),
        )
        self._outcomes.setdefault(place.volume, []).append(outcome)

    def summaries(self) -> list[VolumeSummary]:
        """Return the summary of each volume, in the order in which the volumes came."""
        return [_summary(volume, outcomes) for volume, outcomes in self._outcomes.items()]


def _summary(volume: str, outcomes: Sequence[SliceOutcome]) -> VolumeSummary:
    outcomes = sorted(outcomes, key=lambda outcome: outcome.number)
    counts = Counter(outcome.number for outcome in outcomes)
    notes = dict.fromkeys(note for outcome in outcomes for note in outcome.notes)  # in the order in which they appear
    strongest = {name: _evidence(outcomes, name) for name in TUMORS}
    runs = {name: _longest_run(outcomes, name) for name in TUMORS}
    return VolumeSummary(
        volume=volume,
        slices=len(outcomes),
        decided={name: tuple(o.number for o in outcomes if o.decision == name) for name in CLASSES},
        referred=tuple((outcome.number, outcome.reasons) for outcome in outcomes if outcome.decision == REFER),
        strongest={name: evidence for name, evidence in strongest.items() if evidence},
        longest_run={name: run for name, run in runs.items() if run},
        gaps=tuple((before + 1, after - 1) for before, after in pairwise(sorted(counts)) if after - before > 1),
        repeated=tuple(number for number, count in counts.items() if count > 1),
        notes={note: tuple(o.number for o in outcomes if note in o.notes) for note in notes},
    )


def _evidence(outcomes: Sequence[SliceOutcome], name: str) -> Evidence | None:
    """Return the strongest evidence for a class: of slices with this decision, else of referred ones."""
    decided = [outcome for outcome in outcomes if outcome.decision == name]
    candidates = decided or [outcome for outcome in outcomes if outcome.predicted == name and _shows_brain(outcome)]
    if not candidates:
        return None
    # Class maps that show nothing count as equal, so that the probability decides between them; `max` takes the first.
    best = max(candidates, key=lambda slice_: (_visible_strength(slice_), slice_.probability))
    return Evidence(
        slice=best.number,
        image=best.image,
        strength=best.strength,
        probability=best.probability,
        decided=bool(decided),
    )


def _visible_strength(outcome: SliceOutcome) -> float:
    return outcome.strength if outcome.strength >= EVIDENCE else 0.0


def _shows_brain(outcome: SliceOutcome) -> bool:
    return not any(reason.code in NO_PICTURE for reason in outcome.reasons)


def _longest_run(outcomes: Sequence[SliceOutcome], name: str) -> Range | None:
    """Return the longest run of neighbours with a class as decision, see `VolumeSummary`; None without such slices."""
    runs = [[outcome.number for outcome in run] for run in _neighbours(outcomes) if run[0].decision == name]
    longest = max(runs, key=len, default=[])
    return (min(longest), max(longest)) if longest else None


def _neighbours(outcomes: Sequence[SliceOutcome]) -> Iterator[list[SliceOutcome]]:
    """Yield all slices as runs of neighbours with the same decision."""
    outcomes = in_order(outcomes)
    run = [outcomes[0]]
    for before, outcome in pairwise(outcomes):
        # Numbers that differ by more leave a slice without an answer between the two, which may have any class.
        if outcome.decision != before.decision or abs(outcome.number - before.number) > 1:
            yield run
            run = []
        run.append(outcome)
    yield run


def in_order(outcomes: Sequence[SliceOutcome]) -> list[SliceOutcome]:
    """Return slices by position along the normal where each has one of its own, else by number."""
    # Positions that repeat come from several acquisitions in one series, whose slices must not be interleaved.
    positions = [outcome.position for outcome in outcomes if outcome.position is not None]
    if len(set(positions)) == len(outcomes):
        return sorted(outcomes, key=lambda outcome: outcome.position or 0.0)
    return sorted(outcomes, key=lambda outcome: outcome.number)


def numbered(numbers: Sequence[int]) -> str:
    """Return slice numbers as text, consecutive ones as a range: 1, 9-15."""
    # A range begins where the number before it is missing, and ends where the one after it is.
    unique = set(numbers)
    starts = sorted(number for number in unique if number - 1 not in unique)
    ends = sorted(number for number in unique if number + 1 not in unique)
    return ", ".join(map(_spelled, zip(starts, ends, strict=True)))


def _spelled(numbers: Range) -> str:
    first, last = numbers
    return str(first) if first == last else f"{first}-{last}"
