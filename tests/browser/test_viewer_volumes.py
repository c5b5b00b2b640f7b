"""Volumes in the viewer: NIfTI files and DICOM series through the real service."""

import csv
import io
import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pydicom")
pytest.importorskip("nibabel")

import pydicom

from braintumor.classes import CLASSES, TITLES
from braintumor.models.policy import REFER
from braintumor.models.session import Model
from braintumor.predictor import Prediction, predict
from tests.dicom import make
from tests.referrals import OUT_OF_DISTRIBUTION
from tests.volume_files import brain

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.usefixtures("shared_decoders")]

Opener = Callable[..., Any]
Pair = tuple[Model, Model]
LABELS = ("empty", "no_tumor", "glioma", "meningioma", "glioma", "no_tumor", "pituitary", "empty")
VOLUME = ("brain.nii.gz", brain(LABELS))
SERIES = [
    make.encoded(make.mr(label, seed, number=number))
    for number, (label, seed) in enumerate([(label, seed) for seed in range(3) for label in CLASSES], start=1)
]
UNREADABLE = ("415 (Unsupported Media Type)", "422 (Unprocessable")
NUMBER = re.compile(r"-?[\d.]+")


def reversed_series() -> list[tuple[str, bytes]]:
    """Return the files of the series under names that sort them from the last to the first."""
    return [(f"IM{len(SERIES) - number:03d}", content) for number, content in enumerate(SERIES)]


def answers(model: Model) -> list[Prediction]:
    return predict([VOLUME[::-1]], model)


def tumor(prediction: Prediction) -> bool:
    return prediction.decision not in (REFER, "no_tumor")


def at(viewer: Any, text: str) -> None:
    """Wait until the slider says this and the slice of that place is shown."""
    viewer.page.wait_for_selector(f"#slice-at:text-is('{text}')")
    viewer.picture()


def test_a_volume_is_one_entry_that_counts_its_slices(open_viewer: Opener, models: Pair, slices: list[Path]) -> None:
    viewer = open_viewer()
    viewer.drop(VOLUME, slices[0])
    assert sorted(viewer.names()) == sorted(["brain.nii.gz", slices[0].name])
    expected = answers(models[0])
    referred = sum(prediction.decision == REFER for prediction in expected)
    line = viewer.page.inner_text("#list li:has-text('brain.nii.gz') .entry-decision")
    assert " ".join(line.split()) == f"8 slices {sum(map(tumor, expected))} tumor class, {referred} refer"
    viewer.page.click("#list li:has-text('brain.nii.gz')")
    at(viewer, "5 of 8")
    assert viewer.page.inner_text(".corner.name") == "brain.nii.gz#5"
    viewer.choose(slices[0].name)
    assert not viewer.page.is_visible("#volume")


def test_the_plot_shows_the_probabilities_of_every_slice_and_where_it_is_referred(
    open_viewer: Opener, models: Pair
) -> None:
    viewer = open_viewer("two")
    viewer.drop(VOLUME)
    at(viewer, "5 of 8")
    for index, model in enumerate(models):
        expected = answers(model)
        plot = viewer.page.locator(".plot").nth(index)
        height = plot.locator("svg").bounding_box()["height"]
        for number in range(len(CLASSES)):
            line = plot.locator(f".line.class-{number}").get_attribute("d")
            values = [float(value) for value in NUMBER.findall(line)]
            shares = [1 - (y - 6) / (height - 12) for y in values[1::2]]
            assert shares == pytest.approx(
                [float(prediction.probabilities[number]) for prediction in expected], abs=0.002
            )
            assert values[::2] == sorted(values[::2])
        referred = [number for number, each in enumerate(expected, start=1) if each.decision == REFER]
        assert {1, 8} <= set(referred)
        bands = plot.locator(".referred").get_attribute("d").count("M")
        assert bands == sum(place - 1 not in referred for place in referred)
        words = plot.locator("svg").get_attribute("aria-label")
        assert words.startswith("Class probabilities along 8 slices. Glioma: highest ")
        assert f"referred {len(referred)} (" in plot.locator(".tally").inner_text()
    assert viewer.page.locator(".plot-model").all_text_contents() == ["tiny 1.2", "strict 1.2"]
    viewer.shot("volume-two")


def test_text_for_screen_readers_names_runs_of_slices(open_viewer: Opener) -> None:
    texts = open_viewer().page.evaluate(
        """async () => {
            const {curveWords, strongest, tallyWords} = await import("./static/volume.js");
            const {Wording} = await import("./static/wording.js");
            const {classes, reasons: titles} = await (await fetch("v1/models")).json();
            const shares = {p_glioma: 0.01, p_meningioma: 0.01, p_pituitary: 0.01, p_no_tumor: 0.97};
            const slice = (decision, ...codes) => {
                const reasons = codes.map((code) => ({code, text: `${code} in words`}));
                return {predictions: [{decision, reasons, ...shares}]};
            };
            const none = slice("no_tumor");
            const unsure = slice("refer", "uncertain");
            const slices = [slice("refer", "uncertain", "image_quality"), none, none, unsure, none];
            const words = new Wording(classes, titles);
            return [curveWords(slices, 0, words), tallyWords(slices, 0, words),
                strongest(slices, 0, classes, {class_map_scale: 1, evidence: 0.05})];
        }"""
    )
    assert "No tumor: highest 0.97 on slice 1, decided on 2 to 3, 5." in texts[0]
    assert "Glioma: highest 0.01 on slice 1, decided on none." in texts[0]
    assert texts[0].endswith("Referred: 1, 4.")
    assert texts[1] == "5 slices: No tumor class on 3, referred 2 (uncertain on 2; image quality on 1)."
    assert texts[2] is None


def test_keys_wheel_and_slider_go_through_the_slices_and_keep_the_view(open_viewer: Opener) -> None:
    viewer = open_viewer()
    page = viewer.page
    viewer.drop(*reversed_series())
    at(viewer, "7 of 12")
    page.keyboard.press("+")
    page.keyboard.press("2")
    page.keyboard.press("i")
    viewer.picture()
    window = page.inner_text(".corner.window")
    for key, text in [
        *(("Home", "1 of 12"), ("PageDown", "11 of 12"), ("PageUp", "1 of 12"), ("End", "12 of 12")),
        *(("ArrowUp", "11 of 12"), ("ArrowRight", "12 of 12"), ("ArrowRight", "12 of 12"), ("ArrowLeft", "11 of 12")),
    ]:
        page.keyboard.press(key)
        at(viewer, text)
    page.focus("#slice")
    page.keyboard.press("Home")
    at(viewer, "1 of 12")
    page.keyboard.press("ArrowDown")
    at(viewer, "2 of 12")
    assert page.get_attribute("#slice", "aria-valuetext").startswith("slice 2 of 12, ")
    page.wait_for_selector("#announce:text-matches('^Slice 2 of 12 of ')")
    box = page.locator(".view canvas").bounding_box()
    page.mouse.move(box["x"] + 50, box["y"] + 50)
    page.mouse.wheel(0, 100)
    at(viewer, "3 of 12")
    page.mouse.wheel(0, -100)
    at(viewer, "2 of 12")
    page.keyboard.down("Control")
    page.mouse.wheel(0, -100)
    page.keyboard.up("Control")
    viewer.picture()
    assert page.inner_text("#slice-at") == "2 of 12"
    assert page.inner_text(".corner.window") != window
    window = page.inner_text(".corner.window")
    page.fill("#slice", "9")
    at(viewer, "9 of 12")
    assert page.inner_text(".corner.window") == window
    assert "inverted" in window
    assert page.inner_text("#classes [aria-pressed=true]").startswith(TITLES["meningioma"])


def test_pointing_at_the_plot_shows_the_slice(open_viewer: Opener) -> None:
    viewer = open_viewer()
    viewer.drop(VOLUME)
    box = viewer.page.locator(".plot svg").bounding_box()

    def x(place: int) -> float:
        return float(box["x"] + 8 + (place - 1) * (box["width"] - 16) / 7)

    viewer.page.mouse.move(x(3) + 5, box["y"] + 20)
    viewer.page.mouse.down()
    at(viewer, "3 of 8")
    viewer.page.mouse.move(x(7) - 5, box["y"] - 40)
    at(viewer, "7 of 8")
    viewer.page.mouse.up()
    viewer.page.mouse.move(x(1), box["y"] + 20)
    viewer.picture()
    at(viewer, "7 of 8")
    marker = float(NUMBER.findall(viewer.page.get_attribute(".marker", "d"))[0])
    assert marker == pytest.approx(x(7) - box["x"], abs=1)


def test_a_series_is_in_the_order_of_places_whatever_its_files_are_called(open_viewer: Opener) -> None:
    viewer = open_viewer(expected=UNREADABLE)
    other = make.encoded(make.mr("glioma", 7, series="other"))
    damaged = SERIES[0][:700]
    viewer.drop(*reversed_series(), ("other.dcm", other), ("damaged.dcm", damaged))
    names = viewer.names()
    assert len(names) == 2
    assert all(re.fullmatch(r"DICOM series [0-9a-f]{8}", name) for name in names)
    assert viewer.page.inner_text("#refused-list .entry-name") == "damaged.dcm"
    assert len(viewer.page.inner_text("#refused-list .faint")) > 10
    at(viewer, "7 of 12")
    viewer.page.keyboard.press("Home")
    at(viewer, "1 of 12")
    assert viewer.page.inner_text(".corner.name") == "IM012"
    assert viewer.page.inner_text("#slice-place") == "5.0 mm"
    rows = list(csv.DictReader(io.StringIO(viewer.saved("#save-csv").decode(), newline="")))
    assert [row["slice"] for row in rows if row["volume"] == names[0].removeprefix("DICOM ")] == [
        str(number) for number in range(1, 13)
    ]


def test_files_travel_few_at_a_time_and_packed_volumes_alone(open_viewer: Opener) -> None:
    viewer = open_viewer()
    bodies: list[bytes] = []

    def note(route: Any) -> None:
        bodies.append(route.request.post_data_buffer)
        route.continue_()

    viewer.page.route("**/v1/predictions*", note)
    viewer.drop(*reversed_series(), VOLUME)
    counts = [body.count(b'filename="file-') for body in bodies]
    assert sum(counts) == 13
    assert max(counts) <= 4
    assert [count for count, body in zip(counts, bodies, strict=True) if VOLUME[1] in body] == [1]
    assert not any(b"IM0" in body or b"brain" in body.split(b"\r\n\r\n")[0] for body in bodies)


def test_the_strongest_evidence_is_found_among_decided_tumor_slices(open_viewer: Opener, models: Pair) -> None:
    viewer = open_viewer("two")
    scale = models[0].card.class_map_scale
    decisions = ("refer", "glioma", "glioma", "meningioma", "no_tumor", "glioma", "refer", "no_tumor")
    peaks = (9.0, 0.2, 0.7, 0.5, 3.0, 0.6, 5.0, 4.0)

    def answer(route: Any) -> None:
        """Give the first model these decisions, with maps that peak at these shares of the scale."""
        reply = route.fetch()
        body = reply.json()
        for slice_, decision, peak in zip(body["slices"], decisions, peaks, strict=True):
            maps = [[[peak * scale if name == decision or decision == REFER else 8 * scale]] for name in CLASSES]
            slice_["predictions"][0] |= {"decision": decision, "predicted": decision, "class_maps": maps}
            slice_["predictions"][0] |= (
                {"predicted": "glioma", "reasons": [OUT_OF_DISTRIBUTION.record()]} if decision == REFER else {}
            )
            slice_["predictions"][1] |= {"decision": "no_tumor", "predicted": "no_tumor", "reasons": []}
        route.fulfill(response=reply, json=body)

    viewer.page.route("**/v1/predictions*", answer)
    viewer.drop(VOLUME)
    at(viewer, "5 of 8")
    viewer.page.keyboard.press("4")
    button = viewer.page.locator(".evidence >> visible=true")
    assert button.all_text_contents() == ["Strongest evidence: Glioma on slice 3, peak 0.70"]
    button.click()
    at(viewer, "3 of 8")
    assert viewer.page.inner_text("#classes [aria-pressed=true]").startswith("Predicted")
    texts = viewer.page.locator(".no-evidence >> visible=true").all_text_contents()
    assert texts == ["No tumor class predicted on any slice that was decided."]
    viewer.page.keyboard.press("Home")
    viewer.page.keyboard.press("e")
    at(viewer, "3 of 8")
    tally = viewer.page.inner_text(".tally >> nth=0")
    assert (
        tally
        == "8 slices: Glioma on 3, Meningioma on 1, No tumor class on 2, referred 2 (unlike the training images on 2)."
    )
    line = viewer.page.inner_text("#list .entry-decision")
    assert " ".join(line.split()) == "8 slices 4 / 0 tumor class, 2 / 0 refer"


def test_a_volume_of_which_nothing_was_decided_has_no_strongest_evidence(open_viewer: Opener) -> None:
    viewer = open_viewer()
    viewer.drop(("empty.nii.gz", brain(("empty",) * 3)), VOLUME)
    viewer.page.click("#list li:has-text('empty.nii.gz')")
    at(viewer, "2 of 3")
    viewer.page.keyboard.press("e")
    assert not viewer.page.is_visible(".evidence")
    assert viewer.page.inner_text(".no-evidence") == "Every slice is referred."
    viewer.page.wait_for_selector("#announce:text-matches('^No tumor class predicted on any slice')")


def test_dicom_results_are_saved_for_one_file_and_for_all(open_viewer: Opener) -> None:
    viewer = open_viewer()
    viewer.drop(VOLUME, *reversed_series())
    viewer.page.click("#list li:has-text('brain.nii.gz')")
    at(viewer, "5 of 8")
    assert not viewer.page.is_visible(".results")
    viewer.page.click("#list li:has-text('series')")
    at(viewer, "7 of 12")
    assert viewer.page.inner_text(".results-all") == "All 12 files"
    with zipfile.ZipFile(io.BytesIO(viewer.saved(".results-one"))) as archive:
        one = archive.namelist()
        assert one[0] == "0001-overlay.dcm"
        capture = pydicom.dcmread(io.BytesIO(archive.read(one[0])))
    assert capture.StudyInstanceUID == pydicom.dcmread(io.BytesIO(SERIES[6])).StudyInstanceUID
    viewer.page.wait_for_selector(".results-said:text-is('Saved')")
    with zipfile.ZipFile(io.BytesIO(viewer.saved(".results-all"))) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        sources = [
            pydicom.dcmread(io.BytesIO(archive.read(name))).SourceImageSequence[0].ReferencedSOPInstanceUID
            for name in names
            if name.endswith("-overlay.dcm")
        ]
    assert len(names) == len(set(names)) == 12 * len(one)
    assert {name[:4] for name in names} == {f"{number:04d}" for number in range(1, 13)}
    viewer.page.click("#list li:has-text('brain.nii.gz')")
    viewer.page.click("#list li:has-text('series')")
    at(viewer, "7 of 12")
    assert viewer.page.inner_text(".results-said") == ""
    assert sorted(sources) == sorted(pydicom.dcmread(io.BytesIO(content)).SOPInstanceUID for content in SERIES)


def test_results_of_a_series_in_an_archive_are_saved_too(open_viewer: Opener) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, content in enumerate(SERIES[:3]):
            archive.writestr(f"brain/{number}.dcm", content)
    viewer = open_viewer()
    viewer.drop(("export.zip", buffer.getvalue()))
    assert viewer.names()[0].startswith("export.zip/brain – series ")
    with zipfile.ZipFile(io.BytesIO(viewer.saved(".results-all"))) as archive:
        assert {name[:4] for name in archive.namelist()} == {"0001", "0002", "0003"}


def test_grey_values_are_kept_while_there_is_room(open_viewer: Opener) -> None:
    decoded = open_viewer().page.evaluate(
        """async () => {
            let count = 0;
            const decode = createImageBitmap;
            window.createImageBitmap = (...given) => (count++, decode(...given));
            const {Pictures} = await import("./static/pictures.js");
            const canvas = Object.assign(document.createElement("canvas"), {width: 4, height: 4});
            canvas.getContext("2d").fillRect(0, 0, 4, 4);
            const pixels = await new Promise((resolve) => canvas.toBlob(resolve));
            const slices = Array.from({length: 13}, () => ({pixels, width: 2048, height: 2048}));
            const pictures = new Pictures();
            for (const slice of [...slices.slice(0, 12), ...slices.slice(0, 12)]) await pictures.of(slice);
            const before = count;
            for (const slice of [slices[12], slices[1], slices[0]]) await pictures.of(slice);
            return [before, count];
        }"""
    )
    assert decoded == [12, 14]  # 12 slices of 4 MiB have room in 48 MiB; the first had to go for the thirteenth


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_volume_can_be_read_in_both_themes_and_on_a_tablet(open_viewer: Opener, scheme: str) -> None:
    viewer = open_viewer("two", color_scheme=scheme, viewport={"width": 820, "height": 1180}, has_touch=True)
    viewer.drop(VOLUME, *reversed_series())
    viewer.page.click("#list li:has-text('series')")
    at(viewer, "7 of 12")
    texts = ["#slice-at", "#slice-place", ".axis", ".tally", ".evidence", "#key li", ".what", ".results-one", "#notes"]
    contrasts = viewer.contrasts(*texts)
    assert {selector: ratio for selector, ratio in contrasts.items() if ratio < 4.5} == {}
    assert len(contrasts) >= 7
    assert viewer.page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    assert "Research use only" in viewer.page.inner_text(".what")
    viewer.shot(f"volume-tablet-{scheme}")


def test_the_page_stays_small(open_viewer: Opener) -> None:
    viewer = open_viewer()
    sizes = viewer.page.evaluate(
        "() => performance.getEntries().map(({decodedBodySize}) => decodedBodySize).filter(Boolean)"
    )
    assert len(sizes) > 15
    assert sum(sizes) <= 150 << 10


def test_order_and_strongest_evidence_follow_the_rules_that_the_commands_share(open_viewer: Opener) -> None:
    cases = json.loads((Path(__file__).parents[1] / "fixtures" / "volume_rules.json").read_text())
    results = open_viewer().page.evaluate(
        """async (cases) => {
            const {evidenceOf, inOrder} = await import("./static/volume.js");
            const {classes, scale: {evidence}} = await (await fetch("v1/models")).json();
            const others = (share) => Object.fromEntries(classes.map(({name}) => [`p_${name}`, (1 - share) / 3]));
            const answered = ({decision, predicted, reasons, strength, probability}) => ({
                ...others(probability),
                [`p_${predicted}`]: probability,
                decision,
                predicted,
                reasons: reasons.map((code) => ({code, text: code})),
                class_maps: classes.map(({name}) => [[0, name === predicted ? strength : 0]]),
            });
            const options = {class_map_scale: 1, evidence};
            return cases.map(({slices}) => {
                const ordered = inOrder(slices.map((slice) => ({...slice, predictions: [answered(slice)]})));
                const best = classes
                    .filter(({name}) => name !== "no_tumor")
                    .map(({name}) => [name, evidenceOf(ordered, 0, name, classes, options)])
                    .filter(([, each]) => each)
                    .map(([name, {at, decided}]) => [name, {slice: ordered[at].number, decided}]);
                return {order: ordered.map(({number}) => number), evidence: Object.fromEntries(best)};
            });
        }""",
        cases,
    )
    for case, result in zip(cases, results, strict=True):
        assert result == {"order": case["order"], "evidence": case["evidence"]}, case["name"]
