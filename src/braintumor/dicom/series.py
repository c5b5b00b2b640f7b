"""Choose the series of a study to classify, by written rules, and explain each choice.

1. A series is left out if none of its files is an MR slice of the head; the reason is that of its first file, see
   `eligibility`.
2. All others are classified, each on its own, unless only the best one is asked for. Then the order is:
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
UNNUMBERED: Final = 2**31  # beyond any SeriesNumber, so that series without one come last
POST_CONTRAST: Final = "T1 with contrast agent"
CONTRASTS: Final = (POST_CONTRAST, "T1", "T2 or FLAIR", "unknown contrast")  # the best first, see `_rank`
# Words of Series Description and Protocol Name, also German ones: KM is Kontrastmittel
AGENT_WORDS: Final = frozenset(("GD", "GAD", "GADO", "POST", "CONTRAST", "CE", "KM", "GADOLINIUM", "POSTCONTRAST"))
WITHOUT_WORDS: Final = frozenset(("PRE", "WITHOUT", "NATIVE", "NATIV", "PRECONTRAST"))
T1_WORDS: Final = frozenset(("T1", "T1W", "MPRAGE", "SPGR", "FSPGR", "BRAVO", "VIBE", "TFE"))
T2_WORDS: Final = frozenset(("T2", "T2W", "FLAIR", "TIRM", "DARKFLUID"))


@dataclass(frozen=True)
class File:
    """Description of a file from which series are chosen; it holds no text of the file but UIDs.

    Attributes:
        name: name of the file.
        series_uid: SeriesInstanceUID.
        volume: name of its series, see `volume_of`.
        refusal: why it is not an MR slice of the head, None if it is one.
        slices: number of frames, 1 for a single image.
        contrast: one of `CONTRASTS`.
        is_axial: whether its plane is axial.
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
    """Return the description of a file, from its attributes."""
    return File(
        name=name,
        series_uid=code(header, "SeriesInstanceUID"),
        volume=volume_of(header, name),
        refusal=ineligibility(header),
        slices=max(1, integer_or(header, "NumberOfFrames", 1)),
        contrast=contrast(header),
        is_axial=_is_axial(header),
        number=integer_or(header, "SeriesNumber", UNNUMBERED),
    )


@dataclass(frozen=True)
class Chosen:
    """A series of a study, and whether it is classified.

    Attributes:
        volume: name of the series, see `volume_of`.
        wanted: whether it is classified.
        explanation: why, or why not; it holds no text of the files.
        files: names of the files with its slices; of a series that is left out, of all its files.
    """

    volume: str
    wanted: bool
    explanation: str
    files: tuple[str, ...]


def choose(files: Iterable[File], *, best: bool = False) -> list[Chosen]:
    """Return every series of a study with the choice about it, in the order of their first files.

    Args:
        files: the files of a study.
        best: choose only the series that suits the models best, see the rules above.
    """
    series: dict[str, list[File]] = {}
    for file in files:
        series.setdefault(file.volume, []).append(file)
    eligible = {volume: [file for file in members if file.refusal is None] for volume, members in series.items()}
    candidates = [volume for volume, slices in eligible.items() if slices]
    first = min(candidates, key=lambda volume: _rank(eligible[volume]), default=None)
    chosen = []
    for volume, members in series.items():
        slices = eligible[volume]
        if not slices:
            chosen.append(Chosen(volume, False, f"left out: {members[0].refusal}", _names(members)))
        elif best and volume != first:
            explanation = f"left out: another series comes first; this one is {_summary(slices)}"
            chosen.append(Chosen(volume, False, explanation, _names(slices)))
        else:
            rank = "comes first: " if best else ""
            explanation = f"{rank}{_summary(slices)}{_left_out(len(members) - len(slices))}"
            chosen.append(Chosen(volume, True, explanation, _names(slices)))
    return chosen


def volume_of(header: Dataset, name: str) -> str:
    """Return the name of the volume that a file belongs to: the code of its series, or the file's name without one.

    Files without a series may be of different patients, so each is a volume of its own.
    """
    study, series = (code(header, keyword) for keyword in ("StudyInstanceUID", "SeriesInstanceUID"))
    return series_code(study, series) if series else name


def series_code(study: str, series: str) -> str:
    """Return the name of a series in results: a code made from its UID and its study's, which does not reveal them.

    The study counts, since copies of a series in two studies may belong to different patients.
    """
    return f"series {hashlib.blake2b(f'{study}/{series}'.encode(), digest_size=4).hexdigest()}"


def _rank(slices: list[File]) -> tuple[object, ...]:
    """Return the sort key of a series; the best series has the smallest. The first file speaks for all."""
    first, count = slices[0], sum(file.slices for file in slices)
    return count < FEW, CONTRASTS.index(first.contrast), not first.is_axial, -count, first.number, first.series_uid


def contrast(header: Dataset) -> str:
    """Return the one of `CONTRASTS` that a slice has, by its attributes, description, or echo and repetition time."""
    words = set(
        re.split(r"[^A-Z0-9]+", " ".join((*codes(header, "SeriesDescription"), *codes(header, "ProtocolName"))))
    )
    stated = code(header, "AcquisitionContrast")
    # The order decides where a description has words of both: "T1 FLAIR" counts as FLAIR.
    if stated in ("T2", "FLUID_ATTENUATED", "STIR") or words & T2_WORDS:
        return "T2 or FLAIR"
    if stated == "T1" or words & T1_WORDS or _is_short(header):
        return POST_CONTRAST if _has_agent(header, words) else "T1"
    return "T2 or FLAIR" if _is_long(header) else "unknown contrast"


def _has_agent(header: Dataset, words: set[str]) -> bool:
    """Tell whether a slice was acquired after a contrast agent, as far as its attributes and description say."""
    # "pre contrast" holds a word for an agent, and the attribute may be set for all series of an examination.
    if words & WITHOUT_WORDS:
        return False
    agents = codes(header, "ContrastBolusAgent")
    is_given = any(agent not in ("", "NO", "NONE", "N") for agent in agents) or bool(
        values(header, "ContrastBolusAgentSequence")
    )
    return is_given or bool(words & AGENT_WORDS)


def _is_short(header: Dataset) -> bool:
    """Tell whether echo and repetition time are typical of T1: at most 30 and 1,000 ms."""
    echo, repetition = _times(header)
    return echo is not None and repetition is not None and echo <= 30 and repetition <= 1_000


def _is_long(header: Dataset) -> bool:
    """Tell whether echo and repetition time are typical of T2 or FLAIR: at least 70 and 1,500 ms."""
    echo, repetition = _times(header)
    return echo is not None and repetition is not None and echo >= 70 and repetition >= 1_500


def _times(header: Dataset) -> tuple[float | None, float | None]:
    """Return echo and repetition time in milliseconds, None where the file does not say."""
    return _first_number(header, "EchoTime"), _first_number(header, "RepetitionTime")


def _first_number(header: Dataset, keyword: str) -> float | None:
    """Return the first value of an attribute, None where it is absent or damaged."""
    try:
        return next(iter(numbers(header, keyword)), None)
    except DicomRefusalError:
        return None


def _is_axial(header: Dataset) -> bool:
    """Tell whether the slice's normal is closest to the head-foot axis (PS3.3 C.7.6.2.1.1)."""
    holder = functional_group_of(header, 1, "PlaneOrientationSequence", "ImageOrientationPatient")
    try:
        directions = numbers(holder, "ImageOrientationPatient")
    except DicomRefusalError:
        return False
    if len(directions) != 6:
        return False
    # The cross product of both directions, its components without their signs: left-right, front-back, head-foot
    (a, b, c), (d, e, f) = directions[:3], directions[3:]
    normal = [abs(b * f - c * e), abs(c * d - a * f), abs(a * e - b * d)]
    return normal[2] == max(normal)


def _summary(slices: list[File]) -> str:
    """Return contrast, plane and number of slices in words."""
    count = sum(file.slices for file in slices)
    plane = "axial" if slices[0].is_axial else "not axial"
    return f"{slices[0].contrast}, {plane}, {count} {'slice' if count == 1 else 'slices'}"


def _left_out(count: int) -> str:
    """Return the words for the files of a series that are left out though others are classified."""
    if not count:
        return ""
    if count == 1:
        return "; 1 file left out: not an MR slice of the head"
    return f"; {count} files left out: not MR slices of the head"


def _names(files: list[File]) -> tuple[str, ...]:
    return tuple(file.name for file in files)
