"""Processors, memory and operating system, as far as this process may use them."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

from fleetest.hardware.findings import Findings

_CGROUPS = Path("/sys/fs/cgroup")
_NAMES = {"darwin": "macos", "win32": "windows"}


def _own_cgroups() -> dict[str, str]:
    """Path of our control group by controller; the unified hierarchy under ""."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return {}
    groups = {}
    for line in lines:
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            groups[controller] = path
    return groups


def _with_parents(root: Path, path: str) -> list[Path]:
    """The control group's directory and those above it: each of them may limit."""
    group = root / path.lstrip("/")
    return [group, *(parent for parent in group.parents if parent == root or root in parent.parents)]


def _read_numbers(file: Path) -> list[float]:
    """Numbers in a file of one line; ``max`` is infinite; empty if there is no such file."""
    try:
        return [float("inf") if word == "max" else float(word) for word in file.read_text().split()]
    except (OSError, ValueError):
        return []


def cpu_quota(root: Path = _CGROUPS, groups: dict[str, str] | None = None) -> float:
    """Processors that the control groups allow; infinite if they do not say."""
    groups = _own_cgroups() if groups is None else groups
    quota = float("inf")
    if "" in groups:
        for folder in _with_parents(root, groups[""]):
            numbers = _read_numbers(folder / "cpu.max")
            if len(numbers) == 2 and numbers[1] > 0:
                quota = min(quota, numbers[0] / numbers[1])
    if "cpu" in groups:
        for folder in _with_parents(root / "cpu", groups["cpu"]):
            allowed, period = _read_numbers(folder / "cpu.cfs_quota_us"), _read_numbers(folder / "cpu.cfs_period_us")
            if allowed and period and allowed[0] > 0 and period[0] > 0:
                quota = min(quota, allowed[0] / period[0])
    return quota


def memory_limit(root: Path = _CGROUPS, groups: dict[str, str] | None = None) -> float:
    """Bytes that the control groups allow; infinite if they do not say."""
    groups = _own_cgroups() if groups is None else groups
    limits = []
    if "" in groups:
        limits += [_read_numbers(folder / "memory.max") for folder in _with_parents(root, groups[""])]
    if "memory" in groups:
        folders = _with_parents(root / "memory", groups["memory"])
        limits += [_read_numbers(folder / "memory.limit_in_bytes") for folder in folders]
    return min((numbers[0] for numbers in limits if numbers), default=float("inf"))


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def probe_machine() -> Findings:
    """``cpus`` and ``memory`` as resources; ``os``, ``kernel``, ``arch``, ``distribution``, ``host`` as attributes."""
    found = Findings()
    found.resources["cpus"] = round(min(float(_processors()), cpu_quota()), 2)
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    found.resources["memory"] = float(min(total, memory_limit()))
    uname = os.uname()
    found.add("os", _NAMES.get(sys.platform, sys.platform))
    found.add("kernel", uname.release)
    found.add("arch", uname.machine)
    found.add("host", uname.nodename)
    found.merge(_probe_distribution())
    return found


def _probe_distribution() -> Findings:
    found = Findings()
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return found
    found.add("distribution", release.get("ID", ""))
    found.add("distribution.version", release.get("VERSION_ID", ""))
    return found
