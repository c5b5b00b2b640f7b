"""pydicom's own files: every transfer syntax and photometric interpretation that its wheel brings."""

import io
from pathlib import Path
from typing import Final

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut

from braintumor.dicom.dataset import parse
from braintumor.dicom.grayscale import HIDING_WINDOW, NO_WINDOW, display_values
from braintumor.dicom.pixels import check_amount, decode
from braintumor.dicom.read import opened, silence
from braintumor.errors import DicomRefusalError
from braintumor.io.scan import ALL_SLICES

FILES: Final = Path(pydicom.__file__).parent / "data" / "test_files"

READ: Final[dict[str, tuple[str, tuple[int, int], float, float, float]]] = {
    "693_J2KI.dcm": ("MONOCHROME2", (512, 512), 0.17389, 0.4242, 0.0000),
    "CT_small.dcm": ("MONOCHROME2", (128, 128), 0.41463, 0.9737, 0.6366),
    "ExplVR_BigEnd.dcm": ("RGB", (60, 80), 0.87255, 0.8863, 0.8863),
    "GDCMJ2K_TextGBR.dcm": ("YBR_RCT", (400, 400), 0.49030, 0.5020, 0.4784),
    "J2K_pixelrep_mismatch.dcm": ("MONOCHROME2", (512, 512), 0.24787, 0.3737, 1.0000),
    "JPEG2000.dcm": ("MONOCHROME2", (1024, 256), 0.15115, 0.1144, 0.2688),
    "JPEGLSNearLossless_08.dcm": ("MONOCHROME2", (45, 10), 0.21786, 0.0588, 0.2549),
    "JPEGLSNearLossless_16.dcm": ("MONOCHROME2", (50, 10), 0.18333, 0.0039, 0.2500),
    "MR_small.dcm": ("MONOCHROME2", (64, 64), 0.44338, 0.2389, 0.2846),
    "MR_small_RLE.dcm": ("MONOCHROME2", (64, 64), 0.44338, 0.2389, 0.2846),
    "MR_small_bigendian.dcm": ("MONOCHROME2", (64, 64), 0.44338, 0.2389, 0.2846),
    "MR_small_expb.dcm": ("MONOCHROME2", (64, 64), 0.44338, 0.2389, 0.2846),
    "MR_small_implicit.dcm": ("MONOCHROME2", (64, 64), 0.44338, 0.2389, 0.2846),
    "MR_small_jp2klossless.dcm": ("MONOCHROME2", (64, 64), 0.44338, 0.2389, 0.2846),
    "MR_small_jpeg_ls_lossless.dcm": ("MONOCHROME2", (64, 64), 0.44338, 0.2389, 0.2846),
    "MR_small_padded.dcm": ("MONOCHROME2", (64, 64), 0.44338, 0.2389, 0.2846),
    "SC_jpeg_no_color_transform.dcm": ("RGB", (256, 256), 0.95677, 0.9569, 0.9569),
    "SC_jpeg_no_color_transform_2.dcm": ("RGB", (256, 256), 0.96280, 0.9569, 0.9647),
    "SC_rgb_dcmtk_+eb+cr.dcm": ("RGB", (100, 100), 0.50094, 0.5608, 0.5882),
    "SC_rgb_dcmtk_+eb+cy+n1.dcm": ("YBR_FULL", (100, 100), 0.50037, 0.5490, 0.5882),
    "SC_rgb_dcmtk_+eb+cy+n2.dcm": ("YBR_FULL", (100, 100), 0.50090, 0.5608, 0.5882),
    "SC_rgb_dcmtk_+eb+cy+np.dcm": ("YBR_FULL_422", (100, 100), 0.50037, 0.5490, 0.5882),
    "SC_rgb_dcmtk_+eb+cy+s2.dcm": ("YBR_FULL_422", (100, 100), 0.50090, 0.5608, 0.5882),
    "SC_rgb_dcmtk_+eb+cy+s4.dcm": ("YBR_FULL", (100, 100), 0.50090, 0.5608, 0.5882),
    "SC_rgb_gdcm_KY.dcm": ("RGB", (100, 100), 0.50078, 0.5569, 0.5882),
    "SC_rgb_jls_lossy_line.dcm": ("RGB", (100, 100), 0.50157, 0.5647, 0.5882),
    "SC_rgb_jls_lossy_sample.dcm": ("RGB", (100, 100), 0.50157, 0.5647, 0.5882),
    "SC_rgb_jpeg.dcm": ("RGB", (256, 256), 0.95677, 0.9569, 0.9569),
    "SC_rgb_jpeg_app14_dcmd.dcm": ("RGB", (256, 256), 0.96280, 0.9569, 0.9647),
    "SC_rgb_jpeg_dcmd.dcm": ("RGB", (256, 256), 0.95677, 0.9569, 0.9569),
    "SC_rgb_jpeg_dcmtk.dcm": ("YBR_FULL", (100, 100), 0.50090, 0.5608, 0.5882),
    "SC_rgb_jpeg_gdcm.dcm": ("RGB", (100, 100), 0.50078, 0.5569, 0.5882),
    "SC_rgb_jpeg_lossy_gdcm.dcm": ("YBR_FULL", (100, 100), 0.50035, 0.5451, 0.5882),
    "SC_rgb_rle.dcm": ("RGB", (100, 100), 0.50078, 0.5569, 0.5882),
    "SC_rgb_rle_16bit.dcm": ("RGB", (100, 100), 0.50078, 0.5587, 0.5870),
    "SC_rgb_rle_16bit_2frame.dcm": ("RGB", (100, 100), 0.50078, 0.5587, 0.5870),
    "SC_rgb_rle_2frame.dcm": ("RGB", (100, 100), 0.50078, 0.5569, 0.5882),
    "SC_rgb_small_odd.dcm": ("RGB", (3, 3), 0.50458, 0.3529, 0.5412),
    "SC_rgb_small_odd_big_endian.dcm": ("RGB", (3, 3), 0.50458, 0.3529, 0.5412),
    "SC_rgb_small_odd_jpeg.dcm": ("YBR_FULL", (3, 3), 0.50458, 0.3529, 0.5412),
    "SC_ybr_full_422_uncompressed.dcm": ("YBR_FULL_422", (100, 100), 0.50090, 0.5608, 0.5882),
    "dicomdirtests/77654033/CR1/6154": ("MONOCHROME1", (16, 16), 0.34228, 0.3534, 0.2283),
    "dicomdirtests/77654033/CT2/17106": ("MONOCHROME2", (16, 16), 0.04715, 0.0000, 0.0000),
    "dicomdirtests/98892003/MR2/4950": ("MONOCHROME2", (16, 16), 0.78809, 0.8473, 0.8289),
    "examples_jpeg2k.dcm": ("YBR_RCT", (480, 640), 0.13960, 0.0471, 0.1608),
    "examples_overlay.dcm": ("MONOCHROME2", (300, 484), 0.18867, 0.1027, 0.1128),
    "examples_palette.dcm": ("PALETTE COLOR", (350, 800), 0.07606, 0.0039, 0.0039),
    "examples_rgb_color.dcm": ("RGB", (240, 320), 0.13854, 0.0392, 0.1686),
    "examples_ybr_color.dcm": ("YBR_FULL_422", (240, 320), 0.03721, 0.0275, 0.0000),
    "image_dfl.dcm": ("MONOCHROME2", (512, 512), 0.49849, 0.2549, 0.0000),
}
"""Photometric interpretation, shape, mean, the pixel in the middle and the one at a quarter and a third of it."""

REFUSED: Final = {
    "JPEG-lossy.dcm": "lossy JPEG of 12 bits; only 8 are supported; export the image uncompressed",
    "JPEG2000-embedded-sequence-delimiter.dcm": "more JPEG 2000 tiles than the standard allows; send the image again",
    "JPGExtended.dcm": "lossy JPEG of 12 bits; only 8 are supported; export the image uncompressed",
    "MR_truncated.dcm": "truncated: 8,130 of 8,192 bytes of pixels; send the image again",
    "SC_rgb_rle_32bit.dcm": "BitsAllocated is 32; only 8 and 16 are supported",
    "SC_rgb_rle_32bit_2frame.dcm": "BitsAllocated is 32; only 8 and 16 are supported",
    "UN_sequence.dcm": "no pixel data; send the image itself",
    "badVR.dcm": "BitsAllocated is 32; only 8 and 16 are supported",
    "dicomdirtests/DICOMDIR": "a DICOMDIR, the index of a disc; pass the image files themselves",
    "dicomdirtests/TINY_ALPHA/DICOMDIR": "a DICOMDIR, the index of a disc; pass the image files themselves",
    "empty_charset_LEI.dcm": "no pixel data; send the image itself",
    "liver_1frame.dcm": "BitsAllocated is 1; only 8 and 16 are supported",
    "liver_expb_1frame.dcm": "BitsAllocated is 1; only 8 and 16 are supported",
    "meta_missing_tsyntax.dcm": "TransferSyntaxUID is missing; export it as a DICOM Part 10 file",
    "nested_priv_SQ.dcm": "no pixel data; send the image itself",
    "no_meta_group_length.dcm": "no pixel data; send the image itself",
    "priv_SQ.dcm": "no pixel data; send the image itself",
    "reportsi.dcm": "no pixel data; send the image itself",
    "reportsi_with_empty_number_tags.dcm": "no pixel data; send the image itself",
    "rtdose.dcm": "BitsAllocated is 32; only 8 and 16 are supported",
    "rtdose_1frame.dcm": "BitsAllocated is 32; only 8 and 16 are supported",
    "rtdose_expb.dcm": "BitsAllocated is 32; only 8 and 16 are supported",
    "rtdose_expb_1frame.dcm": "BitsAllocated is 32; only 8 and 16 are supported",
    "rtdose_rle.dcm": "BitsAllocated is 32; only 8 and 16 are supported",
    "rtdose_rle_1frame.dcm": "BitsAllocated is 32; only 8 and 16 are supported",
    "rtplan.dcm": "no pixel data; send the image itself",
    "rtplan_truncated.dcm": "no pixel data; send the image itself",
    "test-SR.dcm": "no pixel data; send the image itself",
    "waveform_ecg.dcm": "no pixel data; send the image itself",
}


def first_frame(file: str) -> tuple[Dataset, str, NDArray[np.generic], NDArray[np.float32], tuple[str, ...]]:
    """Return header, photometric interpretation, stored values, display and notes of a file's first frame."""
    silence()
    header, pixels = parse((FILES / file).read_bytes())
    image = opened(header, pixels)
    check_amount(image.pixels, image.stored)
    number, frame = next(image.wanted(ALL_SLICES))
    stored = decode(frame, image.pixels, image.stored)
    return header, image.stored.kind, stored, *display_values(stored, header, number.frame)


@pytest.mark.parametrize("file", READ)
def test_each_file_is_shown_as_it_was_once(file: str) -> None:
    kind, shape, mean, middle, quarter = READ[file]
    _, interpretation, _, shown, _ = first_frame(file)
    assert (interpretation, shown.shape) == (kind, shape)
    assert shown.mean() == pytest.approx(mean, abs=2e-5)
    assert shown[shape[0] // 2, shape[1] // 2] == pytest.approx(middle, abs=1e-4)
    assert shown[shape[0] // 4, shape[1] // 3] == pytest.approx(quarter, abs=1e-4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("file", READ)
def test_each_file_agrees_with_pydicom(file: str) -> None:
    header, kind, stored, shown, notes = first_frame(file)
    dataset = pydicom.dcmread(io.BytesIO((FILES / file).read_bytes()))
    array = dataset.pixel_array[0] if int(dataset.get("NumberOfFrames", 1)) > 1 else dataset.pixel_array
    np.testing.assert_array_equal(stored, array)
    if stored.ndim == 3 or kind == "PALETTE COLOR":
        rgb = apply_color_lut(array, dataset) if stored.ndim == 2 else array
        most = 65_535 if stored.ndim == 2 else 2**header.BitsStored - 1
        np.testing.assert_allclose(shown, rgb @ np.array([0.299, 0.587, 0.114]) / most, atol=0.51 / 255)
        return
    rescaled = apply_modality_lut(array, dataset).astype(np.float64)
    if notes:
        assert notes[0] in (NO_WINDOW, HIDING_WINDOW)
        low, high = np.percentile(rescaled, [0.1, 99.9])
        expected = np.clip((rescaled - low) / (high - low), 0, 1)
    else:
        centre, width = (float(np.atleast_1d(dataset[keyword].value)[0]) for keyword in ("WindowCenter", "WindowWidth"))
        expected = np.clip((rescaled - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)
    np.testing.assert_allclose(shown, 1 - expected if kind == "MONOCHROME1" else expected, atol=1e-5)


@pytest.mark.parametrize("file", REFUSED)
def test_each_other_file_is_refused_with_its_reason(file: str) -> None:
    with pytest.raises(DicomRefusalError) as caught:
        first_frame(file)
    assert str(caught.value) == REFUSED[file]
