"""Runs that know nothing but what the runs before took on unlike machines: the real core in virtual time."""

import math
import random
import statistics
from dataclasses import replace

import pytest

from support.measured_runs import MeasuredRuns

from fleetest.core.model import TaskId, Verdict
from fleetest.simulation.what_if import STRATEGIES, Machine, Question, lognormal_tests

TESTS, RUNS, NOISE = 400, 5, 0.15


def history_of(speeds, seed):
    """After so many runs on machines of four slots, each of a new coordinator; and the usual seconds of the tests."""
    machines = [Machine(f"m{number}", 4, speed) for number, speed in enumerate(speeds)]
    tests, usual_s = lognormal_tests(TESTS, 0.0, 1.0, seed=seed, per_file=4, is_known=False)
    history, chance = MeasuredRuns(), random.Random(seed)
    for run in range(RUNS):
        expected_s = history.queries.expected_durations() if run else {}
        durations_s = {test: seconds * chance.lognormvariate(0.0, NOISE) for test, seconds in usual_s.items()}
        known = [replace(test, expected_s=expected_s.get(test.task_id)) for test in tests]
        answer = STRATEGIES["adaptive"](Question(machines, known, durations_s), seed * RUNS + run)
        history.add(
            [
                (execution.task_id, execution.worker_id, execution.ended_at - execution.started_at)
                for execution in answer.executions
                if execution.verdict is Verdict.PASSED
            ]
        )
    return history, usual_s


def error(expected_s, usual_s):
    return statistics.pstdev(math.log(expected_s[TaskId(test)] / seconds) for test, seconds in usual_s.items())


@pytest.mark.parametrize(
    "speeds",
    [[1.0] * 6, [1.0] * 5 + [0.5], [1.0] * 3 + [0.5] * 3, [1.0, 2.0, 4.0]],
    ids=["equal", "one", "half", "all"],
)
def test_after_a_few_runs_expectations_are_those_of_equal_machines(speeds):
    history, usual_s = history_of(speeds, seed=1)
    found = history.queries.slowness()
    ratios = [found[f"m{number}"] * speed for number, speed in enumerate(speeds)]
    assert max(ratios) / min(ratios) < 1.15
    # The median of five with the noise of the tests is 0.08 off. As they were measured it is 0.12 with one slow
    # machine, 0.24 with three, 0.29 if each is twice as fast as the one before.
    assert error(history.queries.expected_durations(), usual_s) < 0.095


@pytest.mark.parametrize("seed", [0, 3])
def test_no_long_test_ends_on_a_machine_that_past_runs_know_to_be_slow(seed):
    """The longest test decides the end; a new coordinator begins with short ones to learn which machines are slow."""
    machines = [Machine(f"m{number}", 10, 0.5 if number > 4 else 1.0) for number in range(10)]
    tests, durations_s = lognormal_tests(4000, 0.0, 2.0, seed=seed, per_file=1)
    longest = sorted(durations_s, key=lambda test: -durations_s[test])[:20]

    def answered(slowness):
        answer = STRATEGIES["adaptive"](Question(machines, tests, durations_s, slowness=slowness), seed)
        counted = {one.task_id: one.worker_id for one in answer.executions if one.verdict is Verdict.PASSED}
        return answer.ratio, {counted[test] for test in longest}

    learned, _ = answered({})
    ratio, where = answered({machine.name: 1.4 / machine.speed for machine in machines})
    assert ratio < learned < 1.1
    assert where <= {f"m{number}" for number in range(5)}
