"""Speeds of workers from expected against measured durations."""

import math
import random

import pytest

from fleetest.balancing.speeds import SHORTEST_S, WorkerSpeeds


def measured(slowness, *, rounds, noise=0.2, kind="kind", seed=1, factor=1.0):
    """Speeds after so many rounds in which every worker executes one task."""
    chance = random.Random(seed)
    speeds = WorkerSpeeds()
    for _ in range(rounds):
        for worker, slow in slowness.items():
            expected_s = chance.lognormvariate(0.0, 1.0)
            speeds.observe(worker, kind, expected_s, expected_s * factor * slow * chance.lognormvariate(0.0, noise))
    return speeds


FLEET = {"slow": 2.0, **{f"w{number}": 1.0 for number in range(9)}}


def test_a_slow_worker_is_known_after_a_few_tasks():
    speeds = measured(FLEET, rounds=10)
    assert speeds.slowness("slow", "kind") == pytest.approx(2.0, rel=0.15)
    assert all(speeds.slowness(f"w{number}", "kind") == pytest.approx(1.0, rel=0.25) for number in range(9))


@pytest.mark.parametrize("factor", [0.2, 2.0, 5.0])
def test_if_all_are_slow_the_predictions_are_wrong(factor):
    speeds = measured(FLEET, rounds=40, factor=factor)
    assert speeds.slowness("slow", "kind") == pytest.approx(2.0, rel=0.15)
    assert speeds.slowness("w0", "kind") == pytest.approx(1.0, rel=0.15)
    centre, deviation = speeds.error("kind")
    assert centre == pytest.approx(math.log(factor), abs=0.15)
    assert deviation == pytest.approx(0.2, abs=0.1)


def test_a_worker_alone_is_typical_whatever_it_takes():
    speeds = measured({"only": 7.0}, rounds=50)
    assert speeds.slowness("only", "kind") == pytest.approx(1.0)
    assert speeds.slowness("only") == pytest.approx(1.0)


def test_one_observation_says_little_and_noisy_ones_say_less():
    few = measured({"slow": 2.0, "a": 1.0, "b": 1.0}, rounds=1, noise=0.0)
    assert 1.1 < few.slowness("slow", "kind") < 1.8
    quiet, noisy = (
        [measured({f"w{n}": 1.0 for n in range(5)}, rounds=8, noise=noise, seed=seed) for seed in range(20)]
        for noise in (0.1, 1.2)
    )

    def error(found):
        return sum(abs(math.log(speeds.slowness("w0", "kind"))) for speeds in found) / len(found)

    assert error(quiet) < 0.1
    # The mean of eight values with a deviation of 1.2 is 0.34 off on average.
    assert error(noisy) < 0.34


def test_an_outlier_does_not_make_a_worker_slow():
    speeds = measured(FLEET, rounds=30)
    before = speeds.slowness("w0", "kind")
    speeds.observe("w0", "kind", 1.0, 1000.0)
    assert speeds.slowness("w0", "kind") < before * 1.2


def test_a_worker_may_change():
    speeds = measured(FLEET, rounds=100)
    for _ in range(60):
        for worker in FLEET:
            speeds.observe(worker, "kind", 1.0, 1.0)
    assert speeds.slowness("slow", "kind") == pytest.approx(1.0, rel=0.15)


def test_a_worker_may_be_slow_for_one_kind_only():
    speeds = WorkerSpeeds()
    for _ in range(40):
        for worker in FLEET:
            speeds.observe(worker, "plain", 1.0, 1.0)
            speeds.observe(worker, "gpu", 1.0, 4.0 if worker == "slow" else 1.0)
    assert speeds.slowness("slow", "gpu") == pytest.approx(4.0, rel=0.2)
    assert speeds.slowness("slow", "plain") == pytest.approx(1.0, rel=0.2)
    assert 1.0 < speeds.slowness("slow") < 4.0
    assert speeds.slowness("slow", "never seen") == speeds.slowness("slow")


def test_the_fastest_is_the_one_of_the_kind():
    speeds = measured({"slow": 2.0, "a": 1.0, "b": 1.0, "fast": 0.5}, rounds=20, noise=0.0)
    assert speeds.fastest("kind") == speeds.slowness("fast", "kind")
    speeds.forget("fast")
    assert speeds.fastest("kind") == min(speeds.slowness(worker, "kind") for worker in ("slow", "a", "b"))
    assert WorkerSpeeds().fastest() == 1.0


def test_tests_of_microseconds_say_nothing():
    speeds = WorkerSpeeds()
    speeds.observe("a", "kind", SHORTEST_S / 2, 1.0)
    speeds.observe("a", "kind", 1.0, SHORTEST_S / 2)
    assert speeds.slowness("a", "kind") == 1.0
    assert speeds.error("kind")[0] == 0.0


def test_kinds_that_nobody_asks_for_any_more_are_forgotten():
    speeds = WorkerSpeeds()
    for number in range(3000):
        speeds.observe("a", number, 1.0, 2.0)
        speeds.observe("b", number, 1.0, 1.0)
    assert speeds.error(0)[0] == 0.0
    assert speeds.error(2999)[0] != 0.0
    assert speeds.slowness("a") > 1.2


def test_what_past_runs_say_counts_until_it_is_measured():
    speeds = WorkerSpeeds()
    speeds.recall({"slow": 2.0, "a": 1.0, "b": 1.0})
    assert speeds.slowness("slow", "kind") == speeds.slowness("slow") == pytest.approx(2.0)
    assert speeds.slowness("new") == 1.0
    for _ in range(3):
        for worker, slow in {"a": 1.0, "b": 1.0, "slow": 2.0}.items():
            speeds.observe(worker, "kind", 1.0, slow)
    assert speeds.slowness("slow", "kind") == pytest.approx(2.0, rel=0.05)
    speeds.forget("slow")
    assert speeds.slowness("slow", "kind") == pytest.approx(2.0, rel=0.05)


def test_a_machine_that_is_not_any_more_what_past_runs_say_is_measured():
    speeds = WorkerSpeeds()
    speeds.recall({"slow": 4.0, **dict.fromkeys(FLEET.keys() - {"slow"}, 1.0)})
    for _ in range(60):
        for worker in FLEET:
            speeds.observe(worker, "kind", 1.0, 1.0)
    assert speeds.slowness("slow", "kind") == pytest.approx(1.0, rel=0.2)
    # What was measured is not forgotten for the next word of the past.
    speeds.recall({"slow": 4.0})
    assert speeds.slowness("slow", "kind") == pytest.approx(1.0, rel=0.2)


def test_the_past_may_count_from_another_machine():
    """There the fast one is the measure, here the median one."""
    speeds = measured({"a": 1.0, "b": 1.0, "c": 0.25}, rounds=40, noise=0.0)
    speeds.recall({"a": 4.0, "b": 4.0, "c": 1.0, "later": 8.0})
    assert speeds.slowness("later") == pytest.approx(2.0, rel=0.1)
