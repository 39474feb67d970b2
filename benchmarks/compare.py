"""Compares plain pytest, pytest-xdist and Fleetest: wall, CPU and peak memory, with ratios to the best mode of xdist.

    make bench                                       the quick cases, once
    make bench BENCH_ARGS="--case noop-2 --repeat 5"
    benchmarks/.venv/bin/python benchmarks/compare.py --repeat 3 --json results.json

Every round runs all modes of a case once, starting with another one each time, so that a noisy neighbour hits all
alike; the median counts. A round before the first is not counted: it writes byte code, and Fleetest's expected
durations. Memory is sampled in a round of its own. All modes get the same flags and must report the same outcomes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from cases import CASES, Case
from local_fleet import LocalFleet, local_fleet

HERE = Path(__file__).resolve().parent
COMMON = ["-q", "-p", "no:cacheprovider"]


@dataclass
class Mode:
    """One way to run a case."""

    name: str
    args: list[str]
    also: list[int] = field(default_factory=list)
    """Processes that serve this mode and were started before."""


@dataclass
class Row:
    case: str
    mode: str
    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    lingering_s: list[float] = field(default_factory=list)
    peak_pss_bytes: int = 0
    summary: str = ""
    trouble: str = ""

    @property
    def wall_median_s(self) -> float:
        return statistics.median(self.wall_s)


def main() -> int:
    given = parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    cases = [
        case for case in CASES if case.name in given.case or (not given.case and (case.is_quick or not given.quick))
    ]
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="bench-fleetest-") as scratch:
        for case in cases:
            found = run_case(case, Path(scratch, case.name), given)
            rows.extend(found)
            print(table(case, found), flush=True)
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(
            json.dumps({"machine": machine(), "rows": [asdict(row) for row in rows]}, indent=1) + "\n"
        )
    return 1 if any(row.trouble for row in rows) else 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [case.name for case in CASES]
    parser.add_argument("--case", action="append", default=[], choices=names, help="only this one; may be repeated")
    parser.add_argument("--repeat", type=int, default=3, help="rounds that count")
    parser.add_argument("--quick", action="store_true", help="only cases of seconds, one round each")
    parser.add_argument("--no-memory", action="store_true", help="leave the memory round out")
    parser.add_argument(
        "--mode", action="append", default=[], help="only modes with this in their name; may be repeated"
    )
    parser.add_argument("--json", type=Path, help="write every measurement to this file")
    given = parser.parse_args()
    if given.quick:
        given.repeat = 1
    return given


def run_case(case: Case, folder: Path, given: argparse.Namespace) -> list[Row]:
    folder.mkdir()
    case.write(folder)
    with modes_of(case, folder.parent) as modes:
        modes = [mode for mode in modes if not given.mode or any(part in mode.name for part in given.mode)]
        rows = {mode.name: Row(case.name, mode.name) for mode in modes}
        for round_number in range(-1, given.repeat):
            start = round_number % len(modes)
            for mode in modes[start:] + modes[:start]:
                run_once(case, mode, folder, rows[mode.name], counts=round_number >= 0)
        if not given.no_memory:
            for mode in modes:
                run_once(case, mode, folder, rows[mode.name], counts=False, memory=True)
    expected = next((row.summary for row in rows.values() if not row.trouble), "")
    for row in rows.values():
        if not row.trouble and row.summary != expected:
            row.trouble = f"{row.summary}, where the first mode had {expected}"
    return list(rows.values())


@contextlib.contextmanager
def modes_of(case: Case, scratch: Path) -> Iterator[list[Mode]]:
    fleetest = Mode("fleetest", ["-p", "no:xdist", "--fleet", str(case.runners)])
    if case.network_ratio_aim is not None:
        with local_fleet(scratch / f"{case.name}-fleet", workers=case.runners) as fleet:
            yield [fleetest, network_mode(fleet)]
        return
    plain = Mode("plain pytest", ["-p", "no:xdist", "-p", "no:fleetest"])
    xdist = [
        Mode(f"xdist {name}", ["-p", "no:fleetest", "-n", str(case.runners), "--dist", name])
        for name in case.xdist_modes
    ]
    yield [plain, *xdist, fleetest]


def network_mode(fleet: LocalFleet) -> Mode:
    return Mode("fleetest ws://", ["-p", "no:xdist", *fleet.client_args], also=fleet.pids)


def run_once(case: Case, mode: Mode, folder: Path, row: Row, *, counts: bool, memory: bool = False) -> None:
    if row.trouble:
        return
    command = [sys.executable, "-m", "pytest", *COMMON, *mode.args, *case.args]
    result_file, log = folder.parent / "result.json", folder.parent / "output.txt"
    measuring = [sys.executable, str(HERE / "measure.py"), str(result_file)]
    measuring += ["--memory"] if memory else []
    measuring += [word for pid in mode.also for word in ("--also", str(pid))]
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONDONTWRITEBYTECODE",)}
    with log.open("wb") as output:
        subprocess.run(
            [*measuring, "--", *command], cwd=folder, env=environment, stdout=output, stderr=output, check=True
        )
    result = json.loads(result_file.read_text())
    lines = log.read_text(errors="replace").splitlines()
    row.summary = outcome_counts(lines)
    if result["status"] != 0:
        row.trouble = f"status {result['status']}: " + " | ".join(lines[-3:])
    elif memory:
        row.peak_pss_bytes = result["peak_pss_bytes"]
    elif counts:
        row.wall_s.append(result["wall_s"])
        row.cpu_s.append(result["cpu_s"])
        row.lingering_s.append(result["lingering_s"])


def outcome_counts(lines: list[str]) -> str:
    """``6833 passed, 78 skipped``: the outcomes of pytest's last line that has some, without warnings and time."""
    for line in reversed(lines):
        counts = re.findall(r"\d+ (?:passed|failed|errors?|skipped|xfailed|xpassed)", line)
        if counts:
            return ", ".join(counts)
    return "no outcomes"


def table(case: Case, rows: list[Row]) -> str:
    lines = [
        "",
        f"{case.name}: {case.title}",
        f"  {'':16}  {'wall s':>17}  {'ratio':>5}  {'CPU s':>7}  {'ratio':>5}  {'MiB':>6}  {'ratio':>5}",
    ]
    measured = [row for row in rows if row.wall_s and not row.trouble]
    best = baseline_of(case, measured)
    for row in rows:
        lines.append(table_line(row, best) if row in measured else f"  {row.mode:16}  {row.trouble or 'not measured'}")
    lines.extend(f"  {line}" for line in aims(case, measured, best))
    return "\n".join(lines)


def baseline_of(case: Case, rows: list[Row]) -> Row | None:
    """The best mode of xdist; the embedded run where the network is measured."""
    prefix = "xdist" if case.network_ratio_aim is None else "fleetest"
    candidates = [row for row in rows if row.mode.startswith(prefix) and "ws://" not in row.mode]
    return min(candidates, key=lambda row: row.wall_median_s, default=None)


def table_line(row: Row, best: Row | None) -> str:
    def ratio(mine: float, other: float) -> str:
        return f"{mine / other:5.2f}" if mine and other else "    -"

    cpu_s = statistics.median(row.cpu_s)
    spread = f"{row.wall_median_s:7.2f} {f'({min(row.wall_s):.2f}-{max(row.wall_s):.2f})':>9}"
    to_best = (
        (
            ratio(row.wall_median_s, best.wall_median_s),
            ratio(cpu_s, statistics.median(best.cpu_s)),
            ratio(row.peak_pss_bytes, best.peak_pss_bytes),
        )
        if best
        else ("    -",) * 3
    )
    memory = f"{row.peak_pss_bytes / 2**20:6.0f}" if row.peak_pss_bytes else "     -"
    return f"  {row.mode:16}  {spread:>17}  {to_best[0]}  {cpu_s:7.2f}  {to_best[1]}  {memory}  {to_best[2]}"


def aims(case: Case, rows: list[Row], best: Row | None) -> list[str]:
    by_mode = {row.mode: row for row in rows}
    mine = by_mode.get("fleetest ws://" if case.network_ratio_aim is not None else "fleetest")
    if mine is None:
        return []
    said = []
    if best is not None:
        for what, aim, value in (
            ("wall", case.wall_ratio_aim or case.network_ratio_aim, mine.wall_median_s / best.wall_median_s),
            ("memory", case.memory_ratio_aim, mine.peak_pss_bytes / (best.peak_pss_bytes or 1)),
        ):
            if aim is not None and value:
                said.append(f"{what} {value:.2f} of {best.mode}, aim {aim:.2f}: {'met' if value <= aim else 'NOT MET'}")
    plain = by_mode.get("plain pytest")
    if case.plain_plus_s_aim is not None and plain is not None:
        more_s = mine.wall_median_s - plain.wall_median_s
        verdict = "met" if more_s <= case.plain_plus_s_aim else "NOT MET"
        said.append(f"plain pytest {more_s:+.2f} s, aim +{case.plain_plus_s_aim:.2f} s: {verdict}")
    return said


def machine() -> dict[str, object]:
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "architecture": platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg(),
    }


if __name__ == "__main__":
    sys.exit(main())
