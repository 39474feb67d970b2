"""Breaks the product on purpose, once per category, and shows that the tests notice.

    python run_mutations.py [--list] [--check] [WORD ...]

Each mutation is made in a copy of the sources; the test that is named for it must pass before and fail after. With
words only those mutations whose category, file or test contains one of them. ``--check`` only makes sure that each
text to be replaced is there once. The exit status is 0 only if every mutation was noticed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from support import ROOT, TESTS
from support.mutation_list import MUTATIONS, Mutation

SOURCE = ROOT / "src"
TIMEOUT_S = 200.0


def misplaced(mutations: Sequence[Mutation] = MUTATIONS) -> list[str]:
    """Mutations whose text is not in its file exactly once, or would change nothing."""
    found = []
    for mutation in mutations:
        path = SOURCE / "fleetest" / mutation.file
        times = path.read_text().count(mutation.old) if path.is_file() else 0
        if times != 1 or mutation.old == mutation.new:
            found.append(
                f"{mutation.test_file}, {mutation.category}: {times} times in {mutation.file}: {mutation.old!r}"
            )
    return found


def outcomes(test_file: str, tests: Sequence[str], source: Path, report: Path) -> dict[str, str]:
    """What becomes of these tests with these sources. A test without an outcome never came to run."""
    report.unlink(missing_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, str(TESTS / test_file), "--quick", "--json", str(report), *tests]
    try:
        ended = subprocess.run(
            command, env=environment, cwd=TESTS, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return dict.fromkeys(tests, "took too long")
    if not report.exists():
        return dict.fromkeys(tests, f"ended with {ended.returncode}: {ended.stderr.strip()[-300:]}")
    known = {test["test"]: test["outcome"] for test in json.loads(report.read_text())["tests"]}
    return {test: known.get(test, "not executed") for test in tests}


def apply(mutation: Mutation, source: Path) -> None:
    path = source / "fleetest" / mutation.file
    path.write_text(path.read_text().replace(mutation.old, mutation.new))


def table(mutations: Sequence[Mutation] = MUTATIONS) -> str:
    """The list as it stands in README.md."""
    lines = ["| tests | category | what is broken | where | noticed by |", "|---|---|---|---|---|"]
    for mutation in mutations:
        test = mutation.test.rpartition(".")[2]
        lines.append(
            f"| `{mutation.test_file}` | {mutation.category} | {mutation.what} | `{mutation.file}` | `{test}` |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--list", action="store_true", help="print the list as a table and end")
    parser.add_argument("--check", action="store_true", help="only look whether each text is where it should be")
    parser.add_argument("words", nargs="*", metavar="WORD", help="of category, file or test")
    given = parser.parse_args(arguments)
    chosen = [m for m in MUTATIONS if not given.words or any(word in str(m) for word in given.words)]
    if given.list:
        print(table(chosen))
        return 0
    trouble = misplaced(chosen)
    for line in trouble:
        print(line)
    if given.check or trouble or not chosen:
        return 1 if trouble or not chosen else 0
    with tempfile.TemporaryDirectory(prefix="fleetest-mutations-") as name:
        return 1 if try_all(chosen, Path(name)) else 0


def try_all(chosen: Sequence[Mutation], folder: Path) -> list[Mutation]:
    """Those that were not noticed, or whose test does not pass without them."""
    source, report = folder / "src", folder / "report.json"
    shutil.copytree(SOURCE, source, ignore=shutil.ignore_patterns("__pycache__"))
    sound: dict[tuple[str, str], str] = {}
    for test_file in dict.fromkeys(mutation.test_file for mutation in chosen):
        tests = list(dict.fromkeys(mutation.test for mutation in chosen if mutation.test_file == test_file))
        for test, outcome in outcomes(test_file, tests, source, report).items():
            sound[test_file, test] = outcome
    unnoticed = []
    for mutation in chosen:
        before = sound[mutation.test_file, mutation.test]
        original = (source / "fleetest" / mutation.file).read_text()
        apply(mutation, source)
        after = outcomes(mutation.test_file, [mutation.test], source, report)[mutation.test]
        (source / "fleetest" / mutation.file).write_text(original)
        is_noticed = before == "passed" and after in ("failed", "error", "took too long")
        if not is_noticed:
            unnoticed.append(mutation)
        verdict = "noticed" if is_noticed else "NOT NOTICED"
        print(
            f"{verdict:12} {mutation.test_file} {mutation.category}: {mutation.what} ({before}, then {after})",
            flush=True,
        )
    print(f"{len(chosen) - len(unnoticed)} of {len(chosen)} noticed")
    return unnoticed


if __name__ == "__main__":
    raise SystemExit(main())
