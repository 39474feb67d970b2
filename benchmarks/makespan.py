"""Makespan against the bound that no schedule can beat, in virtual time: Fleetest and pytest-xdist's modes.

    python benchmarks/makespan.py            all cases, three seeds each
    python benchmarks/makespan.py --quick    one seed each
    python benchmarks/makespan.py --small    small fleets: few tests for each slot, in few files

10,000 tests in files of 20 on 10 machines of 10 slots; durations are lognormal. The bound is the larger of all the work
at the fleet's whole speed and the longest test on its fastest machine. Messages take 0.5 to 20 ms either way, for all
alike. A history knows the durations, and how slow the machines are. Nothing depends on this machine but the column of
its own seconds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from fleetest.simulation.what_if import STRATEGIES, Machine, Question, lognormal_tests

SIGMAS = (1.0, 2.0)


@dataclass(frozen=True)
class Size:
    tests: int = 10_000
    machines: int = 10
    slots: int = 10
    """Of each machine."""


SMALL = {
    "1,000 on 4 x 4, ": Size(1_000, 4, 4),
    "400 on 1 x 4, ": Size(400, 1, 4),
    "3,000 on 10 x 10, ": Size(3_000),
}


def questions(seed: int, size: Size = Size()) -> dict[str, Question]:
    equal = tuple(Machine(f"m{number}", size.slots) for number in range(size.machines))
    one_half_as_fast = (*equal[:-1], replace(equal[-1], speed=0.5))
    found = {}
    for sigma in SIGMAS:
        tests, durations_s = lognormal_tests(size.tests, 0.0, sigma, seed=seed)
        unknown = [replace(test, expected_s=None) for test in tests]
        found[f"sigma {sigma:g}, history"] = Question(equal, tests, durations_s)
        if size.machines > 1:
            found[f"sigma {sigma:g}, history, one machine half as fast"] = Question(
                one_half_as_fast,
                tests,
                durations_s,
                slowness={machine.name: 1.0 / machine.speed for machine in one_half_as_fast},
            )
        found[f"sigma {sigma:g}, no history"] = Question(equal, unknown, durations_s)
    return found


def measure(seeds: int, sizes: Mapping[str, Size]) -> dict[str, dict[str, list[float]]]:
    """Ratios by case and strategy, one per seed."""
    ratios: dict[str, dict[str, list[float]]] = {}
    for seed in range(seeds):
        cases = {
            name + case: question for name, size in sizes.items() for case, question in questions(seed, size).items()
        }
        for case, question in cases.items():
            for name, strategy in STRATEGIES.items():
                begun_at = time.perf_counter()
                answer = strategy(question, seed)
                took_s = time.perf_counter() - begun_at
                assert sum(answer.verdicts.values()) == len(question.tests)
                ratios.setdefault(case, {}).setdefault(name, []).append(answer.ratio)
                print(
                    f"{case:62} {name:18} seed {seed}: {answer.makespan_s:8.1f} s, bound {answer.bound_s:8.1f} s,"
                    f" ratio {answer.ratio:.4f}  ({took_s:.1f} s here)",
                    flush=True,
                )
    return ratios


def table(ratios: dict[str, dict[str, list[float]]]) -> str:
    lines = ["| case | " + " | ".join(STRATEGIES) + " |", "|---|" + "---|" * len(STRATEGIES)]
    for case, by_name in ratios.items():
        cells = []
        for name in STRATEGIES:
            values = by_name[name]
            text = f"{statistics.mean(values):.3f}"
            cells.append(f"{text} (worst {max(values):.3f})" if len(values) > 1 else text)
        lines.append(f"| {case} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed instead of three")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="small fleets instead of 100 slots and 10,000 tests")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all ratios to it")
    options = parser.parse_args()
    ratios = measure(1 if options.quick else options.seeds, SMALL if options.small else {"": Size()})
    print("\nmakespan to bound, mean over the seeds\n" + table(ratios))
    if options.json is not None:
        options.json.write_text(json.dumps(ratios, indent=1) + "\n")


if __name__ == "__main__":
    main()
