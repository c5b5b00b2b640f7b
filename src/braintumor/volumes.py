"""What was said about the slices of a volume, on one line: every slice is in it, and none speaks for the volume."""

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
"""Reasons after which the classes of a slice mean nothing."""
TUMORS: Final = tuple(name for name in CLASSES if name != "no_tumor")
SHOWN_GAPS: Final = 5
Range = tuple[int, int]
"""First and last number of slices, both included."""


def summarize_volumes(predictions: Iterable[Prediction], scale: float) -> "list[VolumeSummary]":
    """Return what was said about each volume, in the order in which the volumes come; single images are left out.

    Args:
        predictions: of slices, those of a volume in any order; none of them is kept.
        scale: the card's `class_map_scale`.
    """
    tally = VolumeSummaryBuilder(scale)
    for prediction in predictions:
        tally.add(prediction)
    return tally.summaries()


@dataclass(frozen=True)
class Evidence:
    """The slice that speaks most for a tumor class.

    Attributes:
        slice: its number.
        image: what it is called in the results.
        strength: largest value of its class map on the card's fixed scale: 1 is full colour, more is possible; below
            0.05 the map shows nothing and the most probable slice is named instead.
        probability: of the class, on that slice.
        decided: whether the slice was decided so; else all slices where the class was the most probable one were
            referred, and this is the strongest of those that show a brain well enough.
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
    """What was said about the slices of one volume. It is no answer about the volume or the patient.

    Attributes:
        volume: what the slices share, see `scan.SlicePosition`.
        slices: how many were answered or referred.
        decided: for each class the numbers of the slices decided so, ascending, repeated numbers as often as they are.
        referred: for each number of a referred slice, ascending, its reasons.
        strongest: for each tumor class that is most probable on any slice which shows a brain, where it is seen best.
        longest_run: for each tumor class decided, first and last number of the longest run of neighbouring slices
            decided so, the first of equals. Slices are neighbours if they follow each other in position, where all
            slices have different ones, else in number, and their numbers differ by at most 1.
        gaps: numbers between the least and the largest without an answer: not chosen, not readable, or not there.
        repeated: numbers of more than one slice.
        notes: what had to be assumed in reading slices, each with their numbers.
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
        """Return for how many slices each reason to refer was given, the most frequent first."""
        return dict(Counter(code for _, reasons in self.referred for code in {r.code for r in reasons}).most_common())

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
        without = self.decided["no_tumor"]
        parts.append(f"no tumor class on {len(without)}" + (f" ({numbered(without)})" if without else ""))
        if self.referred:
            alike: dict[str, list[int]] = {}
            for number, reasons in self.referred:
                alike.setdefault(sentence(reasons), []).append(number)
            listed = "; ".join(f"{numbered(numbers)}: {reasons}" for reasons, numbers in alike.items())
            parts.append(f"referred {len(self.referred)} ({listed})")
        if self.gaps:
            more = f" and {len(self.gaps) - SHOWN_GAPS} more gaps" * (len(self.gaps) > SHOWN_GAPS)
            parts.append(f"no answer for {', '.join(_spelled(gap) for gap in self.gaps[:SHOWN_GAPS])}{more}")
        if self.repeated:
            parts.append(f"several slices with the number {numbered(self.repeated)}")
        return f"{self.volume}: {self.slices} slice{'s' * (self.slices != 1)}: {', '.join(parts)}"

    def lines(self) -> list[str]:
        """Return the line for people, and one for each note."""
        return [str(self), *(f"  slice {numbered(numbers)}: {note}" for note, numbers in self.notes.items())]

    def _tumor(self, name: str) -> str:
        """Return what was said for a tumor class."""
        numbers, best = self.decided[name], self.strongest[name]
        shown = f"strongest {best.slice}" if best.visible else f"class map empty, most probable {best.slice}"
        if not numbers:
            return f"{TITLES[name].lower()} on none ({shown}, referred)"
        return f"{TITLES[name].lower()} on {len(numbers)} ({numbered(numbers)}, {shown})"


@dataclass(frozen=True)
class SliceOutcome:
    """What a summary needs of the answer for one slice."""

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
    """Takes the answers for slices as they come and keeps a few numbers of each."""

    def __init__(self, scale: float) -> None:
        self._scale = scale
        self._said: dict[str, list[SliceOutcome]] = {}

    def add(self, prediction: Prediction) -> None:
        """Count the answer for a slice; that for a single image changes nothing."""
        place = prediction.place
        if place is None:
            return
        best = CLASSES.index(prediction.predicted)
        said = SliceOutcome(
            place.number,
            place.position,
            prediction.image,
            prediction.decision,
            prediction.reasons,
            prediction.notes,
            prediction.predicted,
            float(prediction.class_maps[best].max()) / self._scale,
            float(prediction.probabilities[best]),
        )
        self._said.setdefault(place.volume, []).append(said)

    def summaries(self) -> list[VolumeSummary]:
        """Return the summary of each volume, in the order in which the volumes came."""
        return [_summary(volume, said) for volume, said in self._said.items()]


def _summary(volume: str, answers: Sequence[SliceOutcome]) -> VolumeSummary:
    """Return the summary of the slices of one volume."""
    answers = sorted(answers, key=lambda said: said.number)
    counts = Counter(said.number for said in answers)
    notes = dict.fromkeys(note for said in answers for note in said.notes)
    strongest = {name: _evidence(answers, name) for name in TUMORS}
    runs = {name: _longest_run(answers, name) for name in TUMORS}
    return VolumeSummary(
        volume,
        len(answers),
        {name: tuple(said.number for said in answers if said.decision == name) for name in CLASSES},
        tuple((said.number, said.reasons) for said in answers if said.decision == REFER),
        {name: found for name, found in strongest.items() if found},
        {name: run for name, run in runs.items() if run},
        tuple((before + 1, after - 1) for before, after in pairwise(sorted(counts)) if after - before > 1),
        tuple(number for number, count in counts.items() if count > 1),
        {note: tuple(said.number for said in answers if note in said.notes) for note in notes},
    )


def _evidence(answers: Sequence[SliceOutcome], name: str) -> Evidence | None:
    """Return the slice that speaks most for a class, of those decided so, else of those referred; first of equals."""
    decided = [said for said in answers if said.decision == name]
    candidates = decided or [said for said in answers if said.predicted == name and _shows_a_brain(said)]
    if not candidates:
        return None
    best = max(candidates, key=lambda said: (said.strength if said.strength >= EVIDENCE else 0.0, said.probability))
    return Evidence(best.number, best.image, best.strength, best.probability, bool(decided))


def _shows_a_brain(said: SliceOutcome) -> bool:
    """Tell whether a slice was not referred for being no usable picture of a brain; else its classes mean nothing."""
    return not any(reason.code in NO_PICTURE for reason in said.reasons)


def _longest_run(answers: Sequence[SliceOutcome], name: str) -> Range | None:
    """Return the longest run of neighbours decided as a class, see `VolumeSummary`; None without such slices."""
    runs = [[said.number for said in run] for run in _neighbours(answers) if run[0].decision == name]
    longest = max(runs, key=len, default=[])
    return (min(longest), max(longest)) if longest else None


def _neighbours(answers: Sequence[SliceOutcome]) -> Iterator[list[SliceOutcome]]:
    """Yield runs of neighbouring slices with the same decision; together they are all slices."""
    answers = in_order(answers)
    run = [answers[0]]
    for before, said in pairwise(answers):
        if said.decision != before.decision or abs(said.number - before.number) > 1:
            yield run
            run = []
        run.append(said)
    yield run


def in_order(answers: Sequence[SliceOutcome]) -> list[SliceOutcome]:
    """Return slices by position along the normal where each has one of its own, else by number."""
    positions = [said.position for said in answers if said.position is not None]
    if len(set(positions)) == len(answers):
        return sorted(answers, key=lambda said: said.position or 0.0)
    return sorted(answers, key=lambda said: said.number)


def numbered(numbers: Sequence[int]) -> str:
    """Return slice numbers in words, those that follow one another as a range: 1, 9-15."""
    unique = set(numbers)
    starts = sorted(number for number in unique if number - 1 not in unique)
    ends = sorted(number for number in unique if number + 1 not in unique)
    return ", ".join(map(_spelled, zip(starts, ends, strict=True)))


def _spelled(numbers: Range) -> str:
    first, last = numbers
    return str(first) if first == last else f"{first}-{last}"
