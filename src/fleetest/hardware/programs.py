"""Asking installed programs for their version, within bounds."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_VERSION = re.compile(r"\d+(?:\.\d+)+")
_PYTHON_NAME = re.compile(r"python3(?:\.\d+)?")
_PYTHONS_MAX = 16


def ask_version(program: str, timeout_s: float) -> str:
    """First dotted number that ``program --version`` prints; "" if it fails, is too slow, or prints none."""
    try:
        answer = subprocess.run(
            [program, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            check=True,
            start_new_session=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    match = _VERSION.search((answer.stdout + answer.stderr).decode("utf-8", "replace"))
    return match[0] if match else ""


def ask_versions(programs: Sequence[str], timeout_s: float) -> list[str]:
    """``ask_version`` of each, in this order; all are asked at once, as each answers in its own good time."""
    with ThreadPoolExecutor(len(programs) or 1) as askers:
        return list(askers.map(lambda program: ask_version(program, timeout_s), programs))


def find_programs(names: Iterable[str]) -> list[str]:
    """Paths of those of these names that are executable on PATH."""
    return [path for path in map(shutil.which, names) if path is not None]


def find_pythons() -> list[str]:
    """Interpreters on PATH, each file once, however many names it has; at most 16."""
    found: dict[str, str] = {}
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        try:
            names = sorted(os.listdir(folder)) if folder else []
        except OSError:
            continue
        for name in names:
            path = Path(folder, name)
            if _PYTHON_NAME.fullmatch(name) and os.access(path, os.X_OK):
                found.setdefault(os.path.realpath(path), str(path))
    return list(found.values())[:_PYTHONS_MAX]
