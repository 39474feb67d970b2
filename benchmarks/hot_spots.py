"""Where the time goes: profiles of the client's reporting, of coordinator and worker, and of a runner.

    benchmarks/.venv/bin/python benchmarks/hot_spots.py [--runners 2] [pytest arguments; default: 10,000 no-op tests]

Prints the CPU seconds of both threads of the client without a profiler, then each profile's functions by own time.
A profiler makes small functions look dearer than they are: read the order, not the digits.
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import io
import os
import pstats
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SHOWN = 15


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runners", default="2")
    options, args = parser.parse_known_args()
    sys.path.insert(0, str(HERE))
    with tempfile.TemporaryDirectory(prefix="bench-profile-") as folder:
        args = args or [_no_op_suite(Path(folder))]
        for is_profiled in (False, True):
            _run(
                [*args, "-q", "-p", "no:cacheprovider", "-p", "profile_recorder", "--fleet", options.runners],
                is_profiled,
                folder,
            )
        runners = sorted(Path(folder).glob("runner-*.prof"))
        if runners:
            _show("one runner", pstats.Stats(str(runners[0])))
    return 0


def _run(args: list[str], is_profiled: bool, folder: str) -> None:
    import pytest

    from fleetest.client.background import BackgroundFleet
    from fleetest.client.pytest_session import FleetSession

    if is_profiled:
        os.environ["FLEETEST_PROFILE"] = folder
    meters = {
        "coordinator and worker (background thread)": _metered(BackgroundFleet, "_run_loop", is_profiled),
        "client (main thread, following the run)": _metered(FleetSession, "_follow", is_profiled),
    }
    with contextlib.redirect_stdout(io.StringIO()):
        status = pytest.main(args)
    print(f"pytest ended with {int(status)}" + (" (profiled)" if is_profiled else ""))
    for name, meter in meters.items():
        if is_profiled:
            _show(name, pstats.Stats(meter["profile"]))
        else:
            print(f"  {meter['cpu_s']:.2f} CPU s  {name}")
        meter["restore"]()


def _metered(owner: type, method: str, is_profiled: bool) -> dict[str, Any]:
    """Replace the method by one that measures itself."""
    original: Callable[..., Any] = getattr(owner, method)
    meter: dict[str, Any] = {"restore": lambda: setattr(owner, method, original), "cpu_s": 0.0}
    profile = meter["profile"] = cProfile.Profile()

    def measured(*args: Any) -> Any:
        began = time.thread_time()
        if is_profiled:
            profile.enable()
        try:
            return original(*args)
        finally:
            if is_profiled:
                profile.disable()
            meter["cpu_s"] += time.thread_time() - began

    setattr(owner, method, measured)
    return meter


def _show(name: str, stats: Any) -> None:
    print(f"\n{name}")
    rows = sorted(stats.stats.items(), key=lambda row: -row[1][2])
    for (path, line, function), (_, calls, own_s, total_s, _) in rows[:SHOWN]:
        where = "" if path == "~" else f"  {'/'.join(Path(path).parts[-2:])}:{line}"
        print(f"  {own_s:7.3f} s own {total_s:7.3f} s total {calls:8d} calls  {function}{where}")


def _no_op_suite(folder: Path) -> str:
    suite = folder / "noop"
    suite.mkdir()
    tests = "".join(f"def test_{number:03d}():\n    pass\n\n\n" for number in range(100))
    for number in range(100):
        (suite / f"test_{number:03d}.py").write_text(tests)
    return str(suite)


if __name__ == "__main__":
    raise SystemExit(main())
