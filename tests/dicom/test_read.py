import base64
import io
import logging
import re
import struct
import tracemalloc
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

import braintumor.dicom.read
from braintumor.dicom.grayscale import COLOUR, NO_WINDOW
from braintumor.dicom.read import read_dicom
from braintumor.errors import ImageError, Refusal
from braintumor.io.read import volume_kind
from braintumor.io.scan import ALL_SLICES, Scan, SliceSelection
from tests.dicom.make import (
    JPEG_2000,
    JPEG_LS_LOSSY,
    LOSSLESS,
    NAME,
    PATIENT,
    SIZE,
    SOURCES,
    SPACING,
    capture,
    ct,
    encoded,
    enhanced,
    item,
    levels,
    mr,
    shown,
)

LARGEST = 1_000_000


def read(dataset: Dataset | bytes, choice: SliceSelection = ALL_SLICES, largest: int = LARGEST) -> list[Scan]:
    content = dataset if isinstance(dataset, bytes) else encoded(dataset)
    return list(read_dicom(content, "a.dcm", largest, choice))


def reason(dataset: Dataset | bytes, choice: SliceSelection = ALL_SLICES, largest: int = LARGEST) -> str:
    with pytest.raises(ImageError) as caught:
        read(dataset, choice, largest)
    assert caught.value.source == "a.dcm"
    text = caught.value.reason
    assert NAME not in text
    assert PATIENT not in text
    return text


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("syntax", LOSSLESS)
def test_each_lossless_transfer_syntax_gives_the_slice(syntax: str, bits: int, signed: bool) -> None:
    (scan,) = read(mr(bits=bits, signed=signed, syntax=syntax))
    np.testing.assert_allclose(scan.pixels, shown(bits=bits), atol=1e-6)
    assert scan.spacing == SPACING
    assert scan.notes == ()


@pytest.mark.parametrize(("syntax", "bits"), [(JPEGBaseline8Bit, 8), (JPEGExtended12Bit, 8)])
def test_lossy_jpeg_gives_nearly_the_slice(syntax: str, bits: int) -> None:
    (scan,) = read(mr(bits=bits, syntax=syntax))
    assert np.abs(scan.pixels - shown(bits=bits)).mean() < 0.005


@pytest.mark.parametrize(("syntax", "tolerance"), [(JPEG_LS_LOSSY, 2 / 4095), (JPEG_2000, 30 / 4095)])
def test_lossy_jpeg_ls_and_jpeg_2000_give_nearly_the_slice(syntax: str, tolerance: float) -> None:
    (scan,) = read(mr(syntax=syntax))
    np.testing.assert_allclose(scan.pixels, shown(), atol=tolerance + 1e-6)


HTJ2K = (
    "/0//UQApQAAAAAAQAAAAEAAAAAAAAAAAAAAAEAAAABAAAAAAAAAAAAABDwEB/1AACAACAAAACv9SAAwAAgABAAUEBEAB/1wAEyCIkJCQkJCQkJ"
    "CQkJCQiIiI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAAZ0AAf+TwAAmn/wFB3QAAMAAE0AAE0AAEwDW/gKHdAA+/gKHdACS/AMH"
    "dADAABUwAAVMAAFU3TCzoMEBRrQAojzN8CoAo5QAb7DhfJbyAMGUAMAAFuwAAW3AABbgD8TnF6W/8AYc3hF0HFxCfpBV82Uq9AHmiDAzlwAXMC"
    "GG6VqoT12MYJxnPRAfuvAyAMlYiABjOAAvEYY2ra8fBoSB2YsjQN816sjdNej2BoZAM5YAwAAvSYAAXpkAAL0M/0EI3X9YDUoD8LSaRzqxo6KN"
    "JYioOKkpdj5S1YFM7p3gz8IYQg4uAO6h6rVdC4spq9LHs6HbqwwWBgRpTUC+cOoOUSwgQCfSAf8fLKFwbLeE+nsFJ1WD5nlARYq4G9Te7QIIn3"
    "DwQSsxWwthxoXAprnOzVtYCX/RsJKrFEbt0zBdtwAgp+80oAthlAlEIDflGEAn0wEDGMQX/UcooMQCPKkqQutp35xbYIKD6ijDCAlErpb52nI4"
    "UFR4T3UVcnq+WLqqcFqV39sBB/mv4gO4ck5hJCEAp9AB/9k="
)
"""levels(size=16) by imagecodecs, which is not installed here."""


def test_high_throughput_jpeg_2000_gives_the_slice() -> None:
    dataset = mr(size=16)
    dataset.add_new(0x7FE00010, "OB", encapsulate([base64.b64decode(HTJ2K)]))
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = HTJ2KLossless
    (scan,) = read(dataset)
    np.testing.assert_allclose(scan.pixels, shown(size=16), atol=1e-6)


@pytest.mark.parametrize("syntax", LOSSLESS)
def test_monochrome1_is_inverted_in_each_transfer_syntax(syntax: str) -> None:
    (scan,) = read(mr(inverted=True, syntax=syntax))
    np.testing.assert_allclose(scan.pixels, shown(), atol=1e-6)


@pytest.mark.parametrize("syntax", [*LOSSLESS, JPEGBaseline8Bit])
def test_a_colour_capture_becomes_grey_in_each_transfer_syntax(syntax: str) -> None:
    (scan,) = read(capture(syntax=syntax))
    np.testing.assert_allclose(scan.pixels, shown("pituitary", bits=8), atol=0.05 if syntax == JPEGBaseline8Bit else 0)
    assert scan.notes == (COLOUR,)


@pytest.mark.parametrize("syntax", LOSSLESS)
def test_each_frame_is_shown_by_its_own_window_in_each_transfer_syntax(syntax: str) -> None:
    labels = ("glioma", "no_tumor", "meningioma", "pituitary")
    scans = read(enhanced(labels, syntax=syntax))
    assert [scan.source for scan in scans] == [f"a.dcm#{number}" for number in (1, 2, 3, 4)]
    for scan, label in zip(scans, labels, strict=True):
        np.testing.assert_allclose(scan.pixels, shown(label), atol=1e-6)


@pytest.mark.parametrize("kind", SOURCES)
def test_each_kind_of_source_is_read_with_its_place_and_origin(kind: str) -> None:
    dataset = SOURCES[kind]()
    scans = read(dataset)
    assert len(scans) == dataset.get("NumberOfFrames", 1)
    assert all(scan.origin and scan.place and scan.place.volume.startswith("series ") for scan in scans)
    assert all(scan.notes == ((NO_WINDOW,) if kind == "no window" else ()) for scan in scans if kind != "RGB capture")


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1", JPEG2000Lossless])
def test_frames_agree_with_highdicom(syntax: str) -> None:
    dataset = enhanced(syntax=syntax)
    image = highdicom.Image.from_dataset(pydicom.dcmread(io.BytesIO(encoded(dataset))), copy=False)
    for number, scan in enumerate(read(dataset), start=1):
        expected = image.get_frame(number, apply_voi_transform=True)
        np.testing.assert_allclose(scan.pixels, expected, atol=1e-3)  # its LINEAR divides by the width itself


@pytest.mark.parametrize("kind", ["plain", "MONOCHROME1", "signed"])
def test_single_frames_agree_with_highdicom(kind: str) -> None:
    dataset = SOURCES[kind]()
    image = highdicom.Image.from_dataset(pydicom.dcmread(io.BytesIO(encoded(dataset))), copy=False)
    expected = image.get_frame(1, apply_voi_transform=True, apply_presentation_lut=True)
    np.testing.assert_allclose(read(dataset)[0].pixels, expected, atol=1e-3)


def test_unused_bits_are_ignored() -> None:
    dataset = mr()
    dataset.PixelData = (levels() | 0xF000).astype("<u2").tobytes()
    np.testing.assert_allclose(read(dataset)[0].pixels, shown(), atol=1e-6)


def test_the_extended_offset_table_is_followed() -> None:
    dataset = enhanced()
    parts = [mr(label, syntax=RLELossless) for label in ("glioma", "pituitary")]
    frames = [pydicom.encaps.get_frame(part.PixelData, 0, number_of_frames=1) for part in parts]
    content, dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths = pydicom.encaps.encapsulate_extended(
        frames
    )
    dataset.NumberOfFrames = 2
    del dataset.PerFrameFunctionalGroupsSequence
    dataset.WindowCenter, dataset.WindowWidth = 2048, 4096
    dataset.add_new(0x7FE00010, "OB", content)
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = RLELossless
    first, second = read(dataset)
    np.testing.assert_allclose(first.pixels, shown("glioma"), atol=1e-6)
    np.testing.assert_allclose(second.pixels, shown("pituitary"), atol=1e-6)


def test_a_frame_may_be_in_several_fragments() -> None:
    dataset = mr(syntax=JPEG2000Lossless)
    frame = pydicom.encaps.get_frame(dataset.PixelData, 0, number_of_frames=1)
    dataset.PixelData = encapsulate([frame], fragments_per_frame=3)
    np.testing.assert_allclose(read(dataset)[0].pixels, shown(), atol=1e-6)


def test_a_series_has_a_code_that_does_not_tell_its_uid_and_slices_have_positions() -> None:
    positions = [read(mr(number=number))[0].place for number in (1, 2)]
    (other,) = read(mr(series="other"))
    first, second = positions
    assert first
    assert second
    assert other.place
    assert first.volume == second.volume != other.place.volume
    assert len(first.volume) == len("series 01234567")
    assert (first.number, second.number) == (1, 2)
    assert (first.position, second.position) == (5.0, 10.0)


def test_slices_without_a_series_or_of_two_studies_share_no_volume() -> None:
    one, copy = mr(), mr(study="other")
    copy.SeriesInstanceUID = one.SeriesInstanceUID
    volumes = [read(dataset)[0].place.volume for dataset in (one, copy)]  # type: ignore[union-attr]
    assert volumes[0] != volumes[1]
    (nameless,) = read(mr(SeriesInstanceUID=None))
    assert nameless.place
    assert nameless.place.volume == nameless.source


def test_a_position_is_along_the_normal() -> None:
    # rows run to the back, columns to the feet: the normal is (0, 1, 0) x (0, 0, -1) = (-1, 0, 0)
    dataset = mr(ImageOrientationPatient=[0, 1, 0, 0, 0, -1], ImagePositionPatient=[12.5, 7, 8])
    position = read(dataset)[0].place
    assert position
    assert position.position == -12.5


@pytest.mark.parametrize(
    "attributes",
    [
        {"ImagePositionPatient": None},
        {"ImageOrientationPatient": None},
        {"ImagePositionPatient": [1, 2]},
        {"ImageOrientationPatient": [1, 2]},
    ],
)
def test_an_unknown_position_is_none(attributes: dict[str, Any]) -> None:
    position = read(mr(**attributes))[0].place
    assert position
    assert position.position is None


@pytest.mark.parametrize("number", [None, 0, -3])
def test_a_missing_instance_number_is_1(number: int | None) -> None:
    position = read(mr(InstanceNumber=number))[0].place
    assert position
    assert position.number == 1


def test_frames_have_positions_of_their_own() -> None:
    positions = [scan.place for scan in read(enhanced())]
    assert [(position.number, position.position) for position in positions if position] == [
        (1, 0.0),
        (2, 5.0),
        (3, 10.0),
        (4, 15.0),
    ]


def test_only_wanted_frames_are_read() -> None:
    scans = read(enhanced(), SliceSelection(ranges=((2, 2), (4, 9))))
    assert [scan.source for scan in scans] == ["a.dcm#2", "a.dcm#4"]
    np.testing.assert_allclose(scans[1].pixels, shown("pituitary"), atol=1e-6)


def test_a_single_frame_is_wanted_by_its_instance_number() -> None:
    assert len(read(mr(number=7), SliceSelection(ranges=((7, 7),)))) == 1
    assert not read(mr(number=7), SliceSelection(ranges=((1, 6),)))


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, JPEGLSLossless])
def test_frames_are_decoded_one_at_a_time_and_only_when_asked(syntax: str, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    decode = braintumor.dicom.read.decode

    def counting(*arguments: Any) -> Any:
        decoded.append(1)
        return decode(*arguments)

    monkeypatch.setattr(braintumor.dicom.read, "decode", counting)
    remaining = read_dicom(encoded(enhanced(syntax=syntax)), "a", LARGEST, SliceSelection(ranges=((3, 4),)))
    assert not decoded
    next(remaining)
    assert len(decoded) == 1


def test_a_plane_cannot_be_asked_for() -> None:
    assert reason(mr(), SliceSelection(plane="axial")) == "DICOM slices are read as acquired; leave out the plane axial"


def test_what_is_out_of_scope_is_refused_with_the_reason() -> None:
    assert reason(ct()) == "Modality is CT, computed tomography; only MR slices of the head are classified"
    assert reason(mr(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])).startswith("a localizer")


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"Rows": None}, "Rows is missing"),
        ({"Rows": 0}, "Rows is 0"),
        ({"Rows": 97}, "truncated: 18,432 of 18,624 bytes"),
        ({"Rows": 65_535, "Columns": 65_535}, "65535 x 65535 pixels; at most 8000 on each side are read"),
        ({"Rows": 8}, "96 x 8 pixels; at least 16 on each side are needed"),
        ({"BitsAllocated": 32}, "BitsAllocated is 32; only 8 and 16 are supported"),
        ({"BitsAllocated": 1}, "BitsAllocated is 1; only 8 and 16 are supported"),
        ({"BitsAllocated": None}, "BitsAllocated is missing"),
        ({"BitsStored": 17}, "BitsStored and HighBit do not fit"),
        ({"BitsStored": 0}, "BitsStored and HighBit do not fit"),
        ({"HighBit": 15}, "BitsStored and HighBit do not fit"),
        ({"PixelRepresentation": 2}, "PixelRepresentation or PlanarConfiguration"),
        ({"SamplesPerPixel": 3}, "SamplesPerPixel is 3; MONOCHROME2 has 1"),
        ({"PhotometricInterpretation": "MONOCHROME3"}, "PhotometricInterpretation is not one of"),
        ({"NumberOfFrames": 10**9}, "truncated: 18,432 of 18,432,000,000,000 bytes of pixels"),
        ({"NumberOfFrames": 0}, "NumberOfFrames is 0"),
        ({"PixelData": None}, "no pixel data"),
    ],
)
def test_a_header_that_cannot_be_true_is_refused(attributes: dict[str, Any], expected: str) -> None:
    dataset = mr(**attributes)
    assert expected in reason(dataset)


def test_dimensions_in_another_kind_of_number_are_refused() -> None:
    content = encoded(mr())
    rows = struct.pack("<HH2sHH", 0x0028, 0x0010, b"US", 2, SIZE)
    wide = struct.pack("<HH2sHI", 0x0028, 0x0010, b"UL", 4, SIZE)
    assert content.count(rows) == 1
    assert reason(content.replace(rows, wide)) == "Rows is not one unsigned 16-bit number; send the image again"


def test_more_pixels_than_allowed_are_refused() -> None:
    assert reason(mr(), largest=SIZE * SIZE - 1) == "96 x 96 pixels; at most 9,215 in all are read here"


def test_a_file_that_does_not_begin_like_dicom_is_refused() -> None:
    assert reason(encoded(mr())[133:]).startswith("not a DICOM file: neither DICM after 128 bytes nor")


def test_video_and_unknown_transfer_syntaxes_are_refused() -> None:
    content = encoded(mr(syntax=RLELossless))
    for syntax in (b"1.2.3.4", b"SECRET^NAME"):
        changed = content.replace(b"1.2.840.10008.1.2.5\0", syntax.ljust(20, b"\0"))
        assert reason(changed) == "TransferSyntaxUID is unknown; export the image uncompressed"
    video = mr(syntax=RLELossless)
    video.file_meta.TransferSyntaxUID = pydicom.uid.MPEG2MPML
    assert reason(video).startswith("TransferSyntaxUID is MPEG2 Main Profile / Main Level; export")


def test_lossy_jpeg_of_12_bits_is_refused() -> None:
    dataset = mr(syntax=JPEGExtended12Bit)
    assert re.fullmatch(r"lossy JPEG of 1\d bits; only 8 are supported; export the image uncompressed", reason(dataset))


def test_a_list_of_a_disc_is_refused() -> None:
    content = Path(pydicom.data.get_testdata_file("DICOMDIR")).read_bytes()
    assert reason(content) == "a DICOMDIR, the index of a disc; pass the image files themselves"


@pytest.mark.parametrize("syntax", [JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless])
@pytest.mark.parametrize("attributes", [{"Rows": 128}, {"Columns": 64}])
def test_compressed_pixels_of_another_size_are_refused(syntax: str, attributes: dict[str, int]) -> None:
    dataset = mr(syntax=syntax)
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    assert reason(dataset).startswith("the compressed pixels are 96 x 96, Rows and Columns say")


def test_compressed_pixels_of_other_samples_are_refused() -> None:
    dataset = capture(syntax=JPEG2000Lossless)
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    assert "have 3 samples" in reason(dataset)


def test_deeper_pixels_than_allocated_are_refused() -> None:
    dataset = mr(bits=12, syntax=JPEGLSLossless)
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    assert "have 12 bits, BitsAllocated is 8" in reason(dataset)


def test_compressed_data_is_not_taken_for_native_pixels_nor_the_other_way_round() -> None:
    compressed = encoded(mr(syntax=RLELossless))
    rle, plain = (
        uid.encode() + (b"\0" if len(uid) % 2 else b"") for uid in ("1.2.840.10008.1.2.5", "1.2.840.10008.1.2.1")
    )
    assert "not compressed as TransferSyntaxUID says" in reason(compressed.replace(rle, plain, 1))
    assert "not compressed as TransferSyntaxUID says" in reason(encoded(mr()).replace(plain, rle, 1))


@pytest.mark.parametrize("syntax", [*LOSSLESS, JPEG_2000])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.99])
def test_truncated_files_are_refused(syntax: str, share: float) -> None:
    content = encoded(mr(syntax=syntax))
    assert any(word in reason(content[: int(len(content) * share)]) for word in ("truncated", "missing", "damaged"))


def test_fewer_frames_than_said_are_refused_but_those_there_come_first() -> None:
    dataset = enhanced(syntax=JPEGLSLossless)
    dataset.NumberOfFrames = 5
    assert "NumberOfFrames is 5, more than the file holds" in reason(dataset)


def test_an_unreadable_place_of_the_slice_leaves_the_pixels_readable() -> None:
    content = encoded(mr()).replace(b"0.805\\0.8 ", b"0.805\\abc ")
    assert read(content)[0].spacing is None


@pytest.mark.parametrize(
    ("original", "replacement"),
    [
        (b"20260102", b"SECRET^N"),
        (b"1.2.840.10008.1.2.1\0", NAME.encode()),
        (b"MONOCHROME2 ", NAME.encode()),
        (b"IS", b"CS"),
    ],
)
def test_no_warning_and_no_log_tells_the_patient(
    original: bytes, replacement: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    content = encoded(mr()).replace(original, replacement.ljust(len(original)))
    assert content != encoded(mr())
    with warnings.catch_warnings(record=True) as caught, caplog.at_level(logging.DEBUG), suppress(ImageError):
        warnings.simplefilter("always")
        read(content)
    assert not caught
    assert "SECRET" not in caplog.text


def test_memory_does_not_grow_with_the_number_of_frames() -> None:
    content = encoded(enhanced(("glioma",) * 30))
    tracemalloc.start()
    try:
        for _ in read_dicom(content, "a", LARGEST, ALL_SLICES):
            pass
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000  # 30 frames as float32 are 1.1 MB, and each needs several times that for a moment


MADE: dict[str, Callable[[], Dataset]] = {"odd": lambda: mr(size=97, bits=8), "tall": lambda: mr(size=16)}


@pytest.mark.parametrize("kind", MADE)
def test_odd_and_small_sizes_are_read(kind: str) -> None:
    dataset = MADE[kind]()
    np.testing.assert_allclose(read(dataset)[0].pixels, shown(size=dataset.Rows, bits=dataset.BitsStored), atol=1e-6)


def test_frames_without_groups_of_their_own_are_read() -> None:
    dataset = enhanced()
    dataset.SharedFunctionalGroupsSequence = [item()]
    dataset.PerFrameFunctionalGroupsSequence = dataset.PerFrameFunctionalGroupsSequence[:1]
    assert [scan.notes for scan in read(dataset)] == [(), (NO_WINDOW,), (NO_WINDOW,), (NO_WINDOW,)]


def bare(content: bytes) -> bytes:
    """Return a file without its meta information, as programs wrote it before there was one."""
    length = int.from_bytes(content[140:144], "little")  # of (0002,0000), FileMetaInformationGroupLength
    return content[144 + length :]


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_a_file_without_preamble_or_meta_information_is_read(syntax: str) -> None:
    content = encoded(mr(syntax=syntax))
    expected = read(content)[0].pixels
    for damaged in (content[128:], content[132:], bare(content)):
        assert volume_kind(damaged) == "dicom"
        np.testing.assert_array_equal(read(damaged)[0].pixels, expected)


def test_compressed_pixels_without_meta_information_are_refused_in_words() -> None:
    assert "not compressed as TransferSyntaxUID says" in reason(bare(encoded(mr(syntax=JPEGLSLossless))))


@pytest.mark.parametrize(
    "content", [b"\x02\0\0\0", b"\x08\0\x05\0", b"\x02\0\0\0\xff\xff\xff\xff" * 9, b"\x08" * 400, b"\0" * 400]
)
def test_what_only_begins_a_little_like_dicom_is_none(content: bytes) -> None:
    assert volume_kind(content) is None


@pytest.mark.parametrize(
    ("attributes", "shape", "spacing", "note"),
    [
        ({"PixelSpacing": [0.5, 1.0]}, (96, 192), (0.5, 0.5), "pixels of 1 x 0.5 mm made square"),
        ({"PixelSpacing": [1.2, 0.8]}, (144, 96), (0.8, 0.8), "pixels of 0.8 x 1.2 mm made square"),
        (
            {"PixelSpacing": None, "PixelAspectRatio": [2, 1]},
            (192, 96),
            None,
            "pixels of aspect ratio 1:2 (width to height) made square",
        ),
        ({"PixelSpacing": [1, 1], "PixelAspectRatio": [2, 1]}, (96, 96), (1, 1), None),
        ({"PixelSpacing": None, "PixelAspectRatio": [0, 1]}, (96, 96), None, None),
        ({"PixelSpacing": [1.005, 1]}, (96, 96), (1.005, 1), None),
    ],
)
def test_pixels_are_made_square(
    attributes: dict[str, Any], shape: tuple[int, int], spacing: tuple[float, float] | None, note: str | None
) -> None:
    (scan,) = read(mr(**attributes))
    assert scan.pixels.shape == shape
    assert scan.spacing == (None if spacing is None else pytest.approx(spacing))
    assert [text for text in scan.notes if "square" in text] == ([note] if note else [])
    # the same picture, only stretched
    thumbnail = np.asarray(Image.fromarray(scan.pixels).resize((24, 24), Image.Resampling.BOX))
    np.testing.assert_allclose(
        thumbnail, np.asarray(Image.fromarray(shown()).resize((24, 24), Image.Resampling.BOX)), atol=0.06
    )


def test_pixels_of_an_impossible_shape_are_refused() -> None:
    assert "at most" in reason(mr(PixelSpacing=[0.001, 900]))


def test_what_is_cut_off_and_what_is_not_read_have_codes_of_their_own() -> None:
    cut = mr(syntax=JPEGLSLossless)
    with pytest.raises(ImageError) as caught:
        read(encoded(cut)[:-8])
    assert caught.value.code is Refusal.TRUNCATED
    with pytest.raises(ImageError) as caught:
        read(mr(syntax=JPEGExtended12Bit))
    assert caught.value.code is Refusal.UNSUPPORTED
