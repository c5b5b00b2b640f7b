"""Text from outside: nothing in it acts, and what is written to CSV reads back."""

import csv
import io
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from braintumor.text import from_cell, to_cell, visible

ANY_TEXT = st.text(st.characters())  # lone surrogates too
TRICKY = st.text(st.sampled_from("'=+-@ \t\r\n\\xu1b0e5.c\u202e\udcff\u200d😀ا"))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b]0;OWNED\x07b.png", r"a\x1b]0;OWNED\x07b.png"),
        ("b\nscan2.png: Glioma", r"b\x0ascan2.png: Glioma"),
        ("c\r\x1b[Kclean", r"c\x0d\x1b[Kclean"),
        ("\x9b31m \x7f \t", r"\x9b31m \x7f \x09"),
        ("gpj.\u202eexe \u2066x\u2069 \u200e", r"gpj.\u202eexe \u2066x\u2069 \u200e"),
        ("a\u200bb \ufeff \u00ad \u2060 a\u200db", r"a\u200bb \ufeff \xad \u2060 a\u200db"),
        ("line\u2028paragraph\u2029next\x85", r"line\u2028paragraph\u2029next\x85"),
        ("\udcff.png", r"\udcff.png"),
        ("\U000e0041", r"\U000e0041"),
    ],
)
def test_characters_that_act_or_hide_are_shown(text: str, shown: str) -> None:
    assert visible(text) == shown
    assert visible(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        r"C:\users\scan.png",
        "Gehirn-Übersicht (1).png",
        "脑.png",
        "مخ.png",
        "می‌خواهم.png",  # Persian, with the joiner that its spelling asks for
        "मस्तिष्क क्‍ष.png",
        "👩‍⚕️🧠🏳️‍🌈.png",  # emoji that are joined
        "e\u0301.png",
        "100 % – ½.png",
    ],
)
def test_ordinary_scripts_and_emoji_stay(text: str) -> None:
    assert visible(text) == text


def test_every_control_character_of_unicode_is_shown() -> None:
    kept = [
        code
        for code in range(sys.maxunicode + 1)
        if unicodedata.category(chr(code)) in ("Cc", "Cs", "Zl", "Zp") and visible(chr(code)) == chr(code)
    ]
    assert kept == []


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=cmd|' 'calc'!A0.png", "'=cmd|' 'calc'!A0.png"),
        ("+1+1.png", "'+1+1.png"),
        ("-2+3", "'-2+3"),
        ("@SUM(1+1).png", "'@SUM(1+1).png"),
        ("  =1", "'  =1"),
        ("＝1", "'＝1"),
        ("'=1", "''=1"),
        ("\t=1", r"\x09=1"),
        ("a\r\n=1", r"a\x0d\x0a=1"),
        ("plain.png", "plain.png"),
        ("it's.png", "it's.png"),
        ("'quoted'", "'quoted'"),
        ("-12.5", "-12.5"),
        ("+1e-5", "+1e-5"),
        (r"a\x1b.png", r"a\x5cx1b.png"),
        (r"scans\brain.png", r"scans\brain.png"),
        (r"\Uffffffff", r"\Uffffffff"),
    ],
)
def test_cells_are_no_formulas_and_read_back(text: str, cell: str) -> None:
    assert to_cell(text) == cell
    assert from_cell(cell) == text


@given(ANY_TEXT | TRICKY)
def test_any_text_reads_back_from_its_cell(text: str) -> None:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerow([to_cell(text), "last"])
    assert stream.getvalue().count("\n") == 1
    stream.seek(0)
    cell, last = next(csv.reader(stream))
    assert (from_cell(cell), last) == (text, "last")


def test_bytes_of_a_name_that_is_no_utf_8_stay_unless_a_terminal_could_obey_them() -> None:
    name = b"\xff \x9b31m.png".decode(errors="surrogateescape")
    assert to_cell(name) == "\udcff \\udc9b31m.png"
    assert from_cell(to_cell(name)) == name


def test_numbers_and_nothing_stay_as_they_are() -> None:
    assert [to_cell(value) for value in (-1.5, 3, None)] == [-1.5, 3, None]
