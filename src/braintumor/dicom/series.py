"""Which series of a study are classified, by written rules, and why each one is or is not.

1. A series is left out if none of its files is a slice of the head in MR; the reason is that of its first file, see
   `scope`.
2. All others are classified, each on its own, unless the best one alone is asked for. Then the order is:
   a. series of at least five slices before smaller ones,
   b. T1 with contrast agent, then T1, then T2 or FLAIR, then unknown,
   c. axial, then any other plane,
   d. more slices,
   e. the smaller SeriesNumber, then the smaller UID.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from pydicom.dataset import Dataset

from braintumor.dicom.attributes import code, codes, functional_group_of, integer_or, numbers, values
from braintumor.dicom.eligibility import ineligibility
from braintumor.errors import DicomRefusalError

FEW: Final = 5
UNNUMBERED: Final = 2**31
POST_CONTRAST: Final = "T1 with contrast agent"
CONTRASTS: Final = (POST_CONTRAST, "T1", "T2 or FLAIR", "unknown contrast")
AGENT_WORDS: Final = frozenset(("GD", "GAD", "GADO", "POST", "CONTRAST", "CE", "KM", "GADOLINIUM", "POSTCONTRAST"))
WITHOUT_WORDS: Final = frozenset(("PRE", "WITHOUT", "NATIVE", "NATIV", "PRECONTRAST"))
T1_WORDS: Final = frozenset(("T1", "T1W", "MPRAGE", "SPGR", "FSPGR", "BRAVO", "VIBE", "TFE"))
T2_WORDS: Final = frozenset(("T2", "T2W", "FLAIR", "TIRM", "DARKFLUID"))


@dataclass(frozen=True)
class File:
    """What is to be known about a file to choose series; holds no text of it but UIDs.

    Attributes:
        name: what the file is called.
        series_uid: its SeriesInstanceUID.
        volume: what its series is called, see `volume_of`.
        refusal: why it is no slice of the head in MR, None if it is one.
        slices: frames, 1 for a single image.
        contrast: one of `CONTRASTS`.
        is_axial: whether its plane is.
        number: SeriesNumber.
    """

    name: str
    series_uid: str
    volume: str
    refusal: str | None
    slices: int
    contrast: str
    is_axial: bool
    number: int


def described(header: Dataset, name: str) -> File:
    """Return what is to be known about a file, from its attributes."""
    return File(
        name,
        code(header, "SeriesInstanceUID"),
        volume_of(header, name),
        ineligibility(header),
        max(1, integer_or(header, "NumberOfFrames", 1)),
        contrast(header),
        _is_axial(header),
        integer_or(header, "SeriesNumber", UNNUMBERED),
    )


@dataclass(frozen=True)
class Chosen:
    """A series of a study, and whether it is classified.

    Attributes:
        volume: what it is called.
        wanted: whether it is classified.
        explanation: why, or why not; it holds no text of the files.
        files: names of its slices' files; of a series that is left out, of all files.
    """

    volume: str
    wanted: bool
    explanation: str
    files: tuple[str, ...]


def choose(files: Iterable[File], *, best: bool = False) -> list[Chosen]:
    """Return what becomes of each series of a study, in the order in which they come.

    Args:
        files: of a study.
        best: take only the series that suits the models best, see the rules above.
    """
    series: dict[str, list[File]] = {}
    for file in files:
        series.setdefault(file.volume, []).append(file)
    kept = {volume: [each for each in files if each.refusal is None] for volume, files in series.items()}
    first = min((volume for volume, files in kept.items() if files), key=lambda each: _rank(kept[each]), default=None)
    chosen = []
    for volume, every in series.items():
        slices = kept[volume]
        if not slices:
            chosen.append(Chosen(volume, False, f"left out: {every[0].refusal}", _names(every)))
        elif best and volume != first:
            said = f"left out: another series comes first; this one is {_summary(slices)}"
            chosen.append(Chosen(volume, False, said, _names(slices)))
        else:
            why = "comes first: " if best else ""
            chosen.append(Chosen(volume, True, f"{why}{_summary(slices)}{_others(every, slices)}", _names(slices)))
    return chosen


def volume_of(header: Dataset, name: str) -> str:
    """Return what the slices of a file's series share; the file's name where it names no series.

    Files without a series may be of different patients: each stands for itself.
    """
    study, series = (code(header, keyword) for keyword in ("StudyInstanceUID", "SeriesInstanceUID"))
    return series_code(study, series) if series else name


def series_code(study: str, series: str) -> str:
    """Return what a series is called in results: a code made from its UID and its study's, which it does not tell.

    Copies of a series in two studies, perhaps of different patients, are not taken for one.
    """
    return f"series {hashlib.blake2b(f'{study}/{series}'.encode(), digest_size=4).hexdigest()}"


def _rank(slices: list[File]) -> tuple[object, ...]:
    """Return what sorts series, the best one first."""
    first, count = slices[0], sum(each.slices for each in slices)
    return count < FEW, CONTRASTS.index(first.contrast), not first.is_axial, -count, first.number, first.series_uid


def contrast(header: Dataset) -> str:
    """Return which of `CONTRASTS` a slice has, by its attributes, its description, or its echo and repetition time."""
    words = set(
        re.split(r"[^A-Z0-9]+", " ".join((*codes(header, "SeriesDescription"), *codes(header, "ProtocolName"))))
    )
    stated = code(header, "AcquisitionContrast")
    if stated in ("T2", "FLUID_ATTENUATED", "STIR") or words & T2_WORDS:
        return "T2 or FLAIR"
    if stated == "T1" or words & T1_WORDS or _is_short(header):
        return POST_CONTRAST if _has_agent(header, words) else "T1"
    return "T2 or FLAIR" if _is_long(header) else "unknown contrast"


def _has_agent(header: Dataset, words: set[str]) -> bool:
    """Tell whether a slice was taken after a contrast agent, as far as its attributes and description say."""
    if words & WITHOUT_WORDS:
        return False
    agents = codes(header, "ContrastBolusAgent")
    given = any(agent not in ("", "NO", "NONE", "N") for agent in agents) or bool(
        values(header, "ContrastBolusAgentSequence")
    )
    return given or bool(words & AGENT_WORDS)


def _is_short(header: Dataset) -> bool:
    """Tell whether echo and repetition time are those of T1: at most 30 and 1,000 ms."""
    echo, repetition = _times(header)
    return echo is not None and repetition is not None and echo <= 30 and repetition <= 1_000


def _is_long(header: Dataset) -> bool:
    """Tell whether echo and repetition time are those of T2 or FLAIR: at least 70 and 1,500 ms."""
    echo, repetition = _times(header)
    return echo is not None and repetition is not None and echo >= 70 and repetition >= 1_500


def _times(header: Dataset) -> tuple[float | None, float | None]:
    """Return echo and repetition time in milliseconds, None where the file does not say."""
    found: list[float | None] = []
    for keyword in ("EchoTime", "RepetitionTime"):
        try:
            found.append(next(iter(numbers(header, keyword)), None))
        except DicomRefusalError:
            found.append(None)
    return found[0], found[1]


def _is_axial(header: Dataset) -> bool:
    """Tell whether the slice's normal is nearer to the body's length than to its other axes (PS3.3 C.7.6.2.1.1)."""
    place = functional_group_of(header, 1, "PlaneOrientationSequence", "ImageOrientationPatient")
    try:
        directions = numbers(place, "ImageOrientationPatient")
    except DicomRefusalError:
        return False
    if len(directions) != 6:
        return False
    (a, b, c), (d, e, f) = directions[:3], directions[3:]
    normal = [abs(b * f - c * e), abs(c * d - a * f), abs(a * e - b * d)]
    return normal[2] == max(normal)


def _summary(slices: list[File]) -> str:
    """Return contrast, plane and number of slices in words."""
    count = sum(each.slices for each in slices)
    plane = "axial" if slices[0].is_axial else "not axial"
    return f"{slices[0].contrast}, {plane}, {count} slice{'s' * (count != 1)}"


def _others(files: list[File], slices: list[File]) -> str:
    """Return how many files of a series are left out though others are classified."""
    left = len(files) - len(slices)
    return f"; {left} file{'s' * (left != 1)} left out as no slices of the head in MR" if left else ""


def _names(files: list[File]) -> tuple[str, ...]:
    return tuple(each.name for each in files)
