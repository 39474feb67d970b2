"""Sends what nobody would to every operation of the API: no answer may be a 5xx, or other than its schema says.

    python benchmarks/fuzz_api.py --examples 1000 --log fuzz.jsonl

Each operation is asked by itself, with a coordinator, a worker and runs of its own, so that none suffers from what
another has left behind. Of the ids in its path, every other one is real. With ``--log``, operations that it says are
done are passed over, so that a long look can be taken in parts (``--for-s``; the exit status is 3 while some are left).

Needs ``schemathesis``, in any environment: name its command with ``--schemathesis`` if it is not on the path.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
PLACES = {"path": ("run", "task", "test", "worker", "alert"), "query": ("cursor", "run", "worker")}
METHODS = ("get", "post", "put", "patch", "delete")
REAL = 0.5
"""The share of ids and cursors that are real ones."""


@dataclass
class Served:
    """A coordinator with a worker, a run that has ended and one that waits. ``real``: words by parameter's name."""

    url: str
    session: requests.Session
    headers: dict[str, str]
    real: dict[str, list[str]] = field(default_factory=dict)

    def get(self, path: str) -> Any:
        answer = self.session.get(self.url + path)
        answer.raise_for_status()
        return answer.json()

    def post(self, path: str, body: Any = None) -> Any:
        answer = self.session.post(self.url + path, json=body if body is not None else {})
        answer.raise_for_status()
        return answer.json()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=50, help="for each operation")
    parser.add_argument("--operation", action="append", default=[], help="only this one; repeatable")
    parser.add_argument("--log", type=Path, help="JSON lines: what each operation came to")
    parser.add_argument("--for-s", type=float, default=float("inf"), help="begin no further operation after this")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--schemathesis", default="st")
    arguments = parser.parse_args()
    done = {each["operation"] for each in lines_of(arguments.log) if each["examples"] >= arguments.examples}
    stop_at = time.monotonic() + arguments.for_s
    found = 0
    left = arguments.operation or operations()
    for name in [each for each in left if each not in done]:
        if time.monotonic() >= stop_at:
            print("the rest is for another time", flush=True)
            return 3
        with serving() as served, ending_runs(served):
            result = fuzz(arguments, served, name)
        found += bool(result["exit_status"])
        told = result["failures"] or "fine"
        print(f"{name:36} {result['cases']:6} cases in {result['seconds']:6.1f} s: {told}", flush=True)
        if arguments.log is not None and not result["exit_status"]:
            with arguments.log.open("a", encoding="utf-8") as log:
                log.write(json.dumps(result) + "\n")
    return 1 if found else 0


def lines_of(log: Path | None) -> list[dict[str, Any]]:
    if log is None or not log.exists():
        return []
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]


def operations() -> list[str]:
    from fleetest.api.openapi import openapi
    from fleetest.api.reference import api_routes

    paths = openapi(api_routes())["paths"].values()
    return [methods[method]["operationId"] for methods in paths for method in METHODS if method in methods]


@contextmanager
def serving() -> Iterator[Served]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("FLEETEST_")}
    with tempfile.TemporaryDirectory() as directory:
        data = Path(directory) / "data"
        fleetest = [sys.executable, "-m", "fleetest"]
        coordinator = subprocess.Popen(
            [*fleetest, "coordinator", "--port", "0", "--data", str(data)],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        worker: subprocess.Popen[str] | None = None
        try:
            assert coordinator.stdout is not None
            address = coordinator.stdout.readline().split()[2]
            worker = subprocess.Popen(
                [*fleetest, "worker", "--coordinator", address, "--data", str(data), "--slots", "1"],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                text=True,
                env=environment,
            )
            headers = {"Authorization": f"Bearer {(data / 'token').read_text().strip()}"}
            session = requests.Session()
            session.headers.update(headers)
            served = Served(address.replace("ws", "http", 1), session, headers)
            make_something(served)
            yield served
        finally:
            for process in (worker, coordinator):
                if process is not None:
                    process.terminate()
                    process.wait()


def make_something(served: Served) -> None:
    """A run that has ended, one that waits for what is not there, and an alert: there is something to be found."""
    commands = [{"name": "good", "argv": ["true"]}, {"name": "bad", "argv": ["false"]}]
    over = served.post("/api/v1/runs", {"suites": [{"kind": "commands", "commands": commands}]})
    while served.get(over["url"])["is_live"]:
        time.sleep(0.1)
    waits = [{"name": f"waits-{number}", "argv": ["true"], "needs": {"gpus": 99}} for number in range(3)]
    live = served.post("/api/v1/runs", {"suites": [{"kind": "commands", "commands": waits}], "wait_for_workers_s": 1e8})
    workers = served.get("/api/v1/workers")["items"]
    served.post(f"/api/v1/workers/{workers[0]['worker_id']}/quarantine", {"reason": "to have an alert"})
    while not (alerts := served.get("/api/v1/alerts")["items"]):
        time.sleep(0.1)
    served.post(f"/api/v1/workers/{workers[0]['worker_id']}/release")
    cursors = [served.get(f"{over['url']}/tasks?limit=1")["next_cursor"],
               served.get(f"{live['url']}/tasks?limit=1")["next_cursor"],
               served.get(f"{live['url']}/tasks?limit=1&sort=-task_id")["next_cursor"],
               served.get("/api/v1/runs?limit=1")["next_cursor"],
               served.get("/api/v1/history/tests?limit=1")["next_cursor"]]  # fmt: skip
    served.real = {
        "run": [over["run_id"], live["run_id"]],
        "task": ["good", "bad", "waits-0"],
        "test": ["good", "bad"],
        "worker": [workers[0]["worker_id"]],
        "alert": [alert["alert_id"] for alert in alerts],
        "cursor": [cursor for cursor in cursors if cursor],
        "kept": [live["run_id"]],
    }


@contextmanager
def ending_runs(served: Served) -> Iterator[None]:
    """Ends soon whatever was submitted meanwhile: what is made up may collect a whole disk."""
    stop = threading.Event()
    session = requests.Session()
    session.headers.update(served.headers)

    def end() -> None:
        while not stop.wait(0.2):
            for run in session.get(f"{served.url}/api/v1/runs?state=live&limit=1000").json().get("items", ()):
                if run["run_id"] not in served.real["kept"]:
                    session.post(f"{served.url}/api/v1/runs/{run['run_id']}/cancel", json={"kill": True})

    thread = threading.Thread(target=end)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def fuzz(arguments: argparse.Namespace, served: Served, operation: str) -> dict[str, Any]:
    """What came of it; the tool's own words are printed if it found something."""
    command = shutil.which(arguments.schemathesis)
    if command is None:
        sys.exit(f"there is no {arguments.schemathesis}: install schemathesis, or name its command")
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.json"
        (Path(directory) / "schemathesis.toml").write_text(settings(served), encoding="utf-8")
        started = time.monotonic()
        told = subprocess.run(
            [command, "--config-file", "schemathesis.toml", "run", f"{served.url}/openapi.json", "--no-color",
             "--header", f"Authorization: {served.headers['Authorization']}", "--checks", CHECKS,
             "--include-operation-id", operation, "--phases", "examples,coverage,fuzzing", "--continue-on-failure",
             "--max-examples", str(arguments.examples), "--seed", str(arguments.seed),
             "--suppress-health-check", "all", "--generation-database", "none",
             "--report", "json", "--report-json-path", str(report)],
            check=False, cwd=directory, capture_output=True, text=True,
        )  # fmt: skip
        if told.returncode:
            print(told.stdout[-8000:], told.stderr[-2000:], file=sys.stderr)
        found = json.loads(report.read_text(encoding="utf-8"))
    return {
        "operation": operation,
        "examples": arguments.examples,
        "cases": found["test_cases"]["generated"],
        "failures": [failure["title"] for failure in [*found["failures"], *found["errors"]]],
        "accepted": sum(rate["accepted"] for by in found["valid_rates"].values() for rate in by.values()),
        "seconds": round(time.monotonic() - started, 1),
        "exit_status": told.returncode,
    }


def settings(served: Served) -> str:
    """Half of the ids and cursors are real ones."""
    lines = []
    for name, values in served.real.items():
        if name != "kept":
            lines += [f"[dictionaries.{name}]", f"values = {json.dumps(values)}"]
    lines.append("[parameters]")
    lines += [
        f'"{place}.{name}" = {{ dictionary = "{name}", probability = {REAL} }}'
        for place, names in PLACES.items()
        for name in names
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
