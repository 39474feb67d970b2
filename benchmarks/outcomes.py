"""Compares outcomes test for test: plain pytest against Fleetest, embedded and over the network.

    benchmarks/.venv/bin/python benchmarks/outcomes.py networkx astropy trio
    benchmarks/.venv/bin/python benchmarks/outcomes.py networkx --way network --kill-worker 0.4
    benchmarks/.venv/bin/python benchmarks/outcomes.py my --args "tests -x" --directory ~/project

Ways: ``2`` and ``8`` embedded runners, ``network`` (a coordinator and two workers of one slot), ``xdist`` (for telling
what no parallel runner can do). Plain pytest runs twice: a test that differs there is shown as unsteady, and not
compared. Compared are the outcome of every phase of every test, as the reporting process tells it, that no phase is
told twice, the tests in the JUnit file and the exit status. Exit status: 0 if all is equal, 1 if something differs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from local_fleet import LocalFleet, local_fleet
from suites import SUITES, Suite

HERE = Path(__file__).resolve().parent
WAYS = ("2", "8", "network", "xdist")
SHOWN_MAX = 40
POLL_S = 0.05


@dataclass
class Told:
    """What one run told its user."""

    status: int
    reports: Counter[tuple[str, str, str]]
    """How often (test, phase, outcome) was told."""
    junit: Counter[tuple[str, str]]
    wall_s: float
    output: Path

    @property
    def tests(self) -> int:
        return len({test for test, _, _ in self.reports})


@dataclass
class Job:
    """How a suite is run: where, with what, and where its records go."""

    suite: Suite
    directory: Path
    records: Path

    def run(self, label: str, args: list[str], kill: KillPlan | None = None) -> Told:
        record, junit, output = (self.records / f"{label}.{kind}" for kind in ("jsonl", "xml", "txt"))
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "outcome_recorder"]
        environment = {
            **{name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
            "PYTHONPATH": os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")])),
            "FLEETEST_OUTCOMES_FILE": str(record),
            "FLEETEST_OUTCOMES_PARENT": str(os.getpid()),
        }
        started = time.perf_counter()
        with output.open("wb") as stream:
            process = subprocess.Popen(
                [*command, f"--junitxml={junit}", *args, *self.suite.args],
                cwd=self.directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
            )
            try:
                if kill is not None:
                    kill.watch(process, record)
                status = process.wait()
            finally:
                # Only if we are ended ourselves: its fleet ends with it.
                process.terminate()
        return Told(status, read_reports(record), read_junit(junit), time.perf_counter() - started, output)


@dataclass
class KillPlan:
    """Kill a worker once this many reports have been told."""

    worker: subprocess.Popen[bytes]
    after_reports: int
    done: bool = False

    def watch(self, client: subprocess.Popen[bytes], record: Path) -> None:
        while client.poll() is None:
            with contextlib.suppress(FileNotFoundError):
                if record.read_bytes().count(b"\n") >= self.after_reports:
                    os.kill(self.worker.pid, signal.SIGKILL)
                    self.done = True
                    return
            time.sleep(POLL_S)


def read_reports(path: Path) -> Counter[tuple[str, str, str]]:
    if not path.exists():
        return Counter()
    return Counter(tuple(json.loads(line)) for line in path.read_text().splitlines())


def read_junit(path: Path) -> Counter[tuple[str, str]]:
    if not path.exists():
        return Counter()
    cases = ElementTree.parse(path).iter("testcase")
    return Counter((case.get("classname", ""), case.get("name", "")) for case in cases)


def main() -> int:
    given = parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    suites = [Suite("given", "", tuple(shlex.split(given.args)))] if given.args else chosen_suites(given.suite)
    equal = True
    with contextlib.ExitStack() as stack:
        records = given.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="outcomes-")))
        for suite in suites:
            folder = records / suite.name
            folder.mkdir(parents=True, exist_ok=True)
            directory = given.directory or folder
            if given.directory is None:
                Path(folder, "pytest.ini").write_text("[pytest]\n")
            equal = compare(Job(suite, directory, folder), given) and equal
    return 0 if equal else 1


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ", ".join(suite.name for suite in SUITES)
    parser.add_argument("suite", nargs="*", help=f"{names}; all if none is given")
    parser.add_argument("--way", action="append", choices=WAYS, help="may be repeated; all but xdist if not given")
    parser.add_argument(
        "--kill-worker", type=float, metavar="SHARE", help="network: kill -9 one worker after this share of the reports"
    )
    parser.add_argument("--args", help="pytest arguments of a suite of your own, as one string")
    parser.add_argument("--directory", type=Path, help="run there instead of in an empty folder")
    parser.add_argument("--keep", type=Path, help="keep records and outputs in this folder")
    given = parser.parse_args()
    given.way = given.way or ["2", "8", "network"]
    return given


def chosen_suites(names: list[str]) -> list[Suite]:
    unknown = set(names) - {suite.name for suite in SUITES}
    if unknown:
        raise SystemExit(f"unknown suites: {', '.join(sorted(unknown))}")
    return [suite for suite in SUITES if not names or suite.name in names]


def compare(job: Job, given: argparse.Namespace) -> bool:
    print(f"\n{job.suite.name}: {job.suite.because}", flush=True)
    plain = ["-p", "no:fleetest", "-p", "no:xdist"]
    first = told_line("plain pytest", job.run("plain", plain))
    second = told_line("plain, again", job.run("plain-again", plain))
    unsteady = {test for test, _, _ in (first.reports - second.reports) + (second.reports - first.reports)}
    for test in sorted(unsteady)[:SHOWN_MAX]:
        print(f"    unsteady under plain pytest: {test}")
    equal = True
    for way in given.way:
        with args_of(way, job, given) as (args, fleet):
            kill = None
            if fleet is not None and given.kill_worker is not None:
                kill = KillPlan(fleet.workers[-1], int(first.reports.total() * given.kill_worker))
            label = f"--fleet {way}" if way != "xdist" else way
            told = told_line(label, job.run(f"way-{way}", args, kill))
            if kill is not None:
                print(
                    "    one worker was killed" if kill.done else "    THE WORKER WAS NOT KILLED: the run ended before"
                )
                equal = equal and kill.done
        differences = list(differences_of(first, told, unsteady))
        for line in differences[:SHOWN_MAX]:
            print(f"    {line}")
        if len(differences) > SHOWN_MAX:
            print(f"    ... and {len(differences) - SHOWN_MAX} more")
        print(f"    {len(differences)} differences", flush=True)
        equal = equal and (not differences or way == "xdist")
    return equal


@contextlib.contextmanager
def args_of(way: str, job: Job, given: argparse.Namespace) -> Iterator[tuple[list[str], LocalFleet | None]]:
    if way == "xdist":
        yield ["-p", "no:fleetest", "-n", "2"], None
    elif way == "network":
        with local_fleet(job.records / "fleet", workers=2, python_path=HERE) as fleet:
            yield ["-p", "no:xdist", *fleet.client_args], fleet
    else:
        yield ["-p", "no:xdist", "--fleet", way], None


def told_line(label: str, told: Told) -> Told:
    outcomes = Counter[str]()
    for (_, phase, outcome), count in told.reports.items():
        if phase == "call" or outcome != "passed":
            outcomes[outcome] += count
    counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
    print(f"  {label:16} status {told.status}  {told.tests} tests  {told.wall_s:6.1f} s  {counts}", flush=True)
    return told


def differences_of(plain: Told, told: Told, unsteady: set[str]) -> Iterator[str]:
    """One line each: a report missing or more often than in plain pytest, the JUnit file, the exit status."""
    if plain.status != told.status:
        yield f"exit status {told.status}, plain pytest {plain.status}: see the end of its output:"
        yield from told.output.read_text(errors="replace").splitlines()[-5:]
    missing, more = plain.reports - told.reports, told.reports - plain.reports
    for test in sorted({test for test, _, _ in (*missing, *more)} - unsteady):
        expected = [f"{phase} {outcome}" for name, phase, outcome in missing.elements() if name == test]
        instead = [f"{phase} {outcome}" for name, phase, outcome in more.elements() if name == test]
        yield f"{test}: {', '.join(expected) or 'nothing'} became {', '.join(instead) or 'nothing'}"
    for what, difference in (("lacks", plain.junit - told.junit), ("adds", told.junit - plain.junit)):
        for classname, name in sorted(difference):
            yield f"JUnit file {what} {classname}.{name}"


if __name__ == "__main__":
    sys.exit(main())
