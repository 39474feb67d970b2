"""What the tests directly in this folder share. They run with pytest, and as programs without it.

Importing it makes sure that there is a Fleetest to test: the installed one, else the checkout's own sources.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
_NEEDED = ("aiohttp", "click", "duckdb", "msgspec", "pluggy", "psutil", "rich")


def _find_fleetest() -> None:
    """Raises SystemExit with one line if it cannot run here."""
    if importlib.util.find_spec("fleetest") is None:
        source = str(ROOT / "src")
        sys.path.insert(0, source)
        # For the worker processes too.
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (source, os.environ.get("PYTHONPATH"))))
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        names = ", ".join(missing)
        print(f"Fleetest needs {names}: {sys.executable} -m pip install --editable '{ROOT}'", file=sys.stderr)
        raise SystemExit(2)


_find_fleetest()
