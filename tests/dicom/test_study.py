"""Check that the reply of a decoder process about a file is accepted only if a sound decoder could have sent it."""

import dataclasses
from typing import Any

import pytest

from braintumor.dicom.series import File
from braintumor.dicom.study import file_of
from braintumor.errors import ImageError

SOUND = File(
    name="x.dcm",
    series_uid="1.2.3",
    volume="series 0123abcd",
    refusal=None,
    slices=20,
    contrast="T1",
    is_axial=True,
    number=3,
)


@pytest.mark.parametrize("change", [{}, {"volume": "x.dcm"}, {"refusal": "no MR image"}, {"number": -1}])
def test_what_a_decoder_says_is_taken(change: dict[str, Any]) -> None:
    file = dataclasses.replace(SOUND, **change)
    assert file_of(dataclasses.asdict(file), "x.dcm") == file


@pytest.mark.parametrize(
    "change",
    [
        {"name": "another.dcm"},
        {"volume": "Doe^Jane"},
        {"volume": 7},
        {"refusal": "\x1b[2J"},
        {"refusal": "x" * 1000},
        {"refusal": ["x"]},
        {"series_uid": None},
        {"slices": 0},
        {"slices": True},
        {"number": "3"},
        {"contrast": "\x1b[2J"},
        {"contrast": []},
        {"is_axial": "yes"},
        {"surprise": 1},
    ],
)
def test_what_no_decoder_says_is_not_taken(change: dict[str, Any]) -> None:
    with pytest.raises(ImageError, match="damaged"):
        file_of(dataclasses.asdict(SOUND) | change, "x.dcm")


def test_a_missing_field_is_not_made_up() -> None:
    with pytest.raises(ImageError, match="damaged"):
        file_of({"name": "x.dcm"}, "x.dcm")
