"""How a prediction becomes DICOM objects beside the image: an overlay to look at, the class map, a report."""

import io
import textwrap
from typing import Final

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydicom.dataset import Dataset

from braintumor.classes import CLASSES
from braintumor.dicom import codes
from braintumor.dicom.coding import dataset
from braintumor.dicom.read import UNREFERABLE, silence
from braintumor.dicom.results.base import (
    CLASS_MAP,
    OVERLAY,
    ResultContext,
    new_result_dataset,
    reference,
    reference_to,
    short,
)
from braintumor.dicom.results.structured_report import structured_report
from braintumor.dicom.source_attributes import restore_attributes
from braintumor.errors import DECODE_ERRORS, ImageError
from braintumor.io.scan import Scan
from braintumor.io.square import square_shape
from braintumor.models.session import Model
from braintumor.overlay import FAINT_INK, MARGIN, SIDE, TOP, enlarge, figure, font, scaled_map
from braintumor.predictor import Prediction

FULL: Final = 65535  # stored value of the full scale of a class map
TILTED: Final = 0.1  # a direction that is weaker is not named
LINE, LINES, LONGEST_NAME = 64, 3, 64  # characters, lines: what fits under the slice, and before the disclaimer


def results(scan: Scan, prediction: Prediction, model: Model) -> list[Dataset]:
    """Return what is to stand beside an image in its study: overlay (RGB), class map (where it has a place), report.

    The three are in new series of the same study, of the same patient, and refer to the image or its frame. The same
    image, model and operating point give the same UIDs and bytes, at any time. The class map is that of the predicted
    class, also where the slice is referred or no tumor class is predicted: it shows what spoke for the most probable
    class. It is left out where the image does not say where it lies in the patient.

    Args:
        scan: a slice with its `origin`.
        prediction: what the model says about it.
        model: which one said it.

    Raises:
        ValueError: the slice does not come from a DICOM file.
        ModelError: the model's file is no longer there.
    """
    if scan.origin is None:
        raise ValueError("expected a slice that was read from DICOM, got one without origin")
    case = ResultContext(restore_attributes(scan.origin), scan, prediction, model)
    class_map = _parametric_map(case) if _has_place(case) else None
    return [
        _secondary_capture(case),
        *([] if class_map is None else [class_map]),
        structured_report(case, class_map),
    ]


def result_files(scan: Scan, prediction: Prediction, model: Model) -> list[tuple[Dataset, bytes]]:
    """Return the `results` about a slice, each with its `encoded` content.

    Raises:
        ImageError: none can be made of this slice. The reason holds nothing of its attributes, as texts of libraries
            may; neither do these log or warn from then on.
        ModelError: the model's file is no longer there.
    """
    silence()
    if scan.origin is None:
        raise ImageError(scan.source, UNREFERABLE)
    try:
        return [(made, encoded(made)) for made in results(scan, prediction, model)]
    except DECODE_ERRORS as error:
        raise ImageError(scan.source, f"results cannot be made of it ({type(error).__name__})") from None


def encoded(result: Dataset) -> bytes:
    """Return a result as the content of a DICOM file (PS3.10), Explicit VR Little Endian."""
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, result, enforce_file_format=True)
    return stream.getvalue()


def _secondary_capture(case: ResultContext) -> Dataset:
    """Return the slice beside its overlay with answer, legend and disclaimer as an RGB image (PS3.3 A.8.1)."""
    page, meaning = _picture(case), codes.CLASSES_OF[case.prediction.predicted].meaning
    made = new_result_dataset(case, OVERLAY)
    made.ConversionType = "WSD"
    made.update(_derivation(case, f"Slice beside the class map of {meaning} laid over it."))
    made.ImageType = ["DERIVED", "SECONDARY"]
    made.BurnedInAnnotation, made.ImageComments = "YES", codes.RESEARCH_ONLY
    made.PatientOrientation = _orientation(case.source)
    made.SamplesPerPixel, made.PhotometricInterpretation, made.PlanarConfiguration = 3, "RGB", 0
    made.Rows, made.Columns = page.height, page.width
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 8, 8, 7, 0
    made.add_new("PixelData", "OB", page.tobytes() + b"\0" * (page.width * page.height % 2))
    return made


def _picture(case: ResultContext) -> Image.Image:
    """Return the figure of `explain`, with the probability or the reasons, and what was assumed, under the slice."""
    prediction, name = case.prediction, case.prediction.predicted
    page = figure(
        case.scan.pixels,
        prediction.class_maps[CLASSES.index(name)],
        case.model.card.class_map_scale,
        answer=codes.DECISIONS[prediction.decision].meaning,
        title=codes.CLASSES_OF[name].meaning,
        model=short(prediction.model, LONGEST_NAME),
    )
    said = case.reasons or (f"probability {prediction.probabilities.max():.3f}",)
    lines = textwrap.wrap("; ".join((*said, *case.scan.notes)), LINE, max_lines=LINES, placeholder=" …")
    place = (MARGIN, TOP + SIDE + MARGIN // 3)
    ImageDraw.Draw(page).multiline_text(place, "\n".join(lines), FAINT_INK, font(14), spacing=2)
    return page


def _derivation(case: ResultContext, description: str) -> Dataset:
    """Return what a picture shows, from which image it was made and how (PS3.3 C.7.6.1, C.12.4).

    That the image was compressed with loss stays known.
    """
    source = reference(case)
    source.PurposeOfReferenceCodeSequence = [codes.SOURCE_IMAGE.item()]
    made = dataset(
        BodyPartExamined="BRAIN",  # one of a kind: an unpaired part needs no Laterality
        DerivationDescription=f"{description} {codes.RESEARCH_ONLY}",
        SourceImageSequence=[source],
        ReferencedImageSequence=[reference(case)],
        LossyImageCompression="00",
    )
    if case.source.get("LossyImageCompression") == "01":
        made.LossyImageCompression = "01"
        for keyword in ("LossyImageCompressionRatio", "LossyImageCompressionMethod"):
            if keyword in case.source:
                made.add(case.source[keyword])
    return made


def _orientation(source: Dataset) -> list[str]:
    """Return where rows and columns point to in the patient, nothing where the image does not say (C.7.6.1.1.1)."""
    directions = source.get("ImageOrientationPatient")
    if directions is None:
        return [str(each) for each in source.get("PatientOrientation") or []]
    return [_letters([float(each) for each in directions[start : start + 3]]) for start in (0, 3)]


def _letters(direction: list[float]) -> str:
    """Return the letters of a direction, the strongest first: L left, P posterior, H head and their opposites."""
    named = [(abs(value), pair[value < 0]) for value, pair in zip(direction, ("LR", "PA", "HF"), strict=True)]
    return "".join(letter for strength, letter in sorted(named, reverse=True) if strength > TILTED)


def _has_place(case: ResultContext) -> bool:
    """Tell whether the image says where its pixels lie in the patient, and the slice has all of them."""
    source = case.source
    needed = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "FrameOfReferenceUID")
    if not all(keyword in source for keyword in needed):
        return False
    row, column = (float(length) for length in source.PixelSpacing)
    return square_shape(_source_shape(source), row, column) == case.scan.pixels.shape


def _source_shape(source: Dataset) -> tuple[int, int]:
    """Return (Rows, Columns) of the image, zeros where it does not say."""
    return int(source.get("Rows") or 0), int(source.get("Columns") or 0)


def _parametric_map(case: ResultContext) -> Dataset:
    """Return the map of the predicted class in the image's geometry, 0 to 65535 for 0 to 1 (PS3.3 A.75).

    Stored are unsigned 16-bit integers: viewers show them, the 32-bit kind often not, and 8 bits are not allowed.
    1 is the model's `class_map_scale` or more, as in the overlay.
    """
    name = case.prediction.predicted
    values = scaled_map(case.prediction.class_maps[CLASSES.index(name)], case.model.card.class_map_scale)
    seen = enlarge(values, case.scan.pixels.shape)  # with square pixels, as the model saw it
    rows, columns = _source_shape(case.source)
    fitting = np.asarray(Image.fromarray(seen).resize((columns, rows), Image.Resampling.BILINEAR))
    stored = np.rint(FULL * fitting.clip(0, 1)).astype("<u2")
    meaning = codes.CLASSES_OF[name].meaning
    made = new_result_dataset(case, CLASS_MAP)
    made.update(_derivation(case, f"Class map of {meaning}."))
    made.ImageType = ["DERIVED", "PRIMARY", "VOLUME", "QUANTITY"]
    made.ContentQualification, made.PixelPresentation = "RESEARCH", "MONOCHROME"
    made.ContentLabel, made.ContentDescription = "CLASS_MAP", f"Class map of {meaning}, research use only"
    made.BurnedInAnnotation, made.RecognizableVisualFeatures = "NO", "NO"
    made.FrameOfReferenceUID = case.source.FrameOfReferenceUID
    made.PositionReferenceIndicator = case.source.get("PositionReferenceIndicator", "")
    made.ReferencedSeriesSequence = [
        dataset(SeriesInstanceUID=case.source.SeriesInstanceUID, ReferencedInstanceSequence=[reference_to(case.source)])
    ]
    made.AcquisitionContextSequence = []
    _grey_levels(made, stored)
    _one_frame(made, case, meaning)
    return made


def _grey_levels(made: Dataset, stored: NDArray[np.uint16]) -> None:
    """Set the pixels (H, W) of an image of one frame."""
    made.SamplesPerPixel, made.PhotometricInterpretation, made.NumberOfFrames = 1, "MONOCHROME2", 1
    made.PresentationLUTShape = "IDENTITY"
    made.Rows, made.Columns = stored.shape
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 16, 15, 0
    made.add_new("PixelData", "OW", stored.tobytes())


def _one_frame(made: Dataset, case: ResultContext, meaning: str) -> None:
    """Set dimension and functional groups of the one frame (PS3.3 C.7.6.16, C.7.6.17, C.8.32)."""
    source, organization = case.source, case.uid("dimension")
    made.DimensionOrganizationSequence = [dataset(DimensionOrganizationUID=organization)]
    made.DimensionIndexSequence = [
        dataset(
            DimensionOrganizationUID=organization,
            DimensionIndexPointer=pydicom.tag.Tag("ImagePositionPatient"),
            FunctionalGroupPointer=pydicom.tag.Tag("PlanePositionSequence"),
            DimensionDescriptionLabel="Image Position Patient",
        )
    ]
    spacings = ("PixelSpacing", "SliceThickness", "SpacingBetweenSlices")
    made.SharedFunctionalGroupsSequence = [
        dataset(
            PlaneOrientationSequence=[dataset(ImageOrientationPatient=source.ImageOrientationPatient)],
            PixelMeasuresSequence=[dataset(**{each: source[each].value for each in spacings if each in source})],
            FrameVOILUTSequence=[dataset(WindowCenter=(FULL + 1) / 2, WindowWidth=FULL + 1)],
            PixelValueTransformationSequence=[dataset(RescaleIntercept=0, RescaleSlope=1, RescaleType="US")],
            ParametricMapFrameTypeSequence=[dataset(FrameType=list(made.ImageType))],
            RealWorldValueMappingSequence=[_real_world_values(meaning)],
        )
    ]
    image = reference(case)
    image.SpatialLocationsPreserved, image.PurposeOfReferenceCodeSequence = "YES", [codes.SOURCE_IMAGE.item()]
    made.PerFrameFunctionalGroupsSequence = [
        dataset(
            FrameContentSequence=[dataset(DimensionIndexValues=1)],
            PlanePositionSequence=[dataset(ImagePositionPatient=source.ImagePositionPatient)],
            DerivationImageSequence=[
                dataset(SourceImageSequence=[image], DerivationCodeSequence=[codes.CALCULATION.item()])
            ],
        )
    ]


def _real_world_values(meaning: str) -> Dataset:
    """Return what the stored values mean: the share of the model's full scale (PS3.3 C.7.6.16.2.11)."""
    quantity = dataset(
        ValueType="CODE",
        ConceptNameCodeSequence=[codes.QUANTITY.item()],
        ConceptCodeSequence=[codes.CLASS_ACTIVATION.item()],
    )
    made = dataset(
        LUTLabel="CLASS_MAP",
        LUTExplanation=f"Class map of {meaning}, share of the full scale",
        MeasurementUnitsCodeSequence=[codes.NO_UNITS.item()],
        QuantityDefinitionSequence=[quantity],
        RealWorldValueIntercept=0.0,
        RealWorldValueSlope=1 / FULL,
    )
    made.add_new("RealWorldValueFirstValueMapped", "US", 0)
    made.add_new("RealWorldValueLastValueMapped", "US", FULL)
    return made
