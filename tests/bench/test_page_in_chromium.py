"""The page in a real browser: no console error, no request to anywhere, nothing wider than it."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from testbed.wait import wait_until
from tests.unit.bench.documents import document
from tunneld.bench.keep import Keeper

DRIVER = "chromedriver"
ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND", "--hide-scrollbars",
]  # fmt: skip
"""The browser may not look up any name: what it asks for by itself is not the page's."""


class Browser:
    """A session of the WebDriver protocol."""

    def __init__(self, port: int) -> None:
        self._base = f"http://127.0.0.1:{port}"
        options = {"args": ARGUMENTS, "perfLoggingPrefs": {"enableNetwork": True}}
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        made = self._ask("/session", {"capabilities": {"alwaysMatch": wanted}})
        self._base += f"/session/{made['sessionId']}"

    def open(self, path: Path, width: int, *, media: str = "light") -> None:
        feature = {"name": "prefers-color-scheme", "value": media}
        self._command("Emulation.setEmulatedMedia", {"features": [feature]})
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self._command("Emulation.setDeviceMetricsOverride", size)
        self._ask("/url", {"url": path.as_uri()})

    def run(self, script: str) -> Any:
        return self._ask("/execute/sync", {"script": script, "args": []})

    def log(self, kind: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._ask("/se/log", {"type": kind})
        return found

    def screenshot(self, path: Path) -> None:
        asked = {"captureBeyondViewport": True}
        said = self._command("Page.captureScreenshot", asked)
        path.write_bytes(base64.b64decode(said["data"]))

    def pdf(self) -> bytes:
        return base64.b64decode(self._ask("/print", {}))

    def close(self) -> None:
        self._ask("", None, method="DELETE")

    def _command(self, name: str, parameters: dict[str, Any]) -> Any:
        return self._ask("/goog/cdp/execute", {"cmd": name, "params": parameters})

    def _ask(self, path: str, body: dict[str, Any] | None, method: str = "POST") -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._base + path, data, method=method)
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)["value"]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    log = tmp_path_factory.mktemp("driver") / "log"
    with log.open("w") as stream:
        process = subprocess.Popen([DRIVER, "--port=0"], stdout=stream, stderr=stream)
    try:
        said = "started successfully on port "
        wait_until(lambda: said in log.read_text(), 60.0, "chromedriver listening")
        [port] = re.findall(rf"{said}(\d+)", log.read_text())
        made = Browser(int(port))
        try:
            yield made
        finally:
            made.close()
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("page")
    Keeper(directory).keep(document(marked=True))
    return directory


@pytest.mark.parametrize("media", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_opens_without_a_complaint_and_asks_nobody(
    browser: Browser, pages: Path, tmp_path: Path, width: int, media: str
) -> None:
    place = pages / "index.html"
    browser.log("performance")
    browser.open(place, width, media=media)
    assert browser.log("browser") == []
    sent = [json.loads(entry["message"])["message"] for entry in browser.log("performance")]
    asked = [
        it["params"]["request"]["url"] for it in sent if it["method"] == "Network.requestWillBeSent"
    ]
    assert place.as_uri() in asked
    assert [url for url in asked if url not in (place.as_uri(), "data:,")] == []
    # Nothing is cut off at the side: tables scroll in their own boxes.
    assert browser.run("return document.documentElement.scrollWidth") <= width
    # Every plot is drawn, and its letters are not too small to read.
    plots = browser.run(
        "return [...document.querySelectorAll('svg')].map(s => [s.getBoundingClientRect().width,"
        " 11 * s.getBoundingClientRect().width / s.viewBox.baseVal.width])"
    )
    assert len(plots) == len(json.loads((pages / "bench.json").read_text())["plots"])
    assert all(wide > 300 and letters >= 8.5 for wide, letters in plots), plots
    # The medians are seen without scrolling.
    edges = browser.run(
        "return [...document.querySelectorAll('th:nth-child(2)')]"
        ".map(cell => cell.getBoundingClientRect().right)"
    )
    assert edges
    assert max(edges) <= width
    # What is dark on dark cannot be read.
    ink, paper = browser.run(
        "const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]"
    )
    assert (brightness(ink) > brightness(paper)) == (media == "dark")
    browser.screenshot(tmp_path / f"{width}-{media}.png")
    assert (tmp_path / f"{width}-{media}.png").stat().st_size > 10_000


def test_the_page_prints(browser: Browser, pages: Path) -> None:
    browser.open(pages / "index.html", 1280)
    assert browser.pdf().startswith(b"%PDF-")


def brightness(colour: str) -> float:
    numbers = colour.partition("(")[2].rstrip(")").split(",")[:3]
    return sum(float(number) for number in numbers)
