"""Machines that stand out: failing what others pass, becoming slower; and that chance does not raise alarms."""

import random
from types import SimpleNamespace

import pytest

from fleetest.core.model import NO_REQUIREMENTS, Requirements, RunId, WorkerId
from fleetest.health_monitor.contradictions import Contradictions
from fleetest.health_monitor.drift import RUNS_MAX, WINDOW, Drift
from fleetest.health_monitor.statistics import Comparison, Tally, is_worse, tail_bound

BAD, GOOD = WorkerId("bad"), WorkerId("good")
RUN = RunId("r")


def task(name, group="", requirements=NO_REQUIREMENTS):
    return SimpleNamespace(
        task_id=name,
        run=SimpleNamespace(run_id="run"),
        spec=SimpleNamespace(suite=""),
        group=SimpleNamespace(name=group),
        requirements=requirements,
    )


# Statistics ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("hits", "mean"), [(5, 0.1), (10, 1.0), (30, 10.0), (3, 3.0), (0, 2.0)])
def test_the_bound_is_never_below_the_true_tail(hits, mean):
    import math

    true = 1.0 - sum(math.exp(-mean) * mean**k / math.factorial(k) for k in range(hits))
    assert tail_bound(hits, mean) >= true - 1e-12


def test_five_against_none_of_many_is_worse_and_four_are_not():
    assert is_worse(Tally(100, 5), Tally(1000, 0))
    assert not is_worse(Tally(100, 4), Tally(1000, 0))
    assert not is_worse(Tally(100, 5), Tally(10, 0)), "too few others to compare with"
    assert not is_worse(Tally(1000, 300), Tally(1000, 150)), "twice is not enough, however sure"


def test_old_counts_are_weighed_down_and_the_sum_stays_right():
    comparison = Comparison()
    for number in range(10_000):
        comparison.add("a", 1, number % 10 == 0)
        comparison.add("b", 1, 0)
    assert comparison.own("a").trials <= 2000
    assert comparison.own("a").hits == pytest.approx(comparison.own("a").trials / 10, rel=0.2)
    assert comparison.others("a").trials == pytest.approx(comparison.own("b").trials)
    assert comparison.others("b").hits == pytest.approx(comparison.own("a").hits)


# Contradictions ------------------------------------------------------------------------------------------------------


def test_a_machine_whose_failures_pass_elsewhere_is_found_with_the_numbers():
    watch = Contradictions()
    for number in range(200):
        watch.finished(GOOD, task(f"ok{number}", f"f{number % 7}"), passed=True, is_final=True)
    found = []
    for number in range(10):
        one = task(f"t{number}", "same file")
        assert watch.finished(BAD, one, passed=False, is_final=False) == []
        found += watch.finished(GOOD, one, passed=True, is_final=True)
    (finding,) = found
    assert (finding.worker_id, finding.cause) == (BAD, "fails what others pass")
    assert "tests failed here and then passed elsewhere (0 of" in finding.message


def test_a_test_that_fails_everywhere_blames_no_machine():
    watch = Contradictions()
    for number in range(200):
        one = task(f"t{number}", "broken file")
        for worker, is_final in ((BAD, False), (GOOD, True)):
            assert watch.finished(worker, one, passed=False, is_final=is_final) == []


def test_a_test_that_fails_and_passes_on_the_same_machine_is_flaky_not_the_machine():
    watch = Contradictions()
    for number in range(50):
        watch.finished(GOOD, task(f"ok{number}", f"f{number}"), passed=True, is_final=True)
        one = task(f"t{number}", "one")
        assert watch.finished(BAD, one, passed=False, is_final=False) == []
        assert watch.finished(BAD, one, passed=True, is_final=True) == []


def test_one_broken_file_on_one_machine_is_no_evidence_and_many_files_are():
    watch = Contradictions()
    for number in range(40):
        watch.finished(GOOD, task(f"ok{number}", f"good{number}"), passed=True, is_final=True)
    for number in range(100):
        assert watch.finished(BAD, task(f"t{number}", "broken"), passed=False, is_final=True) == []
    found = []
    for number in range(20):
        found += watch.finished(BAD, task(f"u{number}", f"file{number}"), passed=False, is_final=True)
    (finding,) = found
    assert "test files or commands failed here (0 of 40 on the other workers)" in finding.message


def test_tests_with_requirements_of_their_own_are_not_compared_by_file():
    watch = Contradictions()
    for number in range(40):
        watch.finished(GOOD, task(f"ok{number}", f"good{number}"), passed=True, is_final=True)
    gpu = Requirements(resources=(("gpus", 1.0),))
    for number in range(40):
        assert watch.finished(BAD, task(f"t{number}", f"gpu{number}", gpu), passed=False, is_final=True) == []


def test_it_is_over_when_what_follows_looks_like_everybody_elses_and_not_before():
    watch = Contradictions()
    for number in range(200):
        watch.finished(GOOD, task(f"ok{number}", f"f{number}"), passed=True, is_final=True)

    def work(worker, count, passed):
        return [
            finding
            for number in range(count)
            for finding in watch.finished(worker, task(f"x{number}", f"x{number}"), passed=passed, is_final=True)
        ]

    assert [finding.message != "" for finding in work(BAD, 20, passed=False)] == [True]
    assert work(BAD, 100, passed=False) == [], "once while it lasts"
    assert work(BAD, 49, passed=True) == []
    for number in range(500):
        found = watch.finished(BAD, task(f"y{number}", f"y{number}"), passed=True, is_final=True)
        if found:
            break
    assert (found[0].worker_id, found[0].message) == (BAD, "")


@pytest.mark.parametrize("seed", range(5))
def test_flaky_suites_on_equal_machines_raise_nothing(seed):
    chance = random.Random(seed)
    watch = Contradictions()
    names = [WorkerId(f"w{number}") for number in range(8)]
    for number in range(4000):
        one = task(f"t{number}", f"file{number // 10}")
        first, second = chance.sample(names, 2)
        passed = chance.random() > 0.05
        assert watch.finished(first, one, passed=passed, is_final=passed) == []
        if not passed:
            assert watch.finished(second, one, passed=chance.random() > 0.05, is_final=True) == []


def test_forgetting_a_machine_clears_what_was_found():
    watch = Contradictions()
    for number in range(100):
        watch.finished(GOOD, task(f"ok{number}", f"f{number}"), passed=True, is_final=True)
    for number in range(10):
        watch.finished(BAD, task(f"x{number}", f"x{number}"), passed=False, is_final=True)
    (finding,) = watch.forget(BAD)
    assert finding.message == ""
    assert watch.forget(BAD) == []
    assert watch.forget(WorkerId("never seen")) == []


# Drift ---------------------------------------------------------------------------------------------------------------


class Pace:
    def __init__(self, seed=0, names=("bad", "good", "other")):
        self.drift = Drift()
        self.chance = random.Random(seed)
        self.names = [WorkerId(name) for name in names]
        self.runs = 0

    def work(self, windows, **slowness):
        """Every worker runs so many windows of tests of one run; a factor for each that is not 1."""
        found = []
        self.runs += 1
        for _ in range(windows * WINDOW):
            for name in self.names:
                expected_s = self.chance.choice([0.05, 0.5, 3.0])
                duration_s = expected_s * slowness.get(name, 1.0) * self.chance.lognormvariate(0.0, 0.25)
                found += self.drift.finished(name, RunId(f"r{self.runs}"), expected_s, duration_s)
        return found


def test_a_machine_that_becomes_slower_is_found_and_cleared_when_it_has_recovered():
    pace = Pace()
    assert pace.work(6) == []
    (finding,) = pace.work(4, bad=2.5)
    assert (finding.worker_id, finding.cause) == (BAD, "slower than before")
    assert finding.message.startswith(("tests take 2.", "tests take 3."))
    assert pace.work(4, bad=2.5) == [], "once while it lasts"
    (over,) = pace.work(4)
    assert (over.worker_id, over.message) == (BAD, "")


def test_a_machine_that_was_always_slow_is_not_drifting():
    assert Pace().work(30, bad=4.0) == []


def test_code_that_has_become_slower_blames_no_machine():
    pace = Pace()
    assert pace.work(6) == []
    assert pace.work(6, bad=3.0, good=3.0, other=3.0) == []


@pytest.mark.parametrize("seed", range(20))
def test_code_that_changes_between_small_runs_blames_no_machine(seed):
    """Windows of the workers begin and end at different times, in the middle of runs."""
    pace = Pace(seed, names=("bad", "good"))
    for number in range(60):
        pace.runs += 1
        factor = pace.chance.choice([0.03, 1.0, 1.0, 8.0])
        for name in pace.chance.choices(pace.names, k=pace.chance.randrange(20, 200)):
            duration_s = factor * pace.chance.lognormvariate(0.0, 0.25)
            assert pace.drift.finished(name, RunId(f"r{number}"), 1.0, duration_s) == []


def test_what_many_runs_leave_behind_is_bounded():
    drift = Drift()
    for number in range(1000):
        drift.finished(BAD, RunId(f"r{number}"), 1.0, 1.0)
    assert len(drift._recent) == RUNS_MAX


def test_alone_in_the_fleet_there_is_nobody_to_compare_with():
    pace = Pace(names=("bad",))
    assert pace.work(6) == []
    assert pace.work(6, bad=5.0) == []


@pytest.mark.parametrize("seed", range(10))
def test_chance_raises_nothing(seed):
    assert Pace(seed).work(60) == []


def test_short_tests_and_hangs_say_nothing():
    drift = Drift()
    for number in range(1000):
        assert drift.finished(GOOD, RUN, 1.0, 1.0) == []
        assert drift.finished(BAD, RUN, 0.001, 1.0) == []
        assert drift.finished(BAD, RUN, 1.0, 1000.0 if number % 5 == 0 else 1.0) == []


def test_forgetting_its_past_clears_it():
    pace = Pace()
    pace.work(6)
    assert pace.work(3, bad=3.0)
    (finding,) = pace.drift.forget(BAD)
    assert finding.message == ""
    assert pace.drift.forget(BAD) == []
