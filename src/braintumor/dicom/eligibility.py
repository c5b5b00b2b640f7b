"""Which DICOM files are slices of the head in MR, as this package's models know them, and why others are not.

The rules are tried in order; the first that holds is the reason. They name the attribute that decides, never its text.
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
MODALITIES: Final = {
    **{"CR": "a radiograph", "DX": "a radiograph", "RF": "fluoroscopy", "XA": "an angiogram", "MG": "a mammogram"},
    **{"CT": "computed tomography", "PT": "positron emission tomography", "NM": "nuclear medicine"},
    **{"US": "ultrasound", "OT": "of another kind", "SC": "a screenshot", "ES": "endoscopy", "ECG": "a curve"},
    **{"SR": "a report", "DOC": "a document", "KO": "a selection of images", "PR": "a presentation state"},
    **{"SEG": "a segmentation", "REG": "a registration", "RWV": "a table of values", "RTSTRUCT": "outlines"},
    **{"RTDOSE": "a dose", "RTPLAN": "a plan of treatment", "RTIMAGE": "an image of treatment", "SM": "microscopy"},
}
NO_SLICES: Final = {
    "1.2.840.10008.5.1.4.1.1.4.2": "spectroscopy",
    "1.2.840.10008.5.1.4.1.1.11": "a presentation state",
    "1.2.840.10008.5.1.4.1.1.30": "a parametric map",
    "1.2.840.10008.5.1.4.1.1.66": "raw data, a segmentation or a registration",
    "1.2.840.10008.5.1.4.1.1.67": "a table of values",
    "1.2.840.10008.5.1.4.1.1.68": "a surface",
    "1.2.840.10008.5.1.4.1.1.88": "a report or a selection of images",
    "1.2.840.10008.5.1.4.1.1.9": "a curve",
    "1.2.840.10008.5.1.4.1.1.104": "a document",
    "1.2.840.10008.5.1.4.1.1.481": "a plan, dose, image or outline of radiotherapy",
}
"""Classes of objects, by what their UID is or starts with before a full stop, that hold no slice (PS3.4 B.5)."""
LOCALIZERS: Final = frozenset({"LOCALIZER", "LOCALISER", "SCOUT", "SURVEY"})
MAPS: Final = frozenset(
    (
        *("ADC", "EADC", "FA", "TRACE", "TRACEW", "DIFFUSION", "DWI", "TENSOR", "ISOTROPIC", "EXPONENTIAL"),
        *("PERFUSION", "ASL", "CBF", "CBV", "RCBF", "RCBV", "RELCBF", "RELCBV", "MTT", "TTP", "TMAX", "PBP", "DSC"),
        *("P", "PHASE", "VELOCITY", "R", "I", "REAL", "IMAGINARY", "FMRI", "BOLD", "SPECTRO", "SPECTROSCOPY"),
        *("MAP", "T1MAP", "T2MAP", "METABOLITE", "STIFFNESS", "FIELDMAP", "SWI", "QSM", "MOSAIC", "SUB", "SUBTRACT"),
        *("SUBTRACTION", "ANGIO", "TOF"),
    )
)
PROJECTIONS: Final = frozenset(
    (
        "MPR",
        "MIP",
        "MINIP",
        "MNIP",
        "PROJECTION",
        "MAX IP",
        "MIN IP",
        "MAX_IP",
        "MIN_IP",
        "VRT",
        "3D_RENDERING",
        "CPR",
        "REFORMATTED",
    )
)
DESCRIPTIONS: Final = ("SeriesDescription", "ProtocolName")
LOCALIZER_WORDS: Final = LOCALIZERS | {"LOC", "SCOUTS", "LOCALIZERS", "AAHSCOUT", "AAHEAD", "CALIBRATION"}
MAP_WORDS: Final = frozenset(
    (
        *("ADC", "EADC", "TRACE", "TRACEW", "DIFFUSION", "DIFF", "DWI", "DTI", "TENSOR"),
        *("PERFUSION", "PERF", "ASL", "CBF", "CBV", "RCBF", "RCBV", "MTT", "TTP", "TMAX", "DSC", "DCE"),
        *("PHASE", "FMRI", "BOLD", "SPECTROSCOPY", "MRS", "FIELDMAP", "SWI", "QSM", "SUBTRACTION", "TOF", "MRA", "MRV"),
        *("ANGIO", "ANGIOGRAPHY", "MIP", "MINIP"),
    )
)
HEAD: Final = frozenset(
    (
        *("HEAD", "BRAIN", "SKULL", "HEADNECK", "HEAD NECK", "HEAD_NECK", "CRANIUM", "CEREBRUM", "NEURO", "PITUITARY"),
        *("SELLA", "SELLATURCICA", "SELLA TURCICA", "IAC", "ORBIT", "POSTERIORFOSSA", "TEMPORALLOBE", "WHOLEHEAD"),
    )
)
HEAD_WORDS: Final = HEAD | {"CRANIAL", "CEREBRAL", "INTRACRANIAL", "HYPOPHYSIS", "KOPF", "SCHAEDEL", "HIRN", "CEREBRO"}
ELSEWHERE: Final = frozenset(
    (
        *("ABDOMEN", "ABDOMENPELVIS", "ADRENAL", "ANKLE", "AORTA", "ARM", "BLADDER", "BREAST", "CALF", "CARDIAC"),
        *("CHEST", "CLAVICLE", "COCCYX", "CSPINE", "CTSPINE", "ELBOW", "EXTREMITY", "FEMUR", "FINGER", "FOOT"),
        *("FOREARM", "HAND", "HEART", "HIP", "HUMERUS", "KIDNEY", "KNEE", "LEG", "LIVER", "LOWERLEG", "LSPINE"),
        *("LSSPINE", "LUMBAR", "LUNG", "NECK", "PANCREAS", "PELVIS", "PROSTATE", "RIB", "SACRUM", "SHOULDER", "SPINE"),
        *("SPLEEN", "SSPINE", "STERNUM", "THIGH", "THORAX", "THORACIC", "THUMB", "TOE", "TSPINE", "TLSPINE"),
        *("UPPERARM", "UTERUS", "WHOLEBODY", "WRIST", "CERVICAL", "RENAL", "RECTUM", "SPINAL"),
        *("CERV", "HWS", "BWS", "LWS", "MYELON", "RACHIS", "COLUMNA", "COLUMN", "WIRBELSAEULE"),
    )
)


@dataclass(frozen=True)
class Rule:
    """A kind of file that is not classified.

    Attributes:
        name: one word.
        holds: tells whether a file is of this kind, by its attributes.
        reason: what is said then.
    """

    name: str
    holds: Callable[[Dataset], bool]
    reason: Callable[[Dataset], str]


def ineligibility(header: Dataset) -> str | None:
    """Return why an image is not classified, None where it is; it says nothing that is particular to a patient."""
    return next((rule.reason(header) for rule in RULES if rule.holds(header)), None)


def notes(header: Dataset) -> tuple[str, ...]:
    """Return what a reader of the answer should know about an image that is classified."""
    found = []
    if code(header, "BurnedInAnnotation") == "YES":
        found.append("BurnedInAnnotation is YES: text in the picture may mislead the model")
    region = code(header, "BodyPartExamined")
    if region and region not in HEAD:
        found.append("BodyPartExamined is none that is known here; taken for a head")
    return tuple(found)


def _is_capture(header: Dataset) -> bool:
    """Tell whether an image is a Secondary Capture of any kind."""
    kind = code(header, "SOPClassUID")
    return kind == SECONDARY_CAPTURE or kind.startswith(f"{SECONDARY_CAPTURE}.")


def _is_ours(header: Dataset) -> bool:
    makers = [header, *items(header, "ContributingEquipmentSequence")]
    return any(MANUFACTURER.upper() in codes(maker, "Manufacturer") for maker in makers)


def _is_other_modality(header: Dataset) -> bool:
    """Tell whether an object is of another modality than MR; a Secondary Capture may be of none."""
    modality = code(header, "Modality")
    return modality != "MR" and not (_is_capture(header) and modality in CAPTURED)


def _other_modality(header: Dataset) -> str:
    """Return the reason for a modality."""
    modality = code(header, "Modality")
    if not modality:
        return "Modality is missing; only MR slices of the head are classified"
    known = f"Modality is {modality}, {MODALITIES[modality]}" if modality in MODALITIES else "Modality is not MR"
    return f"{known}; only MR slices of the head are classified"


def _no_slice(header: Dataset) -> str | None:
    """Return what an object that holds no slice is, None for an image."""
    kind = code(header, "SOPClassUID")
    return next((said for uid, said in NO_SLICES.items() if kind == uid or kind.startswith(f"{uid}.")), None)


def _image_types(header: Dataset) -> set[str]:
    """Return the values of Image Type, and of Frame Type of all frames, from the third on (PS3.3 C.7.6.1.1.2)."""
    found = set(codes(header, "ImageType")[2:])
    for each in shared_functional_group(header, "MRImageFrameTypeSequence"):
        found.update(codes(each, "FrameType")[2:])
    return {part for value in found for part in (value, *re.split(r"[\s_]+", value))}


def _description(header: Dataset) -> str:
    """Return the series' own description, in capitals; where it has none, what the protocol is called.

    On scanners of some makers all series of an examination have the name of its protocol, which so may speak of others.
    """
    texts = (" ".join(codes(header, keyword)).strip() for keyword in DESCRIPTIONS)
    return next(filter(None, texts), "")


def _says(text: str, words: frozenset[str]) -> bool:
    """Tell whether a text in capitals holds one of the words, between anything but letters."""
    return not words.isdisjoint(re.split(r"[^A-Z]+", text))


def _is_elsewhere(header: Dataset) -> bool:
    """Tell whether an image is of another region than the head.

    The series' own description decides if it names a region, then Body Part Examined, then protocol and study together:
    an examination of brain and spine has series of both. A text that names the head and another region is of the head.
    """
    own, region = _description(header), code(header, "BodyPartExamined")
    if _says(own, HEAD_WORDS) or _says(own, ELSEWHERE):
        return not _says(own, HEAD_WORDS)
    if region in HEAD or region in ELSEWHERE:
        return region in ELSEWHERE
    others = " ".join(" ".join(codes(header, keyword)) for keyword in ("ProtocolName", "StudyDescription"))
    return _says(others, ELSEWHERE) and not _says(others, HEAD_WORDS)


def _is_diffusion_weighted(header: Dataset) -> bool:
    """Tell whether the image was weighted by diffusion, with a b-value above 0 (PS3.3 C.8.13.5.9)."""
    places = [header, *shared_functional_group(header, "MRDiffusionSequence")]
    return any(value > 0 for place in places for value in numbers(place, "DiffusionBValue"))


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
"""In the order in which they are tried."""
