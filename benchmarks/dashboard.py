"""The dashboard with 100,000 tests on 1,000 workers: first paint, interaction and memory in a real browser, and what 50
open dashboards cost a run.

A real coordinator; the workers are links that speak the protocol (``simulated_workers.py``); Chromium is driven by
Playwright. First paint is counted from the last byte of a page's data to the frame that shows it; an interaction from
its event to the second frame after it. The machine's noise is in all numbers: believe ratios within one run.

    python benchmarks/dashboard.py [--tests 100000] [--workers 1000] [--rate 1500] [--pairs 2] [--quick] [--json FILE]

The cost is measured in pairs of a run that nobody looks at and one with 50 dashboards, in turns the one and the other
first, after a run that only warms up; the simulated tests take the same times in every run. Beside the wall time of the
runs stands the processor time of the coordinator, which is the product's, and that of the clients and the workers, who
are not, and compete with it for the same cores.

``--part``: browser or cost alone. ``--rate``: tests per second that the workers together finish. ``--quick``: 10,000
tests, 200 workers, one pair.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from local_fleet import local_fleet
from playwright.sync_api import Page, sync_playwright
from simulated_fleet import Coordinator, Helper

HERE = Path(__file__).parent
DASHBOARDS = 50
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--enable-precise-memory-info"]  # fmt: skip
PROBE = HERE / "dashboard_probe.js"


def look(coordinator: Coordinator, run_id: str, tests: int, workers: int) -> dict[str, Any]:
    """Everything that is measured in the browser; the run may still go on."""
    found: dict[str, Any] = {"paint_ms": {}, "interaction_ms": {}, "memory_mb": {}}
    chromium = os.environ.get("FLEETEST_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(60_000)
        page.add_init_script(PROBE.read_text())
        page.goto(coordinator.http)
        page.fill("#token", coordinator.token)
        page.click("text=Log in >> nth=-1")
        page.wait_for_selector(".link-state:text-is('Live')")
        page.goto(f"{coordinator.http}/#/queue")
        places: dict[str, tuple[str, str, int]] = {
            "overview": ("/", "/status/series", workers),
            "run": (f"/runs/{run_id}", "/timeline", tests),
            "workers": ("/workers", "/workers", workers),
        }
        for name, place in places.items():
            found["paint_ms"][name] = page.evaluate("args => window.painted(...args)", [name, *place])
            page.wait_for_timeout(1000)
            for title, took, longest in page.evaluate("name => window.acted(name)", name):
                found["interaction_ms"][f"{name}: {title}"] = (took, longest)
            found["memory_mb"][name] = memory_mb(page)
        browser.close()
    return found


def memory_mb(page: Page) -> tuple[float, float]:
    """JavaScript's heap after a collection, and the largest renderer's own memory."""
    session = page.context.new_cdp_session(page)
    session.send("HeapProfiler.collectGarbage")
    session.send("Performance.enable")
    metrics = {each["name"]: each["value"] for each in session.send("Performance.getMetrics")["metrics"]}
    session.detach()
    renderers = [
        each.memory_full_info().uss
        for each in psutil.Process().children(recursive=True)
        if "--type=renderer" in " ".join(each.cmdline())
    ]
    return metrics["JSHeapUsedSize"] / 1e6, max(renderers) / 1e6


@dataclass(frozen=True)
class TimedRun:
    """``asked``: what the clients of the dashboards say of themselves; empty without any."""

    wall_s: float
    coordinator_cpu_s: float
    workers_cpu_s: float
    asked: dict[str, Any]


def timed_run(coordinator: Coordinator, workers: Helper, dashboards: int) -> TimedRun:
    run_id, cpu_s, workers_cpu_s = coordinator.submit(), coordinator.cpu_s, workers.cpu_s
    asked: dict[str, Any] = {}
    if dashboards:
        args = (coordinator.fleet.url, str(coordinator.fleet.token_file), run_id, "--count", str(dashboards))
        with Helper("open_dashboards.py", *args) as watching:
            run = coordinator.wait(run_id)
        asked = json.loads(watching.said)
    else:
        run = coordinator.wait(run_id)
    return TimedRun(float(run["duration_s"]), coordinator.cpu_s - cpu_s, workers.cpu_s - workers_cpu_s, asked)


def measure_cost(coordinator: Coordinator, workers: Helper, pairs: int) -> list[tuple[TimedRun, TimedRun]]:
    """Pairs of a run alone and a watched one."""
    found = []
    print(f"\n{'':22} {'run':>8} {'coordinator':>12} {'workers':>9} {'clients':>9}")
    for number in range(pairs):
        took: dict[int, TimedRun] = {}
        for dashboards in (0, DASHBOARDS) if number % 2 == 0 else (DASHBOARDS, 0):
            run = took[dashboards] = timed_run(coordinator, workers, dashboards)
            print(
                f"{f'{dashboards} dashboards' if dashboards else 'alone':22} {run.wall_s:6.1f} s"
                f" {run.coordinator_cpu_s:10.1f} s {run.workers_cpu_s:7.1f} s {run.asked.get('cpu_s', 0.0):7.1f} s"
                f"   {', '.join(f'{name} {value}' for name, value in run.asked.items() if name != 'cpu_s')}"
            )
        alone, watched = took[0], took[DASHBOARDS]
        found.append((alone, watched))
        more_s = watched.coordinator_cpu_s - alone.coordinator_cpu_s
        print(
            f"{'':22} {watched.wall_s / alone.wall_s - 1:+8.1%} {more_s / alone.coordinator_cpu_s:+12.1%}"
            f" ({more_s / watched.wall_s:.1%} of a core)"
        )
    return found


def show(found: dict[str, Any]) -> None:
    print(f"{'page':10} {'first paint':>12} {'all of it':>12} {'JS heap':>9} {'renderer':>9}")
    for name, took in found["paint_ms"].items():
        heap, whole = found["memory_mb"][name]
        print(f"{name:10} {took['paint']:9.0f} ms {took['all']:9.0f} ms {heap:6.0f} MB {whole:6.0f} MB")
    print(f"\n{'interaction':28} {'to the second frame':>20} {'longest task':>13}")
    for name, (took, longest) in found["interaction_ms"].items():
        print(f"{name:28} {took:17.0f} ms {longest:10.0f} ms")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tests", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=1500.0)
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--part", choices=("all", "browser", "cost"), default="all")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args()
    if given.quick:
        given.tests, given.workers, given.rate, given.pairs = 10_000, 200, 1000.0, 1
    with (
        tempfile.TemporaryDirectory(prefix="fleetest-dashboard-") as name,
        local_fleet(Path(name), workers=0) as fleet,
    ):
        coordinator = Coordinator(fleet)
        counts = ("--workers", str(given.workers), "--tests", str(given.tests))
        pace = ("--mean-s", str(given.workers / given.rate))
        found: dict[str, Any] = {}
        with Helper("simulated_workers.py", fleet.url, str(fleet.token_file), *counts, *pace) as workers:
            coordinator.wait_for_workers(given.workers)
            run_id = coordinator.submit()
            coordinator.wait(run_id)
            if given.part != "cost":
                found = look(coordinator, run_id, int(given.tests * 0.99), given.workers)
                show(found)
            if given.part != "browser":
                pairs = measure_cost(coordinator, workers, given.pairs)
                found["runs"] = [[asdict(run) for run in pair] for pair in pairs]
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
