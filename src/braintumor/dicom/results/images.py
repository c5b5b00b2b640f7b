"""Make the DICOM objects of a prediction: an overlay to look at, the class map, and a structured report."""

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
TILTED: Final = 0.1  # components of a direction that are weaker get no letter
LINE, LINES = 64, 3  # characters and lines that fit under the slice
LONGEST_NAME = 64  # characters that fit before the disclaimer


def results(scan: Scan, prediction: Prediction, model: Model) -> list[Dataset]:
    """Return the results to store beside an image in its study: overlay (RGB), class map, structured report.

    They are in new series of the same study and patient, and refer to the image or its frame. The same image, model and
    operating point give the same UIDs and bytes, at any time. The class map is that of the predicted class, also where
    the slice is referred or no tumor class is predicted: it shows the evidence for the most probable class. It is left
    out where the image does not state its geometry.

    Args:
        scan: a slice with its `origin`.
        prediction: the model's answer for it.
        model: the model that gave it.

    Raises:
        ValueError: the slice does not come from a DICOM file.
        ModelError: the model's file is no longer there.
    """
    if scan.origin is None:
        raise ValueError("expected a slice that was read from DICOM, got one without origin")
    context = ResultContext(restore_attributes(scan.origin), scan, prediction, model)
    class_map = _parametric_map(context) if _has_geometry(context) else None
    return [
        _secondary_capture(context),
        *([] if class_map is None else [class_map]),
        structured_report(context, class_map),
    ]


def result_files(scan: Scan, prediction: Prediction, model: Model) -> list[tuple[Dataset, bytes]]:
    """Return the `results` about a slice, each with its `encoded` content.

    Raises:
        ImageError: none can be made of this slice. The reason holds nothing of its attributes, unlike texts of the
            libraries, whose warnings and log records are dropped from then on.
        ModelError: the model's file is no longer there.
    """
    silence()
    if scan.origin is None:
        raise ImageError(scan.source, UNREFERABLE)
    try:
        return [(result, encoded(result)) for result in results(scan, prediction, model)]
    except DECODE_ERRORS as error:
        # Only the type of the error, and `from None`: its text, in a traceback too, may quote a patient's name.
        raise ImageError(scan.source, f"no results can be made from it ({type(error).__name__})") from None


def encoded(result: Dataset) -> bytes:
    """Return a result as the bytes of a DICOM file (PS3.10), Explicit VR Little Endian."""
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, result, enforce_file_format=True)
    return stream.getvalue()


def _secondary_capture(context: ResultContext) -> Dataset:
    """Return the slice and its overlay side by side, with answer, legend and disclaimer, in RGB (PS3.3 A.8.1)."""
    page, meaning = _picture(context), codes.CLASSES_OF[context.prediction.predicted].meaning
    result = new_result_dataset(context, OVERLAY)
    result.ConversionType = "WSD"
    result.update(_derivation(context, f"Slice, and beside it the slice overlaid with the class map of {meaning}."))
    result.ImageType = ["DERIVED", "SECONDARY"]
    result.BurnedInAnnotation, result.ImageComments = "YES", codes.RESEARCH_ONLY
    result.PatientOrientation = _orientation(context.source)
    result.SamplesPerPixel, result.PhotometricInterpretation, result.PlanarConfiguration = 3, "RGB", 0
    result.Rows, result.Columns = page.height, page.width
    result.BitsAllocated, result.BitsStored, result.HighBit, result.PixelRepresentation = 8, 8, 7, 0
    # A value has an even number of bytes (PS3.5 7.1.1); three bytes a pixel are odd if the number of pixels is.
    padding = b"\0" if page.width * page.height % 2 else b""
    result.add_new("PixelData", "OB", page.tobytes() + padding)
    return result


def _picture(context: ResultContext) -> Image.Image:
    """Return the figure of `explain`; under the slice stand the probability or reasons for referral, and the notes."""
    prediction, name = context.prediction, context.prediction.predicted
    page = figure(
        context.scan.pixels,
        prediction.class_maps[CLASSES.index(name)],
        context.model.card.class_map_scale,
        answer=codes.DECISIONS[prediction.decision].meaning,
        title=codes.CLASSES_OF[name].meaning,
        model=short(prediction.model, LONGEST_NAME),
    )
    statements = context.reasons or (f"probability {prediction.probabilities.max():.3f}",)
    lines = textwrap.wrap("; ".join((*statements, *context.scan.notes)), LINE, max_lines=LINES, placeholder=" …")
    corner = (MARGIN, TOP + SIDE + MARGIN // 3)
    ImageDraw.Draw(page).multiline_text(corner, "\n".join(lines), FAINT_INK, font(14), spacing=2)
    return page


def _derivation(context: ResultContext, description: str) -> Dataset:
    """Return what a picture shows, and from which image and how it was derived (PS3.3 C.7.6.1, C.12.4)."""
    source = reference(context)
    source.PurposeOfReferenceCodeSequence = [codes.SOURCE_IMAGE.item()]
    derivation = dataset(
        BodyPartExamined="BRAIN",  # not a paired part, so it needs no Laterality
        DerivationDescription=f"{description} {codes.RESEARCH_ONLY}",
        SourceImageSequence=[source],
        ReferencedImageSequence=[reference(context)],
        LossyImageCompression="00",
    )
    # Once compressed with loss, an image and all that is derived from it stay marked (PS3.3 C.7.6.1.1.5).
    if context.source.get("LossyImageCompression") == "01":
        derivation.LossyImageCompression = "01"
        for keyword in ("LossyImageCompressionRatio", "LossyImageCompressionMethod"):
            if keyword in context.source:
                derivation.add(context.source[keyword])
    return derivation


def _orientation(source: Dataset) -> list[str]:
    """Return the directions of rows and columns in the patient, nothing where they are unknown (PS3.3 C.7.6.1.1.1)."""
    directions = source.get("ImageOrientationPatient")
    if directions is None:
        return [str(letters) for letters in source.get("PatientOrientation") or []]
    cosines = [float(cosine) for cosine in directions]
    return [_letters(cosines[:3]), _letters(cosines[3:])]


def _letters(direction: list[float]) -> str:
    """Return the letters of a direction, the strongest first: L left, P posterior, H head and their opposites."""
    strengths = []
    for cosine, positive, negative in zip(direction, "LPH", "RAF", strict=True):
        strengths.append((abs(cosine), negative if cosine < 0 else positive))
    return "".join(letter for strength, letter in sorted(strengths, reverse=True) if strength > TILTED)


def _has_geometry(context: ResultContext) -> bool:
    """Tell whether the image states its geometry, and the slice has all its pixels, perhaps made square."""
    source = context.source
    needed = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "FrameOfReferenceUID")
    if not all(keyword in source for keyword in needed):
        return False
    row, column = (float(length) for length in source.PixelSpacing)
    return square_shape(_source_shape(source), row, column) == context.scan.pixels.shape


def _source_shape(source: Dataset) -> tuple[int, int]:
    """Return (Rows, Columns) of the image, zeros where it does not say."""
    return int(source.get("Rows") or 0), int(source.get("Columns") or 0)


def _parametric_map(context: ResultContext) -> Dataset:
    """Return the map of the predicted class in the image's geometry, 0 to 65535 for 0 to 1 (PS3.3 A.75).

    Values are unsigned 16-bit integers: viewers show these, but often not floating-point maps, and 8 bits are not
    allowed. 1 is the model's `class_map_scale` or more, as in the overlay.
    """
    name = context.prediction.predicted
    values = scaled_map(context.prediction.class_maps[CLASSES.index(name)], context.model.card.class_map_scale)
    enlarged = enlarge(values, context.scan.pixels.shape)  # (H, W) with square pixels, as the model saw the slice
    rows, columns = _source_shape(context.source)
    fitted = np.asarray(Image.fromarray(enlarged).resize((columns, rows), Image.Resampling.BILINEAR))
    stored = np.rint(FULL * fitted.clip(0, 1)).astype("<u2")  # (Rows, Columns) of the image
    meaning = codes.CLASSES_OF[name].meaning
    result = new_result_dataset(context, CLASS_MAP)
    result.update(_derivation(context, f"Class map of {meaning}."))
    result.ImageType = ["DERIVED", "PRIMARY", "VOLUME", "QUANTITY"]
    result.ContentQualification, result.PixelPresentation = "RESEARCH", "MONOCHROME"
    result.ContentLabel, result.ContentDescription = "CLASS_MAP", f"Class map of {meaning}, research use only"
    result.BurnedInAnnotation, result.RecognizableVisualFeatures = "NO", "NO"
    result.FrameOfReferenceUID = context.source.FrameOfReferenceUID
    result.PositionReferenceIndicator = context.source.get("PositionReferenceIndicator", "")
    result.ReferencedSeriesSequence = [
        dataset(
            SeriesInstanceUID=context.source.SeriesInstanceUID,
            ReferencedInstanceSequence=[reference_to(context.source)],
        )
    ]
    result.AcquisitionContextSequence = []
    _grey_levels(result, stored)
    _one_frame(result, context, meaning)
    return result


def _grey_levels(result: Dataset, stored: NDArray[np.uint16]) -> None:
    """Set the (H, W) pixels of a single-frame image."""
    result.SamplesPerPixel, result.PhotometricInterpretation, result.NumberOfFrames = 1, "MONOCHROME2", 1
    result.PresentationLUTShape = "IDENTITY"
    result.Rows, result.Columns = stored.shape
    result.BitsAllocated, result.BitsStored, result.HighBit, result.PixelRepresentation = 16, 16, 15, 0
    result.add_new("PixelData", "OW", stored.tobytes())


def _one_frame(result: Dataset, context: ResultContext, meaning: str) -> None:
    """Set the dimension and the functional groups of the only frame (PS3.3 C.7.6.16, C.7.6.17, C.8.32)."""
    source, organization = context.source, context.uid("dimension")
    result.DimensionOrganizationSequence = [dataset(DimensionOrganizationUID=organization)]
    result.DimensionIndexSequence = [
        dataset(
            DimensionOrganizationUID=organization,
            DimensionIndexPointer=pydicom.tag.Tag("ImagePositionPatient"),
            FunctionalGroupPointer=pydicom.tag.Tag("PlanePositionSequence"),
            DimensionDescriptionLabel="Image Position Patient",
        )
    ]
    spacings = ("PixelSpacing", "SliceThickness", "SpacingBetweenSlices")
    result.SharedFunctionalGroupsSequence = [
        dataset(
            PlaneOrientationSequence=[dataset(ImageOrientationPatient=source.ImageOrientationPatient)],
            PixelMeasuresSequence=[
                dataset(**{keyword: source[keyword].value for keyword in spacings if keyword in source})
            ],
            # Shows the full range, by the formula of PS3.3 C.11.2.1.2.1: a viewer must not stretch a weak map.
            FrameVOILUTSequence=[dataset(WindowCenter=(FULL + 1) / 2, WindowWidth=FULL + 1)],
            PixelValueTransformationSequence=[dataset(RescaleIntercept=0, RescaleSlope=1, RescaleType="US")],
            ParametricMapFrameTypeSequence=[dataset(FrameType=list(result.ImageType))],
            RealWorldValueMappingSequence=[_real_world_values(meaning)],
        )
    ]
    image = reference(context)
    image.SpatialLocationsPreserved, image.PurposeOfReferenceCodeSequence = "YES", [codes.SOURCE_IMAGE.item()]
    result.PerFrameFunctionalGroupsSequence = [
        dataset(
            FrameContentSequence=[dataset(DimensionIndexValues=1)],
            PlanePositionSequence=[dataset(ImagePositionPatient=source.ImagePositionPatient)],
            DerivationImageSequence=[
                dataset(SourceImageSequence=[image], DerivationCodeSequence=[codes.CALCULATION.item()])
            ],
        )
    ]


def _real_world_values(meaning: str) -> Dataset:
    """Return the meaning of the stored values: fractions of the model's full scale (PS3.3 C.7.6.16.2.11)."""
    quantity = dataset(
        ValueType="CODE",
        ConceptNameCodeSequence=[codes.QUANTITY.item()],
        ConceptCodeSequence=[codes.CLASS_ACTIVATION.item()],
    )
    mapping = dataset(
        LUTLabel="CLASS_MAP",
        LUTExplanation=f"Class map of {meaning}, fraction of the full scale",
        MeasurementUnitsCodeSequence=[codes.NO_UNITS.item()],
        QuantityDefinitionSequence=[quantity],
        RealWorldValueIntercept=0.0,
        RealWorldValueSlope=1 / FULL,
    )
    # The dictionary leaves open whether these are US or SS, so it is said here.
    mapping.add_new("RealWorldValueFirstValueMapped", "US", 0)
    mapping.add_new("RealWorldValueLastValueMapped", "US", FULL)
    return mapping
