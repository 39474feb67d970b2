"""A real coordinator with simulated workers and clients in processes of their own: asked over HTTP, and weighed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import psutil
from local_fleet import LocalFleet

HERE = Path(__file__).parent
TIMEOUT_S = 300.0


class Coordinator:
    def __init__(self, fleet: LocalFleet) -> None:
        self.fleet = fleet
        self.http = fleet.url.replace("ws://", "http://")
        self.token = fleet.token_file.read_text().strip()

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        request = urllib.request.Request(
            f"{self.http}/api/v1{path}",
            data=json.dumps(body).encode() if body is not None else None,
            headers={"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def submit(self) -> str:
        suite = {"kind": "pytest", "directory": "/simulated"}
        return str(self.ask("/runs", {"title": "pytest tests", "suites": [suite]})["run_id"])

    def wait(self, run_id: str, least: int | None = None) -> dict[str, Any]:
        """Until it has ended, or until that many of its tests have."""
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            run: dict[str, Any] = self.ask(f"/runs/{run_id}")
            if not run["is_live"] or (least is not None and run["states"]["finished"] >= least):
                return run
            time.sleep(0.2)
        raise SystemExit(f"the run did not get there within {TIMEOUT_S:.0f} s: {run['states']}")

    def wait_for_workers(self, count: int) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while self.ask("/status")["workers_total"] < count:
            if time.monotonic() > deadline:
                raise SystemExit(f"the workers did not come: see {self.fleet.log}")
            time.sleep(0.2)

    @property
    def cpu_s(self) -> float:
        return cpu_s_of(self.fleet.coordinator.pid)


class Helper:
    """A process beside the coordinator; what it prints is kept."""

    def __init__(self, name: str, *args: str) -> None:
        command = [sys.executable, str(HERE / name), *args]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.said = ""

    def __enter__(self) -> Helper:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        self.said, _ = self._process.communicate()

    def kill(self) -> None:
        """All its links break at once."""
        self._process.kill()

    @property
    def cpu_s(self) -> float:
        return cpu_s_of(self._process.pid)


def cpu_s_of(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)
