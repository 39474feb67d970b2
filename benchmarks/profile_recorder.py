"""pytest plugin for ``hot_spots.py``: profiles a runner from its first test to the end of its session."""

from __future__ import annotations

import cProfile
import os
from pathlib import Path
from typing import Any

_profile = cProfile.Profile(builtins=False)
_profiled_pid = 0


def pytest_runtest_logstart(nodeid: str) -> None:
    global _profiled_pid
    if "FLEETEST_PROFILE" in os.environ and "PYTEST_XDIST_WORKER" in os.environ and not _profiled_pid:
        _profiled_pid = os.getpid()
        _profile.enable()


def pytest_sessionfinish(session: Any) -> None:
    if _profiled_pid == os.getpid():
        _profile.disable()
        _profile.dump_stats(Path(os.environ["FLEETEST_PROFILE"], f"runner-{_profiled_pid}.prof"))
