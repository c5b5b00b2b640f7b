import csv
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from braintumor.classes import DISCLAIMER
from braintumor.data.audit import AuditResult, audit
from braintumor.data.duplicates.groups import COLUMNS
from braintumor.data.duplicates.kinds import Pair
from braintumor.evaluate.report.audit_page import movement, render, summary, write_audit_page

EVIL = "<script>alert(1)<script> & ' \".png"


def ignore(*_: object) -> None:
    pass


class Tags(HTMLParser):
    """Collects elements, addresses and text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.addresses: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def parsed(html: str) -> Tags:
    tags = Tags()
    tags.feed(html)
    return tags


def words(html: str) -> str:
    return re.sub(r"\s+", " ", " ".join(parsed(html).text))


@pytest.fixture(scope="module")
def result(flawed: Path) -> AuditResult:
    return audit(flawed, None, ignore, ignore)


def test_the_summary_comes_first_and_is_plain(result: AuditResult, flawed: Path) -> None:
    html = render(result, flawed)
    text = words(html)
    assert "5 of 9 test images (55.6 %) share a slice or, as far as can be told, a patient with training" in text
    assert "The parts of this data set are not independent" in text
    assert re.findall(r'<h2 id="(\w+)">', html)[:3] == ["summary", "meaning", "action"]
    assert text.index(DISCLAIMER) < text.index("Summary")
    assert "All files of this copy have one size, 96 × 96 pixels" in text
    assert "somebody scaled them" not in text  # nobody knows: scanners make files of one size, too
    assert "2 paths are not readable images" in text


def test_the_page_needs_no_network_and_escapes_names(flawed: Path, tmp_path: Path) -> None:
    data = tmp_path / "<b>set"
    shutil.copytree(flawed, data)
    (data / "Testing/glioma/bytes.png").rename(data / "Testing/glioma" / EVIL)
    (data / "Training/glioma/<i>.txt").touch()
    tags = parsed(render(audit(data, None, ignore, ignore), data))
    assert not tags.names & {"script", "link", "iframe", "b>set", "i"}
    assert all(address.startswith(("#", "data:image/jpeg;base64,")) for address in tags.addresses)
    assert f"Testing/glioma/{EVIL}" in tags.text
    assert "Training/glioma/<i>.txt" in tags.text


def test_a_likeness_is_not_called_a_certainty(result: AuditResult, flawed: Path) -> None:
    text = words(render(result, flawed))
    assert "Likely the same slice" in text
    assert "Likely the same slice, changed in brightness, contrast, compression or margin" in text
    assert "Identical files and pictures are certain, the others likely" in text
    assert "At least one of each two is wrong" not in text


def test_a_mirrored_pair_is_shown_in_line_too(result: AuditResult, flawed: Path) -> None:
    text = words(render(result, flawed))
    assert "the first, mirrored left to right" in text
    assert "the first, turned by 270° counter-clockwise" in text


def test_movements_in_words() -> None:
    pair = Pair(("a", "b"), ("glioma", "glioma"), ("", ""), 1.0, mirrored=True, rotation=180)
    assert movement(pair) == "mirrored left to right and turned by 180° counter-clockwise"


def test_three_files_are_written(result: AuditResult, flawed: Path, tmp_path: Path) -> None:
    write_audit_page(result, flawed, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["audit.html", "audit.json", "groups.csv"]
    lines = list(csv.reader((tmp_path / "out/groups.csv").read_text().splitlines()))
    assert tuple(lines[0]) == COLUMNS
    assert len(lines) == 1 + result.images
    assert json.loads((tmp_path / "out/audit.json").read_text())["copies"]["bytes"]["pairs"] == 2


def test_the_lines_for_a_terminal(result: AuditResult) -> None:
    lines = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in summary(result).splitlines())
    assert lines["images"] == "30 (21 training, 9 test)"
    assert lines["unreadable"] == "2 files"
    assert lines["identical files"] == "2 pairs of 4 images, 1 of them across splits"
    assert lines["likely same"] == "1 pair of 2 images, 1 of them across splits"
    assert lines["groups"] == "24, the largest of 2 images; 5 across splits"
    assert lines["test images"] == "5 of 9 (55.6 %) share a group with training"
    assert lines["label conflicts"] == "1 pair of copies with two labels, 1 group with two labels"
    assert lines["odd files"] == "none"
    assert "right from file, size, brightness and border alone" in lines["shortcuts"]


def test_without_parts_nothing_is_said_about_splits(flawed: Path, tmp_path: Path) -> None:
    shutil.copytree(flawed / "Training", tmp_path / "alone")
    result = audit(tmp_path / "alone", None, ignore, ignore)
    assert "across splits" not in summary(result)
    assert "no parts: nothing can cross splits" in summary(result)
    text = words(render(result, tmp_path / "alone"))
    assert "This data set has a single part" in text
    assert "across splits" not in text
    assert "official split" not in text
