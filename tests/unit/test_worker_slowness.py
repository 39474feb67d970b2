"""How slow machines are, from what the same tests took on several of them, and what is expected of tests then."""

import math
import random
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.measured_runs import MeasuredRuns, at_random, lognormal

from fleetest.storage import worker_slowness

EQUAL = {f"w{number}": 1.0 for number in range(6)}
ONE_SLOW = {**EQUAL, "slow": 2.0}
HALF_SLOW = {f"w{number}": 2.0 if number < 3 else 1.0 for number in range(6)}
FAR_APART = {"a": 1.0, "b": 2.0, "c": 8.0}


def after(runs, slowness, *, tests=300, seed=1, **more):
    chance, history, usual_s = random.Random(seed), MeasuredRuns(), lognormal(tests)
    for _ in range(runs):
        history.add(at_random(usual_s, slowness, chance, **more))
    return history, usual_s


def error(history, usual_s):
    """Of what is expected: standard deviation of its logarithm. A common factor is none."""
    expected_s = history.queries.expected_durations()
    assert expected_s.keys() == usual_s.keys()
    return statistics.pstdev(math.log(expected_s[test] / usual_s[test]) for test in usual_s)


@pytest.mark.parametrize("slowness", [ONE_SLOW, HALF_SLOW, FAR_APART])
@pytest.mark.parametrize("runs", [2, 5, 8])
def test_slow_machines_are_known_after_two_runs(slowness, runs):
    history, usual_s = after(runs, slowness)
    found = history.queries.slowness()
    spread = math.log(max(slowness.values()) / min(slowness.values()))
    scale = statistics.mean(math.log(found[worker] / slowness[worker]) for worker in slowness)
    for worker, slow in slowness.items():
        # Little is drawn towards 0: after two runs by a sixth of what there is to find.
        assert math.log(found[worker] / slow) == pytest.approx(scale, abs=0.1 + (0.15 * spread if runs == 2 else 0.0))
    # A test's own noise, as if it had always run on the same machine, is 0.15 / sqrt(runs) and more for a median.
    assert error(history, usual_s) < {2: 0.16, 5: 0.11, 8: 0.11}[runs]


def test_equal_machines_are_found_to_be_equal():
    history, usual_s = after(5, EQUAL)
    assert all(0.95 < slow < 1.05 for slow in history.queries.slowness().values())
    assert error(history, usual_s) < 0.11


def test_what_is_expected_is_as_much_as_was_measured():
    """The typical machine is in the middle of what has run, whatever is slow."""
    for slowness in (EQUAL, ONE_SLOW, HALF_SLOW, FAR_APART):
        chance, usual_s = random.Random(2), lognormal(300)
        attempts = [at_random(usual_s, slowness, chance) for _ in range(3)]
        history = MeasuredRuns()
        for run in attempts:
            history.add(run)
        measured = statistics.mean(math.log(seconds) for run in attempts for _, _, seconds in run)
        expected = statistics.mean(map(math.log, history.queries.expected_durations().values()))
        assert expected == pytest.approx(measured, abs=0.05)


def test_one_worker_alone_is_typical_and_what_it_took_is_expected():
    history, _ = after(3, {"only": 7.0}, noise=0.0)
    assert history.queries.slowness() == {}
    assert history.queries.expected_durations() == {
        test: pytest.approx(7.0 * seconds) for test, seconds in lognormal(300).items()
    }


def test_workers_that_never_ran_the_same_test_are_not_compared():
    history, usual_s = MeasuredRuns(), lognormal(100)
    for _ in range(3):
        history.add([(test, "even" if int(test[1:]) % 2 else "odd", seconds) for test, seconds in usual_s.items()])
    assert history.queries.slowness() == {}


def test_code_that_has_become_slower_blames_no_worker_that_came_later():
    history, usual_s = after(3, EQUAL)
    chance = random.Random(3)
    for _ in range(2):
        history.add(at_random(usual_s, {**EQUAL, "new": 1.0}, chance, factor=3.0))
    assert 0.9 < history.queries.slowness()["new"] < 1.1


def test_few_attempts_say_little_and_a_test_that_hung_says_nothing():
    history, usual_s = after(4, EQUAL)
    test, seconds = next(iter(usual_s.items()))
    history.add([*((test, worker, seconds) for worker in EQUAL), (test, "seen once", 10 * seconds)])
    assert 1.0 < history.queries.slowness()["seen once"] < 1.5
    before = history.queries.slowness()["w0"]
    history.add([*((test, worker, seconds) for worker in EQUAL), (test, "w0", 10_000 * seconds)])
    assert history.queries.slowness()["w0"] == pytest.approx(before, rel=0.05)


def test_a_machine_may_change():
    history, usual_s = after(5, ONE_SLOW)
    assert history.queries.slowness()["slow"] > 1.7
    chance = random.Random(5)
    for _ in range(5):
        history.add(at_random(usual_s, {**EQUAL, "slow": 1.0}, chance))
    assert history.queries.slowness()["slow"] == pytest.approx(1.0, abs=0.1)


def test_some_of_the_tests_of_a_large_history_are_enough(monkeypatch):
    monkeypatch.setattr(worker_slowness, "ROWS_MAX", 500)
    history, usual_s = after(5, HALF_SLOW, tests=1000)
    assert error(history, usual_s) < 0.12


def test_tests_of_milliseconds_say_nothing():
    history = MeasuredRuns()
    for _ in range(3):
        history.add([(f"t{number}", worker, 0.001) for number in range(50) for worker in ("a", "b")])
    assert history.queries.slowness() == {}
    assert history.queries.expected_durations()["t0"] == 0.001


attempts = st.tuples(
    st.sampled_from(["t1", "t2", "t3"]), st.sampled_from(["a", "b", "c"]), st.integers(1, 1000).map(lambda n: n / 8)
)


@settings(max_examples=40, deadline=None)
@given(runs=st.lists(st.lists(attempts, min_size=1, max_size=8), min_size=1, max_size=5))
def test_the_estimate_is_that_of_a_naive_model(runs):
    history = MeasuredRuns()
    for run in runs:
        history.add(run)
    expected = naive([(f"run {number}", *attempt) for number, run in enumerate(runs, 1) for attempt in run])
    # The logarithm is rounded to three decimals.
    expected = {worker: pytest.approx(slow, rel=0.0006) for worker, slow in expected.items()}
    assert history.queries.slowness() == expected


def naive(rows):
    """Slowness by worker from (run, test, worker, seconds) in the order of the history."""
    last = [row for test in {row[1] for row in rows} for row in [row for row in rows if row[1] == test][-5:]]
    workers_of = {test: {row[2] for row in last if row[1] == test} for test in {row[1] for row in last}}
    measured_on = [row[2] for row in last]
    last = [(*row[:3], math.log(row[3])) for row in last if len(workers_of[row[1]]) > 1]
    slow = {row[2]: 0.0 for row in last}
    late = {row[0]: 0.0 for row in last}
    usual = {row[1]: statistics.mean(y for _, test, _, y in last if test == row[1]) for row in last}

    def rest(column, name):
        """Mean of what remains of the attempts that have this name in this column; and how many they are."""
        found = [
            max(-1.0, min(1.0, row[3] - usual[row[1]] - slow[row[2]] - late[row[0]]))
            for row in last
            if row[column] == name
        ]
        return statistics.mean(found), len(found)

    for _ in range(worker_slowness._ROUNDS):
        usual = {name: value + rest(1, name)[0] for name, value in usual.items()}
        late = {name: value + rest(0, name)[0] for name, value in late.items()}
        rests = {name: rest(2, name) for name in slow}
        slow = {
            name: (slow[name] + mean) * count / (count + worker_slowness.PRIOR_ATTEMPTS)
            for name, (mean, count) in rests.items()
        }
    centre = statistics.mean(slow[worker] for worker in measured_on if worker in slow) if slow else 0.0
    return {name: math.exp(value - centre) for name, value in slow.items()}
