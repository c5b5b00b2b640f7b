"""Decide by its header whether a DICOM file is an MR slice of the head, the only kind that the models know.

The rules are tried in order; the first that holds gives the reason, which names the attribute but never its text.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pydicom.dataset import Dataset

from braintumor.dicom.attributes import code, codes, items, numbers, shared_functional_group
from braintumor.dicom.codes import MANUFACTURER

SECONDARY_CAPTURE: Final = "1.2.840.10008.5.1.4.1.1.7"
CAPTURED: Final = ("", "OT", "SC")
"""Modalities that a Secondary Capture may have besides MR."""

# The tables below are easier to read with several words a line than with one.
# fmt: off
MODALITIES: Final = {
    "CR": "a radiograph", "DX": "a radiograph", "RF": "fluoroscopy", "XA": "an angiogram", "MG": "a mammogram",
    "CT": "computed tomography", "PT": "positron emission tomography", "NM": "nuclear medicine",
    "US": "ultrasound", "OT": "another kind of image", "SC": "a screenshot", "ES": "endoscopy", "ECG": "a waveform",
    "SR": "a report", "DOC": "a document", "KO": "a selection of images", "PR": "a presentation state",
    "SEG": "a segmentation", "REG": "a registration", "RWV": "a table of values", "RTSTRUCT": "outlines",
    "RTDOSE": "a dose", "RTPLAN": "a treatment plan", "RTIMAGE": "a treatment image", "SM": "microscopy",
}
NO_SLICES: Final = {
    "1.2.840.10008.5.1.4.1.1.4.2": "spectroscopy",
    "1.2.840.10008.5.1.4.1.1.11": "a presentation state",
    "1.2.840.10008.5.1.4.1.1.30": "a parametric map",
    "1.2.840.10008.5.1.4.1.1.66": "raw data, a segmentation or a registration",
    "1.2.840.10008.5.1.4.1.1.67": "a table of values",
    "1.2.840.10008.5.1.4.1.1.68": "a surface",
    "1.2.840.10008.5.1.4.1.1.88": "a report or a selection of images",
    "1.2.840.10008.5.1.4.1.1.9": "a waveform",
    "1.2.840.10008.5.1.4.1.1.104": "a document",
    "1.2.840.10008.5.1.4.1.1.481": "a radiotherapy plan, dose, image or outline",
}
"""SOP classes that hold no slice (PS3.4 B.5): each UID stands for itself and for all that go on with a full stop."""
LOCALIZERS: Final = frozenset({"LOCALIZER", "LOCALISER", "SCOUT", "SURVEY"})
# Values of Image Type: P, R and I are phase, real and imaginary part, PBP is percentage of baseline at peak.
MAPS: Final = frozenset({
    "ADC", "EADC", "FA", "TRACE", "TRACEW", "DIFFUSION", "DWI", "TENSOR", "ISOTROPIC", "EXPONENTIAL",
    "PERFUSION", "ASL", "CBF", "CBV", "RCBF", "RCBV", "RELCBF", "RELCBV", "MTT", "TTP", "TMAX", "PBP", "DSC",
    "P", "PHASE", "VELOCITY", "R", "I", "REAL", "IMAGINARY", "FMRI", "BOLD", "SPECTRO", "SPECTROSCOPY",
    "MAP", "T1MAP", "T2MAP", "METABOLITE", "STIFFNESS", "FIELDMAP", "SWI", "QSM", "MOSAIC", "SUB", "SUBTRACT",
    "SUBTRACTION", "ANGIO", "TOF",
})
PROJECTIONS: Final = frozenset({
    "MPR", "MIP", "MINIP", "MNIP", "PROJECTION", "MAX IP", "MIN IP",
    "MAX_IP", "MIN_IP", "VRT", "3D_RENDERING", "CPR", "REFORMATTED",
})
DESCRIPTIONS: Final = ("SeriesDescription", "ProtocolName")
# Words of free text. Letters that stand alone are not among them: "t2_tse_p2" is no phase image.
LOCALIZER_WORDS: Final = LOCALIZERS | {"LOC", "SCOUTS", "LOCALIZERS", "AAHSCOUT", "AAHEAD", "CALIBRATION"}
MAP_WORDS: Final = frozenset({
    "ADC", "EADC", "TRACE", "TRACEW", "DIFFUSION", "DIFF", "DWI", "DTI", "TENSOR",
    "PERFUSION", "PERF", "ASL", "CBF", "CBV", "RCBF", "RCBV", "MTT", "TTP", "TMAX", "DSC", "DCE",
    "PHASE", "FMRI", "BOLD", "SPECTROSCOPY", "MRS", "FIELDMAP", "SWI", "QSM", "SUBTRACTION", "TOF", "MRA", "MRV",
    "ANGIO", "ANGIOGRAPHY", "MIP", "MINIP",
})
HEAD: Final = frozenset({
    "HEAD", "BRAIN", "SKULL", "HEADNECK", "HEAD NECK", "HEAD_NECK", "CRANIUM", "CEREBRUM", "NEURO", "PITUITARY",
    "SELLA", "SELLATURCICA", "SELLA TURCICA", "IAC", "ORBIT", "POSTERIORFOSSA", "TEMPORALLOBE", "WHOLEHEAD",
})
HEAD_WORDS: Final = HEAD | {"CRANIAL", "CEREBRAL", "INTRACRANIAL", "HYPOPHYSIS", "KOPF", "SCHAEDEL", "HIRN", "CEREBRO"}
# HWS, BWS and LWS are German for cervical, thoracic and lumbar spine.
ELSEWHERE: Final = frozenset({
    "ABDOMEN", "ABDOMENPELVIS", "ADRENAL", "ANKLE", "AORTA", "ARM", "BLADDER", "BREAST", "CALF", "CARDIAC",
    "CHEST", "CLAVICLE", "COCCYX", "CSPINE", "CTSPINE", "ELBOW", "EXTREMITY", "FEMUR", "FINGER", "FOOT",
    "FOREARM", "HAND", "HEART", "HIP", "HUMERUS", "KIDNEY", "KNEE", "LEG", "LIVER", "LOWERLEG", "LSPINE",
    "LSSPINE", "LUMBAR", "LUNG", "NECK", "PANCREAS", "PELVIS", "PROSTATE", "RIB", "SACRUM", "SHOULDER", "SPINE",
    "SPLEEN", "SSPINE", "STERNUM", "THIGH", "THORAX", "THORACIC", "THUMB", "TOE", "TSPINE", "TLSPINE",
    "UPPERARM", "UTERUS", "WHOLEBODY", "WRIST", "CERVICAL", "RENAL", "RECTUM", "SPINAL",
    "CERV", "HWS", "BWS", "LWS", "MYELON", "RACHIS", "COLUMNA", "COLUMN", "WIRBELSAEULE",
})
# fmt: on


@dataclass(frozen=True)
class Rule:
    """A kind of file that is not classified.

    Attributes:
        name: one or two words, as in the documentation.
        holds: tells by the header whether a file is of this kind.
        reason: returns the reason for people; it must not hold text of the file.
    """

    name: str
    holds: Callable[[Dataset], bool]
    reason: Callable[[Dataset], str]


def ineligibility(header: Dataset) -> str | None:
    """Return why an image is not classified, None where it is; the reason holds nothing particular to a patient.

    Raises:
        DicomRefusalError: an attribute that decides is damaged.
    """
    return next((rule.reason(header) for rule in RULES if rule.holds(header)), None)


def notes(header: Dataset) -> tuple[str, ...]:
    """Return notes on an image that is classified, for readers of the answer."""
    texts = []
    if code(header, "BurnedInAnnotation") == "YES":
        texts.append("BurnedInAnnotation is YES: text in the picture may mislead the model")
    region = code(header, "BodyPartExamined")
    if region and region not in HEAD:
        texts.append("BodyPartExamined is not recognised; the head is assumed")
    return tuple(texts)


def _is_capture(header: Dataset) -> bool:
    """Tell whether an image is a Secondary Capture of any kind."""
    kind = code(header, "SOPClassUID")
    return kind == SECONDARY_CAPTURE or kind.startswith(f"{SECONDARY_CAPTURE}.")


def _is_ours(header: Dataset) -> bool:
    makers = [header, *items(header, "ContributingEquipmentSequence")]
    return any(MANUFACTURER.upper() in codes(maker, "Manufacturer") for maker in makers)


def _is_other_modality(header: Dataset) -> bool:
    """Tell whether an object is of another modality than MR; a Secondary Capture may have none."""
    modality = code(header, "Modality")
    return modality != "MR" and not (_is_capture(header) and modality in CAPTURED)


def _other_modality(header: Dataset) -> str:
    """Return the reason for refusing a modality."""
    modality = code(header, "Modality")
    if not modality:
        return "Modality is missing; only MR slices of the head are classified"
    # Only a modality of our table is repeated: the attribute may hold any text.
    statement = f"Modality is {modality}, {MODALITIES[modality]}" if modality in MODALITIES else "Modality is not MR"
    return f"{statement}; only MR slices of the head are classified"


def _no_slice(header: Dataset) -> str | None:
    """Return the description of an object that holds no slice, None for an image."""
    kind = code(header, "SOPClassUID")
    for uid, description in NO_SLICES.items():
        if kind == uid or kind.startswith(f"{uid}."):
            return description
    return None


def _image_types(header: Dataset) -> set[str]:
    """Return the values of Image Type, and of Frame Type of all frames, from the third on (PS3.3 C.7.6.1.1.2).

    Values such as "PHASE MAP" or "T1_MAP" are returned whole and in their words. The first two values say ORIGINAL or
    DERIVED and PRIMARY or SECONDARY, which decides nothing here.
    """
    types = set(codes(header, "ImageType")[2:])
    for frame_type in shared_functional_group(header, "MRImageFrameTypeSequence"):
        types.update(codes(frame_type, "FrameType")[2:])
    return {part for value in types for part in (value, *re.split(r"[\s_]+", value))}


def _description(header: Dataset) -> str:
    """Return the series' own description, in capitals; where it has none, the name of the protocol.

    Scanners of some makers give all series of an examination the same protocol name, so that it may describe others.
    """
    texts = (" ".join(codes(header, keyword)).strip() for keyword in DESCRIPTIONS)
    return next(filter(None, texts), "")


def _says(text: str, words: frozenset[str]) -> bool:
    """Tell whether a text in capitals holds one of the words; anything but letters separates words."""
    return not words.isdisjoint(re.split(r"[^A-Z]+", text))


def _is_elsewhere(header: Dataset) -> bool:
    """Tell whether an image shows another region than the head.

    The series' own description decides if it names a region, then Body Part Examined, then protocol and study together:
    an examination of brain and spine has series of both. A text that names the head and another region means the head.
    """
    description, region = _description(header), code(header, "BodyPartExamined")
    if _says(description, HEAD_WORDS) or _says(description, ELSEWHERE):
        return not _says(description, HEAD_WORDS)
    if region in HEAD or region in ELSEWHERE:
        return region in ELSEWHERE
    examination = " ".join(" ".join(codes(header, keyword)) for keyword in ("ProtocolName", "StudyDescription"))
    return _says(examination, ELSEWHERE) and not _says(examination, HEAD_WORDS)


def _is_diffusion_weighted(header: Dataset) -> bool:
    """Tell whether the image is diffusion-weighted, with a b-value above 0 (PS3.3 C.8.13.5.9)."""
    holders = [header, *shared_functional_group(header, "MRDiffusionSequence")]
    return any(value > 0 for holder in holders for value in numbers(holder, "DiffusionBValue"))


def _always(reason: str) -> Callable[[Dataset], str]:
    return lambda _header: reason


RULES: Final = (
    Rule("own", _is_ours, _always("a result of braintumor itself (Manufacturer); classify the original image")),
    Rule(
        "object",
        lambda header: _no_slice(header) is not None,
        lambda header: f"SOPClassUID is that of {_no_slice(header)}; only MR slices of the head are classified",
    ),
    Rule("modality", _is_other_modality, _other_modality),
    Rule(
        "localizer",
        lambda header: not LOCALIZERS.isdisjoint(_image_types(header)),
        _always("a localizer (ImageType); only diagnostic slices are classified"),
    ),
    Rule(
        "map",
        lambda header: not MAPS.isdisjoint(_image_types(header)) and not _is_capture(header),
        _always(
            "a map or a derived image (ImageType: diffusion, perfusion, phase, …); only plain slices are classified"
        ),
    ),
    Rule(
        "projection",
        lambda header: not PROJECTIONS.isdisjoint(_image_types(header)) and not _is_capture(header),
        _always("a reformatted or projected image (ImageType); only slices as acquired are classified"),
    ),
    Rule(
        "diffusion",
        _is_diffusion_weighted,
        _always("diffusion-weighted (DiffusionBValue is not 0); only plain slices are classified"),
    ),
    Rule(
        "described localizer",
        lambda header: _says(_description(header), LOCALIZER_WORDS),
        _always("a localizer (SeriesDescription or ProtocolName); only diagnostic slices are classified"),
    ),
    Rule(
        "described map",
        lambda header: _says(_description(header), MAP_WORDS),
        _always(
            "a map or a special technique (SeriesDescription or ProtocolName: diffusion, perfusion, angiography, …); "
            "only plain slices are classified"
        ),
    ),
    Rule(
        "region",
        _is_elsewhere,
        _always(
            "another part of the body (BodyPartExamined, or a description); only MR slices of the head are classified"
        ),
    ),
    Rule(
        "colour",
        lambda header: (
            not code(header, "PhotometricInterpretation").startswith("MONOCHROME")
            and "PhotometricInterpretation" in header
            and not _is_capture(header)
        ),
        _always("a colour image (PhotometricInterpretation); colour is read from Secondary Captures only"),
    ),
)
"""All rules, in the order in which they are tried."""
