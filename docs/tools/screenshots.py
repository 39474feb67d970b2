"""Takes the pictures of the dashboard that the documentation shows, of a real fleet with a real run.

    python docs/tools/screenshots.py [--only NAME] [--all-into DIR]

Needs Chromium (``FLEETEST_CHROMIUM``, or on the path) and Playwright. Starts a coordinator and workers on loopback,
runs a suite with failures, crashes, retries, flaky and waiting tests several times while workers are drained,
quarantined and lost, and ends everything afterwards. ``--all-into`` takes every page in every theme, for critical eyes.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 240.0
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--hide-scrollbars"]  # fmt: skip
ARGUMENTS = [[], ["test_orders.py"], ["test_search.py"], ["-k", "orders or search"], ["test_orders.py"], [], []]
"""Of each run; the last one is watched while it goes on. Those without any have the tests that need a GPU."""
SUITES = {
    "pytest.ini": "[pytest]\naddopts = -q -p no:cacheprovider\n",
    "test_orders.py": """
import os, pathlib, random, time
import pytest

PACE = float(pathlib.Path(__file__).with_name("pace").read_text())

@pytest.mark.parametrize("number", range(60))
def test_order(number):
    time.sleep((0.05 + (number * 7 % 11) / 20) * PACE)
    assert number % 17 != 5, f"order {number} lost 1 of 3 items"

def test_importer_survives_bad_file():
    time.sleep(0.4)
    os.abort()

@pytest.mark.fleet(retries=2)
def test_payment_gateway_answers():
    seen = pathlib.Path(__file__).with_name("seen")
    seen.write_text(seen.read_text() + "x" if seen.exists() else "x")
    print("asking the gateway, try", len(seen.read_text()))
    assert len(seen.read_text()) % 2 == 0, "gateway answered 503"

def test_stock_is_counted_once():
    time.sleep(0.2 * random.random() * PACE)
    counted = pathlib.Path(__file__).with_name("counted")
    counted.write_text(counted.read_text() + "x" if counted.exists() else "x")
    assert len(counted.read_text()) % 3, "7 pieces in two warehouses, 6 in the ledger"
""",
    "test_search.py": """
import time
import pytest

@pytest.mark.parametrize("words", range(40))
def test_query(words):
    time.sleep(0.1 + words % 5 / 10)

@pytest.mark.skip(reason="needs the new index")
def test_reindex():
    pass

@pytest.mark.xfail(reason="ranking of synonyms is not done")
def test_synonyms():
    assert "car" == "automobile"
""",
    "test_vision.py": """
import time
import pytest

@pytest.mark.parametrize("size", [224, 384, 512])
@pytest.mark.fleet(gpus=1, requires="gpu.memory>=40GB")
def test_inference(size):
    time.sleep(0.5)
""",
}
WORKERS = {
    "berlin-1": ("--label", "rack=b1", "--label", "browser=chrome", "--slots", "2"),
    "berlin-2": ("--label", "rack=b1", "--label", "browser=firefox", "--slots", "2"),
    "oslo-1": ("--label", "rack=o2", "--label", "browser=chrome", "--slots", "2"),
    "oslo-2": ("--label", "rack=o2", "--slots", "1"),
    "lisbon-1": ("--label", "rack=l1", "--slots", "1", "--probe", "false"),
}


class Stage:
    """A fleet of processes; ``ask`` talks to its coordinator."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self.suite = folder / "shop"
        self.suite.mkdir()
        for name, text in SUITES.items():
            (self.suite / name).write_text(text)
        coordinator = self.start("fleetest", "coordinator", "--port", "0", "--reconnect-grace-s", "2")
        assert coordinator.stdout is not None
        self.url = coordinator.stdout.readline().split()[2]
        self.http = self.url.replace("ws://", "http://")
        self.token = (folder / "data" / "token").read_text().strip()

    def start(self, *args: str, quiet: bool = False) -> subprocess.Popen[str]:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("FLEETEST_")}
        environment |= {"FLEETEST_DATA": str(self._folder / "data"), "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(
            [sys.executable, "-m", *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if quiet else subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=self.suite,
            env=environment,
        )
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        return process

    def client(self, *args: str) -> subprocess.Popen[str]:
        return self.start("pytest", *args, "--fleet", self.url, quiet=True)

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        request = urllib.request.Request(
            f"{self.http}/api/v1{path}",
            data=json.dumps(body).encode() if body is not None else None,
            headers={"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def until(self, path: str, holds: Any) -> Any:
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            answer = self.ask(path)
            if holds(answer):
                return answer
            time.sleep(0.1)
        raise SystemExit(f"{path} did not come to what was waited for: {answer}")


def trouble(fleet: Stage, turn: int) -> None:
    """What happens to oslo-1 while the runs go on: its page tells it, and so do the alerts."""
    action, body = {
        1: ("drain", {}),
        2: ("resume", {}),
        3: ("quarantine", {"reason": "its disk is full"}),
        4: ("release", {}),
    }.get(turn, ("", {}))
    if action:
        fleet.ask(f"/workers/oslo-1/{action}", body)
    if action == "release":
        [alert] = [each for each in fleet.ask("/alerts?state=open")["items"] if each["worker_id"] == "lisbon-1"]
        fleet.ask(f"/alerts/{alert['alert_id']}/acknowledge", {})


@contextlib.contextmanager
def stage() -> Iterator[Stage]:
    """Several runs are over (their waiting tests were cancelled), one is half done; workers have seen better days."""
    with tempfile.TemporaryDirectory(prefix="fleetest-pictures-") as name, contextlib.ExitStack() as stack:
        fleet = Stage(Path(name), stack)
        workers = {}
        for worker, options in WORKERS.items():
            workers[worker] = fleet.start(
                "fleetest", "worker", "--coordinator", fleet.url, "--name", worker, *options, quiet=True
            )
        fleet.until("/workers", lambda page: len(page["items"]) == len(WORKERS))
        for turn in range(len(ARGUMENTS)):
            is_last = turn == len(ARGUMENTS) - 1
            (fleet.suite / "pace").write_text("12" if is_last else "1")
            fleet.client(*ARGUMENTS[turn])
            run = fleet.until("/runs?state=live", lambda page: page["items"])["items"][0]["run_id"]
            trouble(fleet, turn)
            if is_last:
                workers["oslo-2"].kill()
                fleet.ask("/workers/berlin-2/drain", {})
                fleet.until(f"/runs/{run}", lambda run: run["states"]["finished"] >= 30)
                break
            if not ARGUMENTS[turn]:
                # Nobody has a GPU.
                fleet.until(f"/runs/{run}", lambda run: run["tasks"] and run["states"]["finished"] >= run["tasks"] - 3)
                fleet.ask(f"/runs/{run}/cancel", {"reason": "the GPU machine is not up yet"})
            fleet.until(f"/runs/{run}", lambda run: not run["is_live"])
        yield fleet


def pages(fleet: Stage) -> dict[str, str]:
    """Name of the picture, and the place that it shows. Live places come first: the run goes on meanwhile."""
    runs = fleet.ask("/runs")["items"]
    live, past = runs[0]["run_id"], runs[1]["run_id"]
    flaky = urllib.parse.quote("test_orders.py::test_payment_gateway_answers", safe="")
    waiting = urllib.parse.quote("test_vision.py::test_inference[224]", safe="")
    return {
        "overview": "/",
        "run": f"/runs/{live}",
        "worker": "/workers/oslo-1",
        "lost": "/workers/oslo-2",
        "workers": "/workers",
        "queue": "/queue",
        "task": f"/runs/{live}/tasks/{waiting}",
        "alerts": "/alerts",
        "runs": "/runs",
        "failures": f"/runs/{past}",
        "attempts": f"/runs/{past}/tasks/{flaky}",
        "tests": "/tests",
        "slowest": "/tests?view=slow",
        "matrix": "/tests?view=matrix&by=rack",
        "test": f"/tests/{flaky}",
    }


IN_DOCUMENTS = {
    "light": ("overview", "run", "failures", "workers", "worker", "lost", "tests", "matrix", "test", "queue", "alerts"),
    "dark": ("overview", "run"),
    "phone": ("run",),
}
# A picture with one byte a pixel: its 256 most frequent colours, and for each other the nearest of them.
INDEXED = """async url => {
  const picture = await createImageBitmap(await (await fetch(url)).blob());
  const canvas = new OffscreenCanvas(picture.width, picture.height);
  const context = canvas.getContext("2d");
  context.drawImage(picture, 0, 0);
  const pixels = new Uint32Array(context.getImageData(0, 0, picture.width, picture.height).data.buffer);
  const counts = new Map();
  for (const pixel of pixels) counts.set(pixel, (counts.get(pixel) ?? 0) + 1);
  const palette = [...counts].sort((one, other) => other[1] - one[1]).slice(0, 256).map(([pixel]) => pixel);
  const parts = (pixel) => [pixel & 255, (pixel >> 8) & 255, (pixel >> 16) & 255];
  const known = palette.map(parts);
  const places = new Map(palette.map((pixel, place) => [pixel, place]));
  const nearest = (pixel) => {
    const [red, green, blue] = parts(pixel);
    let [best, least] = [0, Infinity];
    known.forEach((other, place) => {
      const distance = (red - other[0]) ** 2 + (green - other[1]) ** 2 + (blue - other[2]) ** 2;
      if (distance < least) [best, least] = [place, distance];
    });
    places.set(pixel, best);
    return best;
  };
  let text = "";
  for (let at = 0; at < pixels.length; at += 8192) {
    text += String.fromCharCode(...pixels.subarray(at, at + 8192).map((pixel) => places.get(pixel) ?? nearest(pixel)));
  }
  return { width: picture.width, height: picture.height, palette: known.flat(), indices: btoa(text) };
}"""


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def smaller(browser: Browser, png: bytes) -> bytes:
    """The same picture with a palette: a third of the size."""
    page = browser.new_page()
    told = page.evaluate(INDEXED, "data:image/png;base64," + base64.b64encode(png).decode())
    page.close()
    width, height, indices = told["width"], told["height"], base64.b64decode(told["indices"])
    lines = b"".join(b"\0" + indices[row * width : (row + 1) * width] for row in range(height))
    head = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    parts = ((b"IHDR", head), (b"PLTE", bytes(told["palette"])), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, data) for kind, data in parts)


def take(page: Page, name: str, place: str, target: Path) -> None:
    page.evaluate("place => { location.hash = place; }", place)
    page.wait_for_selector("main h1")
    page.wait_for_timeout(2500)
    if name == "failures":
        page.click("details summary >> nth=0")
        page.wait_for_selector(".evidence .facts")
    page.mouse.move(0, 0)
    browser = page.context.browser
    assert browser is not None
    target.write_bytes(smaller(browser, page.screenshot()))
    print(f"{target.name}: {target.stat().st_size / 1024:.0f} KiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="NAME", help="one page")
    parser.add_argument(
        "--all-into", metavar="DIR", type=Path, help="every page in both themes and on a phone, to be looked at"
    )
    given = parser.parse_args()
    folder = given.all_into or ROOT / "docs" / "images"
    folder.mkdir(parents=True, exist_ok=True)
    chromium = os.environ.get("FLEETEST_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with stage() as fleet, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=FLAGS)
        screens = {}
        for theme in ("light", "dark", "phone"):
            size = {"width": 390, "height": 844} if theme == "phone" else {"width": 1280, "height": 860}
            context = browser.new_context(color_scheme="dark" if theme == "dark" else "light", viewport=size)
            page = screens[theme] = context.new_page()
            page.set_default_timeout(60_000)
            page.goto(fleet.http)
            page.fill("#token", fleet.token)
            page.click("text=Log in >> nth=-1")
            page.wait_for_selector(".link-state:text-is('Live')")
        for name, place in pages(fleet).items():
            for theme, page in screens.items():
                is_wanted = given.all_into is not None or name in IN_DOCUMENTS[theme]
                if is_wanted and given.only in (None, name):
                    take(page, name, place, folder / f"dashboard-{name}-{theme}.png")
        browser.close()


if __name__ == "__main__":
    main()
