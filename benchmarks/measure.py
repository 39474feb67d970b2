"""Runs one command and measures it with all its descendants: wall and CPU seconds, or peak memory.

Used as a program of its own, so that nothing else is measured with it and orphans come back to it:

    python measure.py RESULT.json [--memory] [--also PID]... -- COMMAND [ARGUMENT]...

The result is an object of ``status``, ``wall_s`` (until the command itself ends), ``cpu_s`` (user and system, of every
descendant; those of the ``--also`` processes are added), ``lingering_s`` (how much longer a descendant lived) and, with
``--memory``, ``peak_pss_bytes`` (highest sum of proportional set sizes; sampling disturbs the times).
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

SAMPLE_INTERVAL_S = 0.1
_PR_SET_CHILD_SUBREAPER = 36


def parents() -> dict[int, int]:
    """Parent by process, of all processes of this machine."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                stat = Path("/proc", name, "stat").read_text()
            except OSError:
                continue
            found[int(name)] = int(stat.rpartition(")")[2].split()[1])
    return found


def with_descendants(roots: Iterable[int]) -> set[int]:
    children: dict[int, list[int]] = {}
    for pid, parent in parents().items():
        children.setdefault(parent, []).append(pid)
    found: set[int] = set()
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.add(pid)
            waiting.extend(children.get(pid, ()))
    return found


def pss_bytes(pids: Iterable[int]) -> int:
    total = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")) * 1024
    return total


def cpu_s_of(pids: Iterable[int]) -> float:
    """User and system seconds of living processes and of the children that they waited for."""
    ticks = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += sum(int(field) for field in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


def _children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _wait_for_all() -> None:
    while True:
        try:
            os.wait()
        except ChildProcessError:
            return


def measure(command: list[str], *, memory: bool, also: list[int]) -> dict[str, Any]:
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    also_before_s = cpu_s_of(with_descendants(also))
    started = time.perf_counter()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    peak = 0
    while memory and process.poll() is None:
        peak = max(peak, pss_bytes(with_descendants([os.getpid(), *also]) - {os.getpid()}))
        time.sleep(SAMPLE_INTERVAL_S)
    status = process.wait()
    wall_s = time.perf_counter() - started
    _wait_for_all()
    lingering_s = time.perf_counter() - started - wall_s
    cpu_s = _children_cpu_s() + cpu_s_of(with_descendants(also)) - also_before_s
    result = {"status": status, "wall_s": wall_s, "cpu_s": cpu_s, "lingering_s": lingering_s}
    return {**result, "peak_pss_bytes": peak} if memory else result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--also", type=int, action="append", default=[], metavar="PID")
    parser.add_argument("command", nargs="+")
    given = parser.parse_args()
    given.result.write_text(json.dumps(measure(given.command, memory=given.memory, also=given.also)))


if __name__ == "__main__":
    main()
