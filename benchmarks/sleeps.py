"""A thousand tests that sleep between 0.5 and 1.5 s, on 25 slots of five real workers: how much faster than one by one?

Sleeping is the workload: it costs no processor, so the fleet's own overhead is all that is measured, and a laptop can
pretend to be five machines. The bound is the number of slots; what is missing to it is start-up, tail and gaps.

    python benchmarks/sleeps.py [--as pytest|commands|both] [--tests 1000] [--workers 5] [--slots 5] [--rounds 2]
        [--json FILE]

With ``--least RATIO`` the exit status is 1 if the speed-up is less.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import duckdb
import psutil
from local_fleet import LocalFleet, local_fleet, user_environment

SHORTEST_S, LONGEST_S = 0.5, 1.5
TIMEOUT_S = 580.0
REST_S, REST_PROCESSOR_S = 2.0, 0.05
"""A fleet is at rest if for so long all of its processes use no more than this."""


@dataclass(frozen=True)
class Measured:
    """One run. ``speed_up`` is all sleeps one after the other over the wall time of the client's command."""

    form: str
    history: str
    """Whether the durations were known from an earlier run."""
    tests: int
    slots: int
    serial_s: float
    wall_s: float
    speed_up: float
    utilisation: float
    """Part of slots x wall time in which a test slept."""
    startup_s: float
    """From the client's start to the first moment at which every slot has begun its first test."""
    tail_s: float
    """From the first slot's last end to the last slot's."""
    exit_s: float
    """From the last end of a test to the end of the client."""
    gap_ms: float
    """Mean time between two tests of one slot."""


def durations_s(count: int) -> list[float]:
    """The same for everybody who runs this: evenly spread, in an order that says nothing."""
    step = (LONGEST_S - SHORTEST_S) / max(1, count - 1)
    spread = [SHORTEST_S + number * step for number in range(count)]
    random.Random(25).shuffle(spread)
    return spread


def write_pytest(folder: Path, sleeps: Sequence[float], per_file: int = 10) -> list[str]:
    for number in range(0, len(sleeps), per_file):
        lines = ["import time", ""]
        for offset, seconds in enumerate(sleeps[number : number + per_file]):
            lines += ["", f"def test_{number + offset}():", f"    time.sleep({seconds:.4f})", ""]
        (folder / f"test_sleeps_{number // per_file:04}.py").write_text("\n".join(lines))
    # What other plugins import in each session is no cost of ours: as where nothing but Fleetest is installed.
    alone = ["--disable-plugin-autoload", "-p", "fleetest"]
    return ["-m", "pytest", "-q", *alone, "-p", "no:cacheprovider"]


def write_commands(folder: Path, sleeps: Sequence[float]) -> list[str]:
    tables = [f'[[command]]\nname = "t{n}"\nargv = ["sleep", "{seconds:.4f}"]' for n, seconds in enumerate(sleeps)]
    (folder / "suite.toml").write_text("\n\n".join(tables) + "\n")
    return ["-m", "fleetest", "run", "suite.toml"]


def run(form: str, sleeps: Sequence[float], workers: int, slots: int, rounds: int) -> list[Measured]:
    """The same run several times on one fleet: first without history, then with."""
    with tempfile.TemporaryDirectory(prefix="fleetest-sleeps-") as name:
        folder = Path(name)
        suite = folder / "suite"
        suite.mkdir()
        client = (write_pytest if form == "pytest" else write_commands)(suite, sleeps)
        with local_fleet(folder / "fleet", workers=workers, slots=slots) as fleet:
            wait_for_workers(fleet, workers)
            target = fleet.client_args if form == "pytest" else fleet.suite_args
            times = []
            for _ in range(rounds):
                wait_for_rest(fleet)
                times.append(execute([*client, *target, "--junitxml=out.xml"], suite, len(sleeps)))
        history = folder / "fleet" / "data" / "history.duckdb"
        return [
            measure(form, number, sleeps, workers * slots, began, wall_s, history)
            for number, (began, wall_s) in enumerate(times)
        ]


def execute(command: Sequence[str], suite: Path, tests: int) -> tuple[float, float]:
    """When it began (wall clock), and for how long it ran."""
    began, started = time.time(), time.monotonic()
    finished = subprocess.run(
        [sys.executable, *command],
        cwd=suite,
        env=user_environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    wall_s = time.monotonic() - started
    if finished.returncode != 0:
        said = finished.stdout[-4000:] + finished.stderr[-4000:]
        raise SystemExit(f"the run ended with {finished.returncode}:\n{said}")
    cases = len(list(ElementTree.parse(suite / "out.xml").getroot().iter("testcase")))
    if cases != tests:
        raise SystemExit(f"{cases} tests were reported, not {tests}")
    return began, wall_s


def wait_for_workers(fleet: LocalFleet, count: int) -> None:
    """Whoever has a fleet has it running: the start of the machines is not part of a run."""
    deadline = time.monotonic() + 60.0
    while fleet.log.read_text().count("connected to") < count:
        if time.monotonic() > deadline:
            raise SystemExit(f"the workers did not come: see {fleet.log}")
        time.sleep(0.05)


def wait_for_rest(fleet: LocalFleet) -> None:
    """Nor is what they do between two runs, to be ready for the next one."""
    deadline = time.monotonic() + 60.0
    since, used_s = time.monotonic(), processor_s(fleet.pids)
    while time.monotonic() - since < REST_S:
        if time.monotonic() > deadline:
            raise SystemExit(f"the fleet does not come to rest: see {fleet.log}")
        time.sleep(0.1)
        now_s = processor_s(fleet.pids)
        if abs(now_s - used_s) > REST_PROCESSOR_S:
            since, used_s = time.monotonic(), now_s


def processor_s(pids: Sequence[int]) -> float:
    """What these processes and their living descendants have used."""
    total_s = 0.0
    for pid in pids:
        process = psutil.Process(pid)
        for one in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                times = one.cpu_times()
                total_s += times.user + times.system
    return total_s


def measure(
    form: str, number: int, sleeps: Sequence[float], slots: int, began: float, wall_s: float, history: Path
) -> Measured:
    """``number``: which of the runs in this history, in the order of their starts."""
    with contextlib.closing(duckdb.connect(str(history), read_only=True)) as connection:
        rows = connection.execute(
            "SELECT worker, slot, epoch(started_at), duration_s FROM attempts"
            " WHERE verdict = 'passed' AND is_final"
            " AND run_id = (SELECT run_id FROM run_starts ORDER BY started_at LIMIT 1 OFFSET ?)",
            [number],
        ).fetchall()
    if len(rows) != len(sleeps):
        raise SystemExit(f"{len(rows)} tests are in the history, not {len(sleeps)}")
    by_slot: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for worker, slot, started_at, duration_s in rows:
        by_slot.setdefault((worker, slot), []).append((started_at, started_at + duration_s))
    gaps, firsts, lasts = [], [], []
    for spans in by_slot.values():
        spans.sort()
        firsts.append(spans[0][0])
        lasts.append(spans[-1][1])
        gaps += [later[0] - earlier[1] for earlier, later in itertools.pairwise(spans)]
    serial_s = sum(sleeps)
    return Measured(
        form=form,
        history="unknown" if number == 0 else "known",
        tests=len(sleeps),
        slots=slots,
        serial_s=serial_s,
        wall_s=wall_s,
        speed_up=serial_s / wall_s,
        utilisation=sum(end - start for spans in by_slot.values() for start, end in spans) / (slots * wall_s),
        startup_s=max(firsts) - began,
        tail_s=max(lasts) - min(lasts),
        exit_s=began + wall_s - max(lasts),
        gap_ms=1000.0 * sum(gaps) / max(1, len(gaps)),
    )


def show(measured: Measured) -> None:
    what = "tests" if measured.form == "pytest" else "commands"
    print(f"{measured.tests} {what} on {measured.slots} slots, durations {measured.history}:", end=" ")
    print(f"{measured.serial_s:.1f} s of sleep in {measured.wall_s:.2f} s, {measured.speed_up:.2f} times faster")
    print(f"  slots busy {measured.utilisation:.1%}, start-up {measured.startup_s:.2f} s,", end=" ")
    print(f"tail {measured.tail_s:.2f} s, exit {measured.exit_s:.2f} s, between tests {measured.gap_ms:.1f} ms")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--as", dest="form", choices=("pytest", "commands", "both"), default="both")
    parser.add_argument("--tests", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=5)
    parser.add_argument("--slots", type=int, default=5, help="of each worker")
    parser.add_argument("--rounds", type=int, default=2, help="of each form; the first without history")
    parser.add_argument("--least", type=float, metavar="RATIO", help="fail if the speed-up is less")
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args()
    forms = ("pytest", "commands") if given.form == "both" else (given.form,)
    found = []
    for form in forms:
        measured = run(form, durations_s(given.tests), given.workers, given.slots, given.rounds)
        found += measured
        for one in measured:
            show(one)
    if given.json is not None:
        given.json.write_text(json.dumps([asdict(measured) for measured in found], indent=2) + "\n")
    print(f"load of this machine: {os.getloadavg()[0]:.1f}")
    return 1 if given.least is not None and min(measured.speed_up for measured in found) < given.least else 0


if __name__ == "__main__":
    raise SystemExit(main())
