"""Runs all test files of this folder that are programs, each in a process of its own, and sums them up.

    python run_integration_tests.py [--verbose] [--quick] [--json FILE] [FILE ...]

The exit status is 0 only if every test of every file passed.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent
FILES = (
    "test_scheduler.py",
    "test_health_monitor.py",
    "test_load_balancer.py",
    "test_integration.py",
    "test_benchmark.py",
)
STOP_TIMEOUT_S = 20.0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-v", "--verbose", action="store_true", help="one line per test")
    parser.add_argument("--quick", action="store_true", help="small sizes where a test measures something")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all outcomes and measurements to FILE")
    parser.add_argument("files", nargs="*", metavar="FILE", help="which of them  [default: all]")
    given = parser.parse_args(arguments)
    for name in set(given.files).difference(FILES):
        parser.error(f"{name} is none of {', '.join(FILES)}")
    options = [*(["--verbose"] if given.verbose else []), *(["--quick"] if given.quick else [])]
    reports: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="fleetest-tests-") as folder:
        for name in given.files or FILES:
            print(f"== {name}", flush=True)
            reports[name] = run(name, options, Path(folder, f"{name}.json"))
    print()
    print(summary(reports))
    if given.json is not None:
        given.json.write_text(json.dumps({"files": reports, "passed": has_passed(reports)}, indent=2) + "\n")
    return 0 if has_passed(reports) else 1


def run(name: str, options: Sequence[str], report_file: Path) -> dict[str, Any]:
    """Run one file and return its report; a file that ended without one has failed."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, str(TESTS / name), *options, "--json", str(report_file)], cwd=TESTS)
    try:
        status = process.wait()
    except BaseException:
        # Ctrl-C reaches both; it is given the time to end what it started.
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        raise
    try:
        report: dict[str, Any] = json.loads(report_file.read_text())
    except (OSError, ValueError):
        report = {"passed": False, "tests": [], "measurements": [], "left_open": []}
    report["seconds"] = round(time.perf_counter() - started, 3)
    report["exit_status"] = status
    report["passed"] = bool(report["passed"]) and status == 0
    return report


def has_passed(reports: dict[str, dict[str, Any]]) -> bool:
    return bool(reports) and all(report["passed"] for report in reports.values())


def summary(reports: dict[str, dict[str, Any]]) -> str:
    """One line per file, what did not pass by name, and the verdict."""
    lines = [f"{'file':24} {'tests':>6} {'passed':>7} {'failed':>7} {'errors':>7} {'not run':>8} {'seconds':>8}"]
    for name, report in reports.items():
        counts = Counter(test["outcome"] for test in report["tests"])
        numbers = [len(report["tests"]), counts["passed"], counts["failed"], counts["error"], counts["not run"]]
        widths = (6, 7, 7, 7, 8)
        columns = " ".join(str(number).rjust(width) for number, width in zip(numbers, widths, strict=True))
        lines.append(f"{name:24} {columns} {report['seconds']:8.1f}{'' if report['passed'] else '   NOT PASSED'}")
    for name, report in reports.items():
        for test in report["tests"]:
            if test["outcome"] != "passed":
                reason = f": {test['reason']}" if test["reason"] else ""
                lines.append(f"  {test['outcome']}: {name} {test['test']}{reason}")
        lines += [f"  left open: {name} {text}" for text in report["left_open"]]
        if not report["passed"] and all(test["outcome"] == "passed" for test in report["tests"]):
            lines.append(f"  {name} ended with exit status {report['exit_status']}")
    lines.append("all passed" if has_passed(reports) else "NOT all passed")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
