"""Runs one of the test files as a program: ``python test_scheduler.py [--verbose] [Class[.test] ...]``."""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
import unittest
import warnings
from collections.abc import Sequence
from pathlib import Path

from support import scale, tables


class _TimedResult(unittest.TextTestResult):
    """Also knows how long each test took and what became of it."""

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)  # type: ignore[arg-type]
        self.tests: list[dict[str, object]] = []
        self._started = 0.0

    def startTest(self, test: unittest.TestCase) -> None:
        self._started = time.perf_counter()
        self._outcome, self._reason = "passed", ""
        super().startTest(test)

    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        self.tests.append(
            {
                "test": test.id().partition(".")[2] or test.id(),
                "outcome": self._outcome,
                "reason": self._reason,
                "seconds": round(time.perf_counter() - self._started, 4),
            }
        )

    def addFailure(self, test: unittest.TestCase, err: object) -> None:
        self._outcome = "failed"
        super().addFailure(test, err)  # type: ignore[arg-type]

    def addError(self, test: unittest.TestCase, err: object) -> None:
        self._outcome = "error"
        super().addError(test, err)  # type: ignore[arg-type]

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: object) -> None:
        if err is not None:
            self._outcome = "failed"
        super().addSubTest(test, subtest, err)  # type: ignore[arg-type]

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        self._outcome, self._reason = "not run", reason
        super().addSkip(test, reason)


def run_file(module: str, arguments: Sequence[str] | None = None) -> int:
    """Run the tests of a module that is being executed (``__main__``). Returns the exit status: 0 if all passed.

    A test that leaves something open (a file, a socket, a process) has failed.
    """
    document = sys.modules[module].__doc__ or ""
    parser = argparse.ArgumentParser(description=document.partition("\n")[0])
    parser.add_argument("-v", "--verbose", action="store_true", help="one line per test")
    parser.add_argument("--quick", action="store_true", help="small sizes where a test measures something")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write outcomes and measurements to FILE")
    parser.add_argument("names", nargs="*", metavar="NAME", help="Class or Class.test_name  [default: all]")
    given = parser.parse_args(arguments)
    scale.is_full = not given.quick
    loader = unittest.TestLoader()
    loaded = sys.modules[module]
    suite = loader.loadTestsFromNames(given.names, loaded) if given.names else loader.loadTestsFromModule(loaded)
    left_open: list[str] = []
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sys.unraisablehook = lambda found: left_open.append(f"{found.exc_value!r} ({found.object!r})")
        try:
            runner = unittest.TextTestRunner(
                sys.stdout, verbosity=2 if given.verbose else 1, resultclass=_TimedResult, warnings="error"
            )
            result = runner.run(suite)
            gc.collect()
        finally:
            sys.unraisablehook = sys.__unraisablehook__
    for text in left_open:
        print(f"left open: {text}")
    for test in result.tests:
        if test["outcome"] == "not run":
            print(f"not run: {test['test']}: {test['reason']}")
    is_good = result.wasSuccessful() and not left_open and result.testsRun > 0
    if not result.testsRun:
        print("no test was run")
    if given.json is not None:
        report = {
            "passed": is_good,
            "seconds": round(time.perf_counter() - started, 3),
            "tests": result.tests,
            "left_open": left_open,
            "measurements": tables.as_values(),
        }
        given.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0 if is_good else 1
