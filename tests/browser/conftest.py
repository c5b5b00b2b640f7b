"""A real browser on the real service with small models; a test fails where its page logs an error."""

import base64
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from braintumor.models.session import Model, load_folder
from braintumor.predictor import predict

sync_api = pytest.importorskip("playwright.sync_api", reason="the page is tested with playwright, of the extra dev")

TOKEN = "open-sesame"
DROP = """(files) => {
    const transfer = new DataTransfer();
    for (const [name, content] of files) {
        transfer.items.add(new File([Uint8Array.from(atob(content), (c) => c.charCodeAt(0))], name));
    }
    for (const kind of ["dragover", "drop"]) {
        document.body.dispatchEvent(
            new DragEvent(kind, {dataTransfer: transfer, bubbles: true, cancelable: true})
        );
    }
}"""

CONTRASTS = """(selectors) => {
    const parse = (text) => text.match(/[\\d.]+/g).map(Number);
    const light = (rgb) => rgb.slice(0, 3).map((v) => v / 255)
        .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
        .reduce((sum, v, n) => sum + v * [0.2126, 0.7152, 0.0722][n], 0);
    const behind = (element) => {
        for (let at = element; at; at = at.parentElement) {
            const colour = parse(getComputedStyle(at).backgroundColor);
            if ((colour[3] ?? 1) > 0) return colour;
        }
        return [255, 255, 255];
    };
    const found = {};
    for (const selector of selectors) {
        for (const element of document.querySelectorAll(selector)) {
            if (!element.checkVisibility()) continue;
            const [a, b] = [parse(getComputedStyle(element).color), behind(element)].map(light);
            const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
            found[selector] = Math.min(found[selector] ?? 99, ratio);
        }
    }
    return found;
}"""


@dataclass
class Viewer:
    """A page of the viewer, and what it logged that it should not have."""

    page: Any
    logged: list[str] = field(default_factory=list)
    expected: tuple[str, ...] = ()

    def log(self, message: Any) -> None:
        """Keep an error or a warning, such as what the policy of the page forbids."""
        if message.type in ("error", "warning"):
            self.logged.append(message.text)

    def drop(self, *files: Path | tuple[str, bytes]) -> None:
        """Drop files on the page and wait until all are answered."""
        self.drop_only(*files)
        self.page.wait_for_selector("body.started")
        self.page.wait_for_selector("#progress[hidden]", state="attached")

    def drop_only(self, *files: Path | tuple[str, bytes]) -> None:
        """Drop files on the page."""
        named = [(file.name, file.read_bytes()) if isinstance(file, Path) else file for file in files]
        self.page.evaluate(DROP, [(name, base64.b64encode(content).decode()) for name, content in named])

    def choose(self, name: str) -> None:
        """Click a slice in the list and wait until it is shown."""
        self.page.click(f"#list li:has-text('{name}')")
        self.page.wait_for_selector(f".view canvas[aria-label^='Slice {name}.']")
        self.picture()

    def picture(self, number: int = 0) -> str:
        """Return what the canvas of a model shows after the next frame, as a PNG file in a data address."""
        address: str = self.page.evaluate(
            """(number) => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(() =>
                resolve(document.querySelectorAll(".view canvas")[number].toDataURL())
            )))""",
            number,
        )
        return address

    def contrasts(self, *selectors: str) -> dict[str, float]:
        """Return the least ratio of luminances of the visible texts that each selector finds, WCAG 1.4.3."""
        ratios: dict[str, float] = self.page.evaluate(CONTRASTS, list(selectors))
        return ratios

    def names(self) -> list[str]:
        """Return the slices in the list."""
        names: list[str] = self.page.locator("#list .entry-name").all_text_contents()
        return names

    def saved(self, button: str) -> bytes:
        """Click a button, and return what is downloaded then."""
        with self.page.expect_download() as download:
            self.page.click(button)
        return Path(download.value.path()).read_bytes()

    def shot(self, name: str) -> None:
        """Save a screenshot."""
        folder = Path(os.environ.get("BRAINTUMOR_SCREENSHOTS", "build/screenshots"))
        folder.mkdir(parents=True, exist_ok=True)
        self.page.wait_for_timeout(100)
        self.page.screenshot(path=folder / f"{name}.png")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Return the browser of this machine."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no chromium on the PATH")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox"] if os.geteuid() == 0 else []
        )
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def models(model_folder: Path, slices: list[Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Model]:
    """Return the small model and another, the same but that it refers the less certain half of the phantoms."""
    folder = tmp_path_factory.mktemp("second") / "model"
    shutil.copytree(model_folder, folder)
    shares = sorted(float(prediction.probabilities.max()) for prediction in predict(slices, load_folder(model_folder)))
    points = [{"coverage": 0.95, "confidence": shares[len(shares) // 2], "error": 0.0}]
    card = json.loads((folder / "card.json").read_text())
    card |= {
        "name": "strict",
        "rejection": {"float32": {"ood_threshold": 1e9, "far_ood_threshold": 2e9, "points": points, "sets": {}}},
    }
    card["metrics"] = {
        "parameters": 2566116,
        "tested": {
            "accuracy": {"value": 0.951, "low": 0.937, "high": 0.963, "n": 1405},
            "per_class": {"glioma": {"recall": {"value": 0.93, "low": 0.9, "high": 0.95, "n": 325}}},
            "protocol": "clean",
        },
    }
    (folder / "card.json").write_text(json.dumps(card))
    return load_folder(model_folder, threads=1), load_folder(folder, threads=1)


@pytest.fixture(scope="module")
def addresses(models: tuple[Model, Model], served: Any) -> Iterator[dict[str, str]]:
    """Return the addresses of services with one model, with two, and with a token."""
    with served(models[:1]) as one, served(models) as two, served(models[:1], token=TOKEN) as closed:
        places = {"one": one, "two": two, "closed": closed}
        yield {name: f"http://{host}:{port}/" for name, (host, port) in places.items()}


@pytest.fixture
def open_viewer(browser: Any, addresses: dict[str, str]) -> Iterator[Callable[..., Viewer]]:
    """Return what opens the page of a service; in the end nothing unexpected may have been logged."""
    opened: list[tuple[Any, Viewer]] = []

    def open_viewer(
        service: str = "one", fragment: str = "", expected: tuple[str, ...] = (), ready: bool = True, **options: Any
    ) -> Viewer:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        context.set_default_timeout(8000)
        viewer = Viewer(context.new_page(), expected=expected)
        opened.append((context, viewer))
        viewer.page.on("console", viewer.log)
        viewer.page.on("pageerror", lambda error: viewer.logged.append(str(error)))
        viewer.page.goto(addresses[service] + fragment)
        if ready:
            viewer.page.wait_for_selector("html[data-ready]", state="attached")
        return viewer

    yield open_viewer
    for context, viewer in opened:
        stored = viewer.page.evaluate("() => [document.cookie, localStorage.length, sessionStorage.length]")
        context.close()
        assert stored == ["", 0, 0]
        assert [line for line in viewer.logged if not any(part in line for part in viewer.expected)] == []
