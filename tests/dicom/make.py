"""DICOM files of brains, made from phantoms for all tests: many kinds, every transfer syntax that we can write.

A planted patient, `NAME` and `PATIENT`, is in each of them and must appear nowhere else. Import it as
`from tests.dicom import make`, which needs the root of the repository on the path, as in `python -m pytest`; the
`conftest.py` beside this file may put it there.
"""

import hashlib
import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    CTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from braintumor.data.phantom import phantom

NAME: Final = "SECRET^NAME"
PATIENT: Final = "MRN12345"
SIZE: Final = 96
SPACING: Final = (0.805, 0.8)  # mm, rows and columns differ so that a mix-up shows, by less than is made square
ORIENTATION: Final = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
DEFLATED: Final = "1.2.840.10008.1.2.1.99"
JPEG_LS_LOSSY: Final = "1.2.840.10008.1.2.4.81"
JPEG_2000: Final = "1.2.840.10008.1.2.4.91"


def uid(*parts: object) -> str:
    """Return the same UID for the same parts."""
    digest = hashlib.sha256("|".join(map(str, parts)).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:15], 'big')}"


def levels(label: str = "glioma", seed: int = 0, *, size: int = SIZE, bits: int = 12) -> NDArray[np.int64]:
    """Return a phantom's (size, size) grey values from 0 to 2^bits - 1."""
    return np.rint(phantom(label, seed, size).astype(np.float64) * (2**bits - 1)).astype(np.int64)


def shown(label: str = "glioma", seed: int = 0, *, size: int = SIZE, bits: int = 12) -> NDArray[np.float32]:
    """Return how a file made with these settings must be displayed, (size, size) float32 in [0, 1]."""
    return (levels(label, seed, size=size, bits=bits) / (2**bits - 1)).astype(np.float32)


def mr(
    label: str = "glioma",
    seed: int = 0,
    *,
    size: int = SIZE,
    bits: int = 12,
    signed: bool = False,
    inverted: bool = False,
    window: bool = True,
    number: int = 1,
    study: object = 0,
    series: object = 0,
    syntax: str = ExplicitVRLittleEndian,
    **attributes: Any,
) -> Dataset:
    """Return a single-frame MR image whose window shows 0 to 2^bits - 1 as black to white.

    Args:
        label: class of the phantom.
        seed: which head.
        size: pixels on a side.
        bits: bits stored, 8 to 16.
        signed: two's complement, 2^(bits-1) lower.
        inverted: MONOCHROME1.
        window: False leaves the window out.
        number: InstanceNumber; also moves the slice by 5 mm each.
        study: files of the same study share it.
        series: files of the same series share it.
        syntax: transfer syntax.
        attributes: set at the end; None removes.
    """
    values = levels(label, seed, size=size, bits=bits)
    if inverted:
        values = 2**bits - 1 - values
    dataset = patient(MRImageStorage, study, series, number)
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "M", "SE"]
    dataset.Modality = "MR"
    dataset.ProtocolName = dataset.SeriesDescription = "t1 ax post"
    dataset.BodyPartExamined = "BRAIN"
    dataset.ScanningSequence, dataset.SequenceVariant, dataset.ScanOptions = "SE", "NONE", ""
    dataset.MRAcquisitionType = "2D"
    dataset.EchoTime, dataset.RepetitionTime, dataset.EchoTrainLength = 10, 500, 1
    dataset.ContrastBolusAgent = "agent"
    dataset.PixelSpacing, dataset.SliceThickness = list(SPACING), 5
    dataset.ImagePositionPatient = [-40.0, -40.0, 5.0 * number]
    dataset.ImageOrientationPatient = list(ORIENTATION)
    pixels(dataset, values, bits, signed, inverted)
    if window:
        dataset.WindowCenter, dataset.WindowWidth = window_of(bits, signed)
    return finished(dataset, syntax, attributes)


def patient(kind: str, study: object, series: object, number: int) -> Dataset:
    """Return the attributes of patient, study, series, frame of reference and equipment, and the file's meta data."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = kind, uid("instance", study, series, number)
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = uid("study", study), uid("series", study, series)
    dataset.FrameOfReferenceUID, dataset.PositionReferenceIndicator = uid("frame", study), ""
    dataset.PatientName, dataset.PatientID = NAME, PATIENT
    dataset.PatientBirthDate, dataset.PatientSex = "19700101", "O"
    dataset.ReferringPhysicianName, dataset.AccessionNumber, dataset.StudyID = NAME, PATIENT, "1"
    dataset.StudyDate = dataset.SeriesDate = dataset.ContentDate = dataset.AcquisitionDate = "20260102"
    dataset.StudyTime = dataset.SeriesTime = dataset.ContentTime = dataset.AcquisitionTime = "120000"
    dataset.StudyDescription, dataset.SeriesNumber, dataset.InstanceNumber = "Brain", 1, number
    dataset.PatientPosition, dataset.Laterality = "HFS", ""
    dataset.Manufacturer, dataset.ManufacturerModelName = "phantom", "phantom"
    dataset.DeviceSerialNumber, dataset.SoftwareVersions, dataset.MagneticFieldStrength = "1", "1", 1.5
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = kind
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset


def pixels(dataset: Dataset, values: NDArray[np.int64], bits: int, signed: bool, inverted: bool) -> None:
    """Set the pixels, (H, W) or (frames, H, W) from 0 to 2^bits - 1, little endian and native."""
    dataset.Rows, dataset.Columns = values.shape[-2:]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    dataset.BitsAllocated = 8 if bits <= 8 else 16
    dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = bits, bits - 1, int(signed)
    stored = values - 2 ** (bits - 1) if signed else values
    kind = {(8, False): "<u1", (8, True): "<i1", (16, False): "<u2", (16, True): "<i2"}
    content = stored.astype(kind[dataset.BitsAllocated, signed]).tobytes()
    padding = b"\0" if len(content) % 2 else b""  # a value has an even number of bytes (PS3.5 7.1.1)
    dataset.add_new(0x7FE00010, "OB" if bits <= 8 else "OW", content + padding)


def window_of(bits: int, signed: bool = False) -> tuple[float, float]:
    """Return centre and width that show the whole range, by PS3.3 C.11.2.1.2.1: y = (x - (c - 0.5)) / (w - 1) + 0.5."""
    return (0 if signed else 2 ** (bits - 1)), 2**bits


def finished(dataset: Dataset, syntax: str, attributes: dict[str, Any]) -> Dataset:
    """Return the dataset in a transfer syntax with the attributes set, or removed where None."""
    for keyword, value in attributes.items():
        if value is None:
            if keyword in dataset:
                delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    return transfer(dataset, syntax)


def enhanced(
    labels: tuple[str, ...] = ("glioma", "no_tumor", "meningioma", "pituitary"),
    *,
    size: int = SIZE,
    bits: int = 12,
    study: object = 0,
    series: object = "enhanced",
    syntax: str = ExplicitVRLittleEndian,
    **attributes: Any,
) -> Dataset:
    """Return an Enhanced MR image with one phantom (seed 0) per frame, shown as `shown` says only by its own window.

    Frame f, from 0, stores grey values that are lower by f, with a window that is lower by f, so that a reader that
    takes another frame's window is seen to be wrong. (Rescale is the identity, in the shared groups.)
    """
    count = len(labels)
    values = np.stack([levels(label, size=size, bits=bits) + 40 * (count - 1 - f) for f, label in enumerate(labels)])
    dataset = patient(EnhancedMRImageStorage, study, series, 1)
    dataset.Modality, dataset.ImageType = "MR", ["ORIGINAL", "PRIMARY", "M", "NONE"]
    dataset.SeriesDescription = "t1 ax post"
    dataset.BodyPartExamined = "BRAIN"
    dataset.NumberOfFrames = count
    dataset.AcquisitionDateTime, dataset.AcquisitionNumber = "20260102120000", 1
    dataset.ContentQualification, dataset.ResonantNucleus, dataset.PulseSequenceName = "RESEARCH", "1H", "se"
    dataset.KSpaceFiltering, dataset.MRAcquisitionType, dataset.AcquisitionContrast = "NONE", "2D", "T1"
    dataset.BurnedInAnnotation, dataset.LossyImageCompression, dataset.PresentationLUTShape = "NO", "00", "IDENTITY"
    dataset.PixelPresentation, dataset.VolumetricProperties = "MONOCHROME", "VOLUME"
    dataset.VolumeBasedCalculationTechnique, dataset.ComplexImageComponent = "NONE", "MAGNITUDE"
    dataset.AcquisitionContrast = "T1"
    dataset.ImageComments, dataset.SamplesPerPixel = "", 1
    dimension = item(DimensionOrganizationUID=uid("dimension", study, series))
    dataset.DimensionOrganizationSequence = [dimension]
    dataset.DimensionIndexSequence = [
        item(
            DimensionIndexPointer=0x00209057,
            FunctionalGroupPointer=0x00209111,
            DimensionOrganizationUID=dimension.DimensionOrganizationUID,
        )
    ]
    frame_type = item(
        FrameType=list(dataset.ImageType),
        PixelPresentation="MONOCHROME",
        VolumetricProperties="VOLUME",
        VolumeBasedCalculationTechnique="NONE",
        ComplexImageComponent="MAGNITUDE",
        AcquisitionContrast="T1",
    )
    dataset.SharedFunctionalGroupsSequence = [
        item(
            PixelMeasuresSequence=[item(PixelSpacing=list(SPACING), SliceThickness=5, SpacingBetweenSlices=5)],
            PlaneOrientationSequence=[item(ImageOrientationPatient=list(ORIENTATION))],
            PixelValueTransformationSequence=[item(RescaleSlope=1, RescaleIntercept=0, RescaleType="US")],
            MRImageFrameTypeSequence=[frame_type],
        )
    ]
    centre, width = window_of(bits)
    dataset.PerFrameFunctionalGroupsSequence = [
        item(
            FrameContentSequence=[
                item(
                    StackID="1",
                    InStackPositionNumber=frame + 1,
                    DimensionIndexValues=[frame + 1],
                    FrameAcquisitionNumber=1,
                    FrameReferenceDateTime="20260102120000",
                    FrameAcquisitionDateTime="20260102120000",
                    FrameAcquisitionDuration=1.0,
                )
            ],
            PlanePositionSequence=[item(ImagePositionPatient=[-40.0, -40.0, 5.0 * frame])],
            FrameVOILUTSequence=[item(WindowCenter=centre + 40 * (count - 1 - frame), WindowWidth=width)],
        )
        for frame in range(count)
    ]
    pixels(dataset, values, 16, signed=False, inverted=False)
    return finished(dataset, syntax, attributes)


def item(**attributes: Any) -> Dataset:
    """Return a dataset with these attributes, for use in a sequence."""
    dataset = Dataset()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def ct(
    label: str = "no_tumor", *, size: int = SIZE, syntax: str = ExplicitVRLittleEndian, **attributes: Any
) -> Dataset:
    """Return a CT image: unsigned 12 bit, intercept -1024, whose window shows all values."""
    dataset = patient(CTImageStorage, 0, "ct", 1)
    dataset.Modality, dataset.ImageType, dataset.BodyPartExamined = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"], "HEAD"
    dataset.PixelSpacing, dataset.SliceThickness = list(SPACING), 5
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [-40.0, -40.0, 5.0], list(ORIENTATION)
    pixels(dataset, levels(label, size=size), 12, signed=False, inverted=False)
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = -1024, 1, "HU"
    dataset.WindowCenter, dataset.WindowWidth = 1024, 4096
    return finished(dataset, syntax, attributes)


def capture(
    label: str = "pituitary", *, size: int = SIZE, syntax: str = ExplicitVRLittleEndian, **attributes: Any
) -> Dataset:
    """Return a Secondary Capture in 8-bit RGB: the phantom in all three channels."""
    dataset = patient(SecondaryCaptureImageStorage, 0, "capture", 1)
    dataset.Modality, dataset.ConversionType, dataset.ImageType = "OT", "WSD", ["DERIVED", "SECONDARY"]
    grey = levels(label, size=size, bits=8).astype(np.uint8)
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = size, size, 3
    dataset.PhotometricInterpretation, dataset.PlanarConfiguration = "RGB", 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    dataset.add_new(0x7FE00010, "OB", np.repeat(grey[..., None], 3, axis=2).tobytes())
    return finished(dataset, syntax, attributes)


def encoded(dataset: Dataset) -> bytes:
    """Return the content of the file: preamble, meta data, dataset in its transfer syntax."""
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, dataset, enforce_file_format=True)
    return stream.getvalue()


def transfer(dataset: Dataset, syntax: str) -> Dataset:
    """Return a native little endian dataset in another transfer syntax; its pixels are encoded accordingly.

    Raises:
        ValueError: no encoder here for that one.
    """
    if syntax == ExplicitVRLittleEndian:
        return dataset
    if syntax in (ImplicitVRLittleEndian, DEFLATED):
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    elif syntax == ExplicitVRBigEndian:
        if dataset.BitsAllocated == 16:
            dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    elif syntax in (RLELossless, JPEGLSLossless, JPEG2000Lossless):
        dataset.compress(syntax, generate_instance_uid=False)
    elif syntax == JPEG_LS_LOSSY:
        dataset.compress(syntax, jls_error=2, generate_instance_uid=False)
    elif syntax == JPEG_2000:
        dataset.compress(syntax, j2k_psnr=[60], generate_instance_uid=False)
    elif syntax == JPEGBaseline8Bit:
        baseline(dataset)
    elif syntax in GDCM_SYNTAXES:
        return by_gdcm(dataset, syntax)
    else:
        raise ValueError(f"no encoder for {syntax}")
    return dataset


def baseline(dataset: Dataset) -> None:
    """Encode 8-bit pixels as JPEG of quality 95, one fragment a frame."""
    count = int(dataset.get("NumberOfFrames", 1))
    shape = (count, dataset.Rows, dataset.Columns, dataset.SamplesPerPixel)
    frames = []
    for frame in np.frombuffer(dataset.PixelData[: int(np.prod(shape))], np.uint8).reshape(shape):
        stream = io.BytesIO()
        Image.fromarray(frame.squeeze()).save(stream, "JPEG", quality=95, subsampling=0)
        frames.append(stream.getvalue())
    dataset.add_new(0x7FE00010, "OB", encapsulate(frames))
    dataset["PixelData"].is_undefined_length = True
    if dataset.SamplesPerPixel == 3:
        dataset.PhotometricInterpretation = "YBR_FULL_422"
    dataset.LossyImageCompression, dataset.LossyImageCompressionMethod = "01", "ISO_10918_1"
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit


GDCM_SYNTAXES: Final = {
    JPEGExtended12Bit: "JPEGExtendedProcess2_4",
    JPEGLossless: "JPEGLosslessProcess14",
    JPEGLosslessSV1: "JPEGLosslessProcess14_1",
}


def by_gdcm(dataset: Dataset, syntax: str) -> Dataset:
    """Return the dataset with its pixels encoded by GDCM, which works on files only."""
    import gdcm

    with tempfile.TemporaryDirectory() as folder:
        before, after = str(Path(folder) / "before.dcm"), str(Path(folder) / "after.dcm")
        Path(before).write_bytes(encoded(dataset))
        reader = gdcm.ImageReader()
        reader.SetFileName(before)
        change = gdcm.ImageChangeTransferSyntax()
        if not reader.Read():
            raise ValueError("GDCM cannot read what was made")
        change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, GDCM_SYNTAXES[syntax])))
        change.SetInput(reader.GetImage())
        if not change.Change():
            raise ValueError(f"GDCM cannot write {syntax}")
        writer = gdcm.ImageWriter()
        writer.SetFileName(after)
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        if not writer.Write():
            raise ValueError("GDCM cannot write")
        transcoded = pydicom.dcmread(io.BytesIO(Path(after).read_bytes()))
    dataset["PixelData"] = transcoded["PixelData"]
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    return dataset


LOSSLESS: Final = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DEFLATED,
    RLELossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEG2000Lossless,
)
"""Transfer syntaxes in which the pixels come back as they were."""

SOURCES: Final[dict[str, Callable[[], Dataset]]] = {
    "plain": mr,
    "MONOCHROME1": lambda: mr("meningioma", inverted=True, series="inverted"),
    "signed": lambda: mr("pituitary", bits=16, signed=True, series="signed"),
    "8 bit": lambda: mr("no_tumor", bits=8, series="8 bit"),
    "no window": lambda: mr(window=False, series="no window"),
    "implicit": lambda: mr(syntax=ImplicitVRLittleEndian, series="implicit"),
    "big endian": lambda: mr(syntax=ExplicitVRBigEndian, series="big endian"),
    "deflated": lambda: mr(syntax=DEFLATED, series="deflated"),
    "RLE": lambda: mr(syntax=RLELossless, series="RLE"),
    "JPEG": lambda: mr(bits=8, syntax=JPEGBaseline8Bit, series="JPEG"),
    "JPEG lossless": lambda: mr(syntax=JPEGLosslessSV1, series="JPEG lossless"),
    "JPEG-LS": lambda: mr(syntax=JPEGLSLossless, series="JPEG-LS"),
    "JPEG 2000": lambda: mr(syntax=JPEG2000Lossless, series="JPEG 2000"),
    "JPEG 2000 lossy": lambda: mr(syntax=JPEG_2000, series="JPEG 2000 lossy"),
    "Enhanced": enhanced,
    "Enhanced JPEG 2000": lambda: enhanced(syntax=JPEG2000Lossless, series="Enhanced JPEG 2000"),
    "RGB capture": capture,
}
"""Sources of different kinds, all of them slices that we classify; each call makes a new dataset."""
