import base64
import csv
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from braintumor.classes import DISCLAIMER, TITLES
from braintumor.models.session import Model
from braintumor.overlay import COLOURS, EVIDENCE, OPACITY, overlay, png
from braintumor.predictor import COLUMNS, predict

pytestmark = pytest.mark.browser

UNREADABLE = ("415 (Unsupported Media Type)",)
FLAT = ("flat.png", png(np.full((80, 80), 90, np.uint8)))
TEXTS = (
    *(".disclaimer", "#theme", "#position", ".entry-name", ".entry-decision", "#classes button", "#heatmap", "kbd"),
    *(".sliders output", ".corner", ".unit", ".decision", ".bars th", ".bars td:last-child", ".meaning", ".facts dt"),
    *(".reasons li", "#agreement", "#refused summary", "#refused .faint", ".identity span", ".nothing"),
)
RENDER = """async ({content, map, scale, about, opacity}) => {
    const render = await import("./static/render.js");
    const slice = await render.decode(render.blobOf(content));
    const canvas = render.canvasOf(slice.width, slice.height);
    const layers = {grey: render.greyLayer(slice, render.WHOLE), map: render.mapLayer(slice, map, scale, about)};
    render.draw(canvas.getContext("2d"), layers, render.FITTED, opacity, slice.width, slice.height);
    return [...canvas.getContext("2d").getImageData(0, 0, slice.width, slice.height).data];
}"""
Opener = Callable[..., Any]
Pair = tuple[Model, Model]


def archive(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as opened:
        for name, content in files.items():
            opened.writestr(name, content)
    return buffer.getvalue()


def contrasts_hold(viewer: Any) -> int:
    contrasts: dict[str, float] = viewer.contrasts(*TEXTS)
    assert {selector: ratio for selector, ratio in contrasts.items() if ratio < 4.5} == {}
    return len(contrasts)


def test_the_empty_page_says_what_to_do_and_what_happens_to_images(open_viewer: Opener) -> None:
    viewer = open_viewer()
    assert viewer.page.inner_text("#disclaimer") == DISCLAIMER
    text = viewer.page.inner_text("#empty")
    assert "Drop brain-MRI slices" in text
    assert "DICOM series, NIfTI volumes" in text
    assert "does not store them" in text
    limits = viewer.page.evaluate("async () => (await (await fetch('v1/models')).json()).limits")
    assert f"up to {limits['file_bytes'] >> 20} MiB each; up to {limits['slices']} slices" in text
    viewer.shot("empty")


@pytest.mark.slow
def test_pixels_are_those_of_the_figures_of_explain(open_viewer: Opener) -> None:
    random = np.random.default_rng(0)
    levels = random.integers(0, 256, (60, 91), np.uint8)
    class_map = (3 * random.random((5, 5)) ** 3).astype(np.float32)
    about = {"evidence": EVIDENCE, "colours": COLOURS}
    content = base64.b64encode(png(levels)).decode()
    settings = {"content": content, "map": class_map.tolist(), "scale": 2.0, "about": about, "opacity": OPACITY}
    shown = np.array(open_viewer().page.evaluate(RENDER, settings), np.int16).reshape(60, 91, 4)
    expected = overlay(levels.astype(np.float32) / 255, class_map, 2.0).astype(np.int16)
    assert np.abs(shown[:, :, :3] - expected).max() <= 3
    assert np.abs(shown[:, :, :3] - expected).mean() < 0.5


@pytest.mark.slow
def test_dropped_images_and_archives_are_listed_under_their_own_names(open_viewer: Opener, slices: list[Path]) -> None:
    first, second, third = (file.read_bytes() for file in slices[:3])
    members = {
        "a/one.png": first,
        "__MACOSX/._one.png": b"",
        ".hidden": b"",
        "a/two.png": second,
    }
    viewer = open_viewer()
    viewer.drop(("scan.zip", archive(members)), ("<img src=x onerror=alert(1)>.png", third))
    assert viewer.names() == ["<img src=x onerror=alert(1)>.png", "scan.zip/a/one.png", "scan.zip/a/two.png"]
    assert viewer.page.get_attribute("html", "data-shown") == "1"
    assert viewer.page.inner_text("#position") == "1 / 3"


@pytest.mark.slow
def test_the_panel_says_what_the_model_says(
    open_viewer: Opener, slices: list[Path], models: tuple[Model, Model]
) -> None:
    viewer = open_viewer()
    viewer.drop(slices[0])
    [prediction] = predict(slices[0], models[0])
    values = viewer.page.locator(".bars td:last-child").all_text_contents()
    for value, share in zip(values, prediction.probabilities.tolist(), strict=True):
        assert abs(float(value.strip("<>")) - share) <= 0.001
    assert viewer.page.inner_text(".best th") == TITLES[prediction.predicted]
    assert "not calibrated" in viewer.page.inner_text(".meaning")
    assert f"1 = {models[0].card.class_map_scale:.3g}"[:6] in viewer.page.inner_text(".unit")
    assert viewer.page.locator(".ticks span").all_text_contents() == ["0", "0.25", "0.5", "0.75", "1"]
    viewer.shot("one")


@pytest.mark.slow
def test_number_keys_choose_the_map(open_viewer: Opener, slices: list[Path], models: Pair) -> None:
    viewer = open_viewer()
    viewer.drop(slices[0])
    [prediction] = predict(slices[0], models[0])
    for key, (title, class_map) in enumerate(zip(TITLES.values(), prediction.class_maps, strict=True), start=1):
        viewer.page.keyboard.press(str(key))
        assert viewer.page.inner_text("#classes [aria-pressed=true]").startswith(title)
        label = viewer.page.get_attribute(".view canvas", "aria-label")
        if class_map.max() < EVIDENCE * models[0].card.class_map_scale:
            assert f"No evidence above 5 % of the scale for {title}" in label
            assert viewer.page.is_visible(".nothing")
        else:
            assert f"Map of {title}" in label
            assert not viewer.page.is_visible(".nothing")
    viewer.page.keyboard.press("p")
    assert viewer.page.inner_text("#classes [aria-pressed=true]").startswith("Predicted")


@pytest.mark.slow
def test_a_map_without_evidence_colours_nothing(
    open_viewer: Opener, slices: list[Path], models: tuple[Model, Model]
) -> None:
    maps = [
        (file, prediction.class_maps.max(axis=(1, 2))) for file in slices for prediction in predict(file, models[0])
    ]
    file, peaks = min(maps, key=lambda entry: entry[1].min())
    assert peaks.min() < EVIDENCE * models[0].card.class_map_scale
    viewer = open_viewer()
    viewer.drop(file)
    viewer.page.keyboard.press(str(peaks.argmin() + 1))
    shown = viewer.picture()
    viewer.shot("no-evidence")
    viewer.page.keyboard.press("h")
    assert shown == viewer.picture()


@pytest.mark.slow
def test_opacity_changes_the_colours_alone(open_viewer: Opener, coloured: Path) -> None:
    viewer = open_viewer()
    viewer.drop(coloured)
    shown = viewer.picture()
    viewer.page.focus("#opacity")
    viewer.page.keyboard.press("Home")
    assert viewer.page.inner_text("#opacity-value") == "0 %"
    none = viewer.picture()
    assert none != shown
    viewer.page.evaluate("() => document.activeElement.blur()")
    viewer.page.keyboard.press("h")
    assert viewer.picture() == none


@pytest.fixture(scope="module")
def coloured(slices: list[Path], models: Pair) -> Path:
    """Return the slice with the strongest map of its predicted class."""

    def strength(file: Path) -> float:
        [prediction] = predict(file, models[0])
        return float(prediction.class_maps[prediction.probabilities.argmax()].max())

    return max(slices, key=strength)


@pytest.mark.slow
def test_a_referred_slice_shows_why_and_refused_files_their_reason(open_viewer: Opener) -> None:
    viewer = open_viewer(expected=UNREADABLE)
    viewer.drop(FLAT)
    viewer.drop(("notes.txt", b"no image"))
    assert viewer.page.inner_text(".decision") == "Refer"
    assert viewer.page.locator(".reasons li").all_text_contents() == ["image quality: empty"]
    assert viewer.page.inner_text(".meaning").startswith("Do not use this answer")
    assert viewer.page.inner_text("#refused-title") == "Not used: 1"
    assert "notes.txt\nnot a readable PNG, JPEG, TIFF, BMP, DICOM or NIfTI file" in viewer.page.inner_text(
        "#refused-list"
    )
    viewer.shot("referred")


def test_no_tumor_is_never_told_as_a_finding(
    open_viewer: Opener, slices: list[Path], models: tuple[Model, Model]
) -> None:
    viewer = open_viewer()
    texts = viewer.page.evaluate(
        """async () => {
            const {Wording} = await import("./static/wording.js");
            const {classes} = await (await fetch("v1/models")).json();
            const wording = new Wording(classes);
            const answer = {predicted: "no_tumor", decision: "no_tumor", reasons: [], p_no_tumor: 0.97};
            const model = {card: {rejection: {float32: {}}}};
            return [wording.heading(answer), wording.meaning(answer, model), wording.caution(answer)];
        }"""
    )
    assert texts[0] == "No tumor class predicted"
    assert texts[1] == (
        "No tumor class predicted on this slice. Calibrated on slices kept apart from training: "
        "of slices like those, answered with 0.97, about 97 in 100 are right."
    )
    assert texts[2] == "This is no finding that there is no tumor."


def test_everything_can_be_done_with_the_keyboard(open_viewer: Opener, coloured: Path, slices: list[Path]) -> None:
    viewer = open_viewer()
    page = viewer.page
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.textContent") == "Skip to the slice"
    with page.expect_file_chooser() as chooser:
        for _ in range(4):
            page.keyboard.press("Tab")
        assert page.evaluate("() => document.activeElement.id") == "empty-files"
        assert page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle") == "solid"
        page.keyboard.press("Enter")
    chooser.value.set_files([coloured, *(file for file in slices[:3] if file != coloured)])
    page.wait_for_selector("html[data-shown]", state="attached")
    page.wait_for_selector("#progress[hidden]", state="attached")
    assert page.evaluate("() => document.activeElement.id") == "list"
    total = len(viewer.names())
    page.keyboard.press("End")
    assert page.inner_text("#position") == f"{total} / {total}"
    page.keyboard.press("ArrowUp")
    assert page.inner_text("#position") == f"{total - 1} / {total}"
    active = page.get_attribute("#list", "aria-activedescendant")
    assert page.get_attribute(f"#{active}", "aria-selected") == "true"
    page.keyboard.press("Home")
    page.wait_for_selector(f"#announce:text-matches('^Slice 1 of {total}')")

    viewer.choose(coloured.name)
    shown = viewer.picture()
    page.keyboard.press("i")
    inverted = viewer.picture()
    page.keyboard.press("+")
    page.keyboard.down(" ")
    original = viewer.picture()
    page.wait_for_timeout(350)
    page.keyboard.up(" ")
    assert page.get_attribute("#original", "aria-pressed") == "false"
    page.keyboard.press(" ")
    assert page.get_attribute("#original", "aria-pressed") == "true"
    page.keyboard.press("r")
    assert viewer.picture() == shown
    assert inverted != shown
    assert original not in (shown, inverted)

    page.keyboard.press("?")
    assert page.is_visible("#help-dialog")
    page.keyboard.press("3")
    page.keyboard.press("Escape")
    assert not page.is_visible("#help-dialog")
    assert page.inner_text("#classes [aria-pressed=true]").startswith("Predicted")
    page.focus("#level")
    page.keyboard.press("ArrowDown")
    viewer.picture()
    assert page.inner_text("#level-value") == "127"
    assert page.inner_text(".window").startswith("W 255  L 127")


@pytest.mark.slow
def test_a_slice_is_never_shown_under_the_name_of_another(open_viewer: Opener, slices: list[Path]) -> None:
    viewer = open_viewer()
    viewer.drop(*slices)
    viewer.page.evaluate(
        """() => {
            const decode = createImageBitmap;
            window.createImageBitmap = async (...given) => {
                await new Promise((resolve) => setTimeout(resolve, 60));
                return decode(...given);
            };
        }"""
    )
    for _ in range(3):
        viewer.page.keyboard.press("ArrowDown")
        viewer.page.keyboard.press("i")
        viewer.page.keyboard.press("i")
    viewer.page.wait_for_timeout(300)
    name = viewer.page.inner_text("#list [aria-selected=true] .entry-name")
    assert viewer.page.inner_text(".corner.name") == name
    hasty = viewer.picture()
    viewer.choose(viewer.names()[-1])
    assert viewer.picture() != hasty
    viewer.choose(name)
    assert viewer.picture() == hasty


@pytest.mark.slow
def test_dragging_sets_window_and_level_or_moves(open_viewer: Opener, coloured: Path) -> None:
    viewer = open_viewer()
    viewer.drop(coloured)
    mouse, keyboard = viewer.page.mouse, viewer.page.keyboard
    mouse.move(500, 400)
    mouse.down()
    mouse.move(460, 430, steps=3)
    mouse.up()
    assert viewer.page.inner_text("#width-value") == "215"
    assert viewer.page.inner_text("#level-value") == "158"
    before = viewer.picture()
    keyboard.down("Shift")
    mouse.down()
    mouse.move(500, 400)
    mouse.up()
    keyboard.up("Shift")
    assert viewer.page.inner_text("#width-value") == "215"
    assert viewer.picture() != before


@pytest.mark.slow
def test_two_models_stand_side_by_side_and_tell_whether_they_agree(
    open_viewer: Opener, slices: list[Path], models: tuple[Model, Model]
) -> None:
    viewer = open_viewer("two")
    viewer.drop(*slices)
    decisions = {file.name: [predict(file, model)[0].decision for model in models] for file in slices}
    agreeing = next(name for name, (one, two) in decisions.items() if one == two)
    parted = next(name for name, (one, two) in decisions.items() if one != two)
    viewer.choose(agreeing)
    assert viewer.page.inner_text("#agreement").startswith("The models agree: ")
    viewer.choose(parted)
    assert viewer.page.inner_text("#agreement").startswith("The models disagree: tiny 1.2 – ")
    assert viewer.page.inner_text("#agreement").endswith("strict 1.2 – Refer.")
    assert viewer.page.locator(".decision").all_text_contents()[1] == "Refer"
    assert viewer.page.inner_text(".reasons >> visible=true").startswith("uncertain between ")
    viewer.shot("two")
    first, second = (viewer.page.locator(".view canvas").nth(n).bounding_box() for n in range(2))
    assert first["width"] == pytest.approx(second["width"], abs=2)
    assert first["height"] == second["height"]
    assert second["x"] >= first["x"] + first["width"]
    before = viewer.picture(1)
    viewer.page.mouse.move(first["x"] + 80, first["y"] + 60)
    viewer.page.mouse.wheel(0, -400)
    assert viewer.picture(1) != before
    assert len(set(viewer.page.locator(".corner.window").all_text_contents())) == 1


@pytest.mark.slow
def test_the_table_is_safe_in_a_spreadsheet(
    open_viewer: Opener, slices: list[Path], models: tuple[Model, Model]
) -> None:
    viewer = open_viewer("two")
    viewer.drop(('=HYPERLINK("x").png', slices[0].read_bytes()), ("b, c.png", slices[1].read_bytes()))
    text = viewer.saved("#save-csv").decode()
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert tuple(rows[0]) == COLUMNS
    assert {row["image"] for row in rows} == {'\'=HYPERLINK("x").png', "b, c.png"}
    assert [row["model"] for row in rows] == ["tiny 1.2", "strict 1.2"] * 2
    for row in rows:
        source = slices[0] if "HYPERLINK" in row["image"] else slices[1]
        [expected] = predict(source, models[row["model"].startswith("strict")])
        assert row["decision"] == expected.decision
        assert float(row["p_glioma"]) == pytest.approx(float(expected.probabilities[0]), abs=1e-5)


@pytest.mark.slow
def test_answers_and_views_are_saved(open_viewer: Opener, slices: list[Path]) -> None:
    viewer = open_viewer("two", expected=UNREADABLE)
    viewer.drop(slices[0], slices[1])
    viewer.drop(("notes.txt", b"no image"))
    answers = json.loads(viewer.saved("#save-json"))
    assert answers["disclaimer"] == DISCLAIMER
    assert [slice_["image"] for slice_ in answers["slices"]] == [slices[0].name, slices[1].name]
    assert len(answers["slices"][0]["predictions"][1]["class_maps"]) == 4
    assert [refusal["image"] for refusal in answers["refused"]] == ["notes.txt"]
    picture = np.asarray(Image.open(io.BytesIO(viewer.saved("#save-png"))).convert("RGB")).astype(int)
    assert picture.shape[1] == 2 * 768 + 3 * 20
    amber = (np.abs(picture[-60:] - (232, 176, 74)).sum(axis=2) < 30).sum()
    assert amber > 200  # the disclaimer


@pytest.mark.slow
def test_the_model_card_is_one_click_away(open_viewer: Opener) -> None:
    viewer = open_viewer("two")
    viewer.page.click("#cards")
    text = viewer.page.inner_text("#card-dialog")
    assert "0.951 (95 % interval 0.937 – 0.963), n 1,405" in text
    assert "Research on brain MRI slices. Not a medical device, not for diagnosis." in text
    assert "MIT" in text
    viewer.shot("card")


@pytest.mark.slow
def test_a_token_is_taken_from_the_fragment_or_asked_for(open_viewer: Opener, slices: list[Path]) -> None:
    from_link = open_viewer("closed", "#token=open-sesame")
    assert "token" not in from_link.page.url
    from_link.drop(slices[0])
    assert from_link.names() == [slices[0].name]
    typed = open_viewer("closed", expected=("401 (Unauthorized)",), ready=False)
    typed.page.fill("#token", "wrong")
    typed.page.keyboard.press("Enter")
    typed.page.wait_for_selector("text=did not accept")
    typed.page.fill("#token", "open-sesame")
    typed.page.keyboard.press("Enter")
    typed.page.wait_for_selector("html[data-ready]", state="attached")
    typed.drop(slices[0])
    assert typed.names() == [slices[0].name]


@pytest.mark.slow
def test_a_busy_server_is_asked_again(open_viewer: Opener, slices: list[Path]) -> None:
    viewer = open_viewer(expected=("503 (Service Unavailable)",))
    busy = iter([True, True])

    def answer(route: Any) -> None:
        if next(busy, False):
            route.fulfill(status=503, headers={"retry-after": "0"}, json={"detail": "too much to do"})
        else:
            route.continue_()

    viewer.page.route("**/v1/predictions*", answer)
    viewer.drop(*slices[:6])
    assert sorted(viewer.names()) == sorted(file.name for file in slices[:6])


@pytest.mark.slow
def test_a_service_that_is_down_can_be_tried_again(open_viewer: Opener) -> None:
    viewer = open_viewer(expected=("net::ERR",))
    viewer.page.route("**/v1/models", lambda route: route.abort())
    viewer.page.reload()
    viewer.page.wait_for_selector("text=the server cannot be reached")
    viewer.page.unroute("**/v1/models")
    viewer.page.click("#again")
    viewer.page.wait_for_selector("html[data-ready]", state="attached")
    assert viewer.page.inner_text("#problem") == ""


@pytest.mark.slow
def test_sending_can_be_cancelled(open_viewer: Opener, slices: list[Path]) -> None:
    viewer = open_viewer(expected=("net::ERR",))
    viewer.drop(slices[0])
    viewer.page.route("**/v1/predictions*", lambda route: None)
    viewer.drop_only(*slices[1:9])
    viewer.page.wait_for_selector("#progress:not([hidden])")
    assert len(viewer.names()) == 9
    viewer.page.click("#cancel")
    viewer.page.wait_for_selector("#progress[hidden]", state="attached")
    assert viewer.names() == [slices[0].name]
    viewer.page.unroute_all(behavior="ignoreErrors")
    viewer.drop(slices[1])
    assert viewer.names() == [slices[0].name, slices[1].name]


@pytest.mark.slow
def test_a_folder_keeps_its_paths(open_viewer: Opener, phantoms: Path) -> None:
    viewer = open_viewer()
    viewer.page.set_input_files("#folder", phantoms / "Testing")
    viewer.page.wait_for_selector("html[data-shown]", state="attached")
    viewer.page.wait_for_selector("#progress[hidden]", state="attached")
    assert viewer.names()[0].startswith("Testing/glioma/")
    assert len(viewer.names()) == 4


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_both_themes(open_viewer: Opener, slices: list[Path], scheme: str) -> None:
    viewer = open_viewer("two", color_scheme=scheme, expected=UNREADABLE)
    viewer.drop(*slices[:8], FLAT)
    viewer.drop(("notes.txt", b"no image"))
    assert contrasts_hold(viewer) > 15
    dark = viewer.page.evaluate("() => getComputedStyle(document.documentElement).colorScheme")
    assert dark == scheme
    viewer.choose("flat.png")
    contrasts_hold(viewer)
    viewer.shot(f"two-{scheme}")
    viewer.page.click("#theme")
    assert viewer.page.evaluate("() => getComputedStyle(document.documentElement).colorScheme") != scheme
    contrasts_hold(viewer)


@pytest.mark.slow
def test_fingers_zoom_on_a_tablet(open_viewer: Opener, coloured: Path) -> None:
    viewer = open_viewer("two", viewport={"width": 820, "height": 1180}, has_touch=True)
    viewer.drop(coloured)
    assert viewer.page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    assert (
        min(box["height"] for box in (button.bounding_box() for button in viewer.page.locator("#toolbar button").all()))
        >= 44
    )
    before = viewer.page.inner_text(".window >> nth=0")
    box = viewer.page.locator(".view canvas").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    touch = viewer.page.context.new_cdp_session(viewer.page)
    for kind, apart in (("touchStart", 20), ("touchMove", 30), ("touchMove", 40), ("touchEnd", None)):
        points = [] if apart is None else [{"x": x - apart, "y": y, "id": 1}, {"x": x + apart, "y": y, "id": 2}]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    viewer.picture()
    after = viewer.page.inner_text(".window >> nth=0")
    assert after.startswith("W 255  L 128")
    assert after.split()[4] != before.split()[4]
    viewer.shot("tablet")
