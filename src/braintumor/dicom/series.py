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

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from pydicom.dataset import Dataset

from braintumor.dicom.attributes import RefusalError, code, codes, numbers, place_of, values, whole
from braintumor.dicom.scope import refusal

FEW: Final = 5


@dataclass(frozen=True)
class Chosen:
    """A series of a study, and whether it is classified.

    Attributes:
        series_uid: its SeriesInstanceUID.
        wanted: whether it is classified.
        explanation: why, or why not; it holds no text of the files.
        files: what its slices' files are called: the path they were read from, else their SOPInstanceUID; of a series
            that is left out, all files.
    """

    series_uid: str
    wanted: bool
    explanation: str
    files: tuple[str, ...]


def choose(headers: Iterable[Dataset], *, best: bool = False) -> list[Chosen]:
    """Return what becomes of each series of a study, in the order in which they come.

    Args:
        headers: attributes of the files of a study, without pixels or with.
        best: take only the series that suits the models best, see the rules above.
    """
    series: dict[str, list[Dataset]] = {}
    for header in headers:
        series.setdefault(code(header, "SeriesInstanceUID"), []).append(header)
    kept = {uid: [each for each in files if refusal(each) is None] for uid, files in series.items()}
    first = min((uid for uid, files in kept.items() if files), key=lambda uid: rank(uid, kept[uid]), default=None)
    chosen = []
    for uid, files in series.items():
        slices = kept[uid]
        if not slices:
            chosen.append(Chosen(uid, False, f"left out: {refusal(files[0])}", names(files)))
        elif best and uid != first:
            said = f"left out: another series comes first; this one is {described(slices)}"
            chosen.append(Chosen(uid, False, said, names(slices)))
        else:
            why = "comes first: " if best else ""
            chosen.append(Chosen(uid, True, f"{why}{described(slices)}{others(files, slices)}", names(slices)))
    return chosen


def rank(uid: str, slices: list[Dataset]) -> tuple[object, ...]:
    """Return what sorts series, the best one first."""
    count = slice_count(slices)
    number = numbered(slices[0])
    return count < FEW, CONTRASTS.index(contrast(slices[0])), not is_axial(slices[0]), -count, number, uid


def numbered(header: Dataset) -> int:
    """Return SeriesNumber, the largest number where it is not known."""
    try:
        return whole(header, "SeriesNumber", UNNUMBERED)
    except RefusalError:
        return UNNUMBERED


UNNUMBERED: Final = 2**31


def slice_count(slices: list[Dataset]) -> int:
    """Return how many slices files hold, frames counted."""
    return sum(max(1, frame_count(each)) for each in slices)


def frame_count(header: Dataset) -> int:
    """Return NumberOfFrames, 1 where it is not known."""
    try:
        return whole(header, "NumberOfFrames", 1)
    except RefusalError:
        return 1


POST_CONTRAST: Final = "T1 with contrast agent"
CONTRASTS: Final = (POST_CONTRAST, "T1", "T2 or FLAIR", "unknown contrast")
AGENT_WORDS: Final = frozenset(("GD", "GAD", "GADO", "POST", "CONTRAST", "CE", "KM", "GADOLINIUM", "POSTCONTRAST"))
WITHOUT_WORDS: Final = frozenset(("PRE", "WITHOUT", "NATIVE", "NATIV", "PRECONTRAST"))
T1_WORDS: Final = frozenset(("T1", "T1W", "MPRAGE", "SPGR", "FSPGR", "BRAVO", "VIBE", "TFE"))
T2_WORDS: Final = frozenset(("T2", "T2W", "FLAIR", "TIRM", "DARKFLUID"))


def contrast(header: Dataset) -> str:
    """Return which of `CONTRASTS` a slice has, by its attributes, its description, or its echo and repetition time."""
    words = set(
        re.split(r"[^A-Z0-9]+", " ".join((*codes(header, "SeriesDescription"), *codes(header, "ProtocolName"))))
    )
    stated = code(header, "AcquisitionContrast")
    if stated in ("T2", "FLUID_ATTENUATED", "STIR") or words & T2_WORDS:
        return "T2 or FLAIR"
    if stated == "T1" or words & T1_WORDS or is_short(header):
        return POST_CONTRAST if has_agent(header, words) else "T1"
    return "T2 or FLAIR" if is_long(header) else "unknown contrast"


def has_agent(header: Dataset, words: set[str]) -> bool:
    """Tell whether a slice was taken after a contrast agent, as far as its attributes and description say."""
    if words & WITHOUT_WORDS:
        return False
    agents = codes(header, "ContrastBolusAgent")
    given = any(agent not in ("", "NO", "NONE", "N") for agent in agents) or bool(
        values(header, "ContrastBolusAgentSequence")
    )
    return given or bool(words & AGENT_WORDS)


def is_short(header: Dataset) -> bool:
    """Tell whether echo and repetition time are those of T1: at most 30 and 1,000 ms."""
    echo, repetition = times(header)
    return echo is not None and repetition is not None and echo <= 30 and repetition <= 1_000


def is_long(header: Dataset) -> bool:
    """Tell whether echo and repetition time are those of T2 or FLAIR: at least 70 and 1,500 ms."""
    echo, repetition = times(header)
    return echo is not None and repetition is not None and echo >= 70 and repetition >= 1_500


def times(header: Dataset) -> tuple[float | None, float | None]:
    """Return echo and repetition time in milliseconds, None where the file does not say."""
    found: list[float | None] = []
    for keyword in ("EchoTime", "RepetitionTime"):
        try:
            found.append(next(iter(numbers(header, keyword)), None))
        except RefusalError:
            found.append(None)
    return found[0], found[1]


def is_axial(header: Dataset) -> bool:
    """Tell whether the slice's normal is nearer to the body's length than to its other axes (PS3.3 C.7.6.2.1.1)."""
    place = place_of(header, 1, "PlaneOrientationSequence", "ImageOrientationPatient")
    try:
        directions = numbers(place, "ImageOrientationPatient")
    except RefusalError:
        return False
    if len(directions) != 6:
        return False
    (a, b, c), (d, e, f) = directions[:3], directions[3:]
    normal = [abs(b * f - c * e), abs(c * d - a * f), abs(a * e - b * d)]
    return normal[2] == max(normal)


def described(slices: list[Dataset]) -> str:
    """Return contrast, plane and number of slices in words."""
    count = slice_count(slices)
    plane = "axial" if is_axial(slices[0]) else "not axial"
    return f"{contrast(slices[0])}, {plane}, {count} slice{'s' * (count != 1)}"


def others(files: list[Dataset], slices: list[Dataset]) -> str:
    """Return how many files of a series are left out though others are classified."""
    left = len(files) - len(slices)
    return f"; {left} file{'s' * (left != 1)} left out as no slices of the head in MR" if left else ""


def names(files: list[Dataset]) -> tuple[str, ...]:
    """Return what files are called."""
    return tuple(str(getattr(each, "filename", None) or code(each, "SOPInstanceUID")) for each in files)
