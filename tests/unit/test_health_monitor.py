"""Silence and recovery, with time given: nothing here waits."""

import math

import pytest

from fleetest.core.model import WorkerId
from fleetest.core.policies import Health, HealthChange
from fleetest.health_monitor import ADAPTED_MAX, HealthMonitor

W = WorkerId("w")


@pytest.fixture
def monitor():
    monitor = HealthMonitor()
    monitor.watch(W, 0.0, 5.0)
    return monitor


def test_a_silent_worker_is_suspect_then_lost_at_the_stated_times(monitor):
    assert monitor.next_deadline() == 15.0
    assert monitor.advance(14.999) == []
    assert monitor.advance(15.0) == [HealthChange(W, Health.SUSPECT, "silent for 15.0 s")]
    assert monitor.next_deadline() == 30.0
    assert monitor.advance(29.999) == []
    assert monitor.advance(30.0) == [HealthChange(W, Health.LOST, "silent for 30.0 s")]
    assert monitor.next_deadline() is None
    assert monitor.advance(1000.0) == []


def test_it_is_suspect_once(monitor):
    assert len(monitor.advance(16.0)) == 1
    assert monitor.advance(17.0) == []
    assert monitor.health(W) is Health.SUSPECT


def test_a_beat_makes_it_healthy_again_with_the_reason(monitor):
    monitor.advance(16.0)
    assert monitor.beat(W, 17.0) == HealthChange(W, Health.HEALTHY, "heard again after 17.0 s")
    assert monitor.beat(W, 18.0) is None
    assert monitor.health(W) is Health.HEALTHY


def test_any_other_message_is_a_sign_of_life_too(monitor):
    monitor.advance(16.0)
    assert monitor.seen(W, 17.0) == HealthChange(W, Health.HEALTHY, "heard again after 17.0 s")


def test_a_healthy_worker_is_checked_lazily(monitor):
    for beat in range(1, 100):
        assert monitor.beat(W, beat * 5.0) is None
        assert monitor.advance(beat * 5.0) == []
    assert monitor.health(W) is Health.HEALTHY
    assert len(monitor._heartbeats._checks) == 1


def test_all_lost_at_once():
    monitor = HealthMonitor()
    for number in range(1000):
        monitor.watch(WorkerId(f"w{number}"), 0.0, 1.0)
    changes = monitor.advance(100.0)
    assert len(changes) == 1000
    assert {change.health for change in changes} == {Health.LOST}


def test_a_fifth_of_many_is_silent():
    monitor = HealthMonitor()
    names = [WorkerId(f"w{number}") for number in range(100)]
    for name in names:
        monitor.watch(name, 0.0, 1.0)
    found = []
    for second in range(1, 10):
        for name in names[20:]:
            monitor.beat(name, float(second))
        found += monitor.advance(float(second))
    assert {change.worker_id for change in found if change.health is Health.LOST} == set(names[:20])
    assert {change.worker_id for change in found} == set(names[:20])


def test_who_is_not_watched_is_not_judged(monitor):
    monitor.forget(W)
    assert monitor.next_deadline() is None
    assert monitor.advance(1000.0) == []
    assert monitor.beat(W, 1001.0) is None
    assert monitor.seen(W, 1001.0) is None
    assert monitor.health(W) is None


def test_watching_again_starts_anew(monitor):
    monitor.advance(16.0)
    monitor.watch(W, 20.0, 5.0)
    assert monitor.health(W) is Health.HEALTHY
    assert monitor.next_deadline() == 35.0


def test_without_an_interval_nothing_is_ever_due():
    monitor = HealthMonitor()
    monitor.watch(W, 0.0, math.inf)
    assert monitor.next_deadline() is None
    assert monitor.beat(W, 50.0) is None
    assert monitor.advance(1e9) == []


def test_jitter_gives_more_time_but_not_more_than_the_upper_bound():
    def time_to_suspect(gaps):
        monitor = HealthMonitor()
        monitor.watch(W, 0.0, 1.0)
        now = 0.0
        for gap in gaps:
            now += gap
            monitor.beat(W, now)
            monitor.advance(now)
        while True:
            due = monitor.next_deadline()
            if any(change.health is Health.SUSPECT for change in monitor.advance(due)):
                return due - now

    steady = time_to_suspect([1.0] * 50)
    assert steady == pytest.approx(3.0)
    assert time_to_suspect([0.2] * 50) == pytest.approx(3.0), "never below the configured interval"
    jittery = time_to_suspect([0.5, 1.5] * 25)
    assert steady < jittery <= 3.0 * ADAPTED_MAX
    assert time_to_suspect([2.9, 0.1] * 50) <= 3.0 * ADAPTED_MAX + 1e-9


def test_an_outage_is_not_learned_as_jitter(monitor):
    monitor.advance(15.0)
    monitor.beat(W, 29.0)
    assert monitor.next_deadline() == 44.0


def test_time_in_which_nobody_listened_does_not_count(monitor):
    monitor.beat(W, 5.0)
    monitor.excuse(100.0)
    assert monitor.next_deadline() == 115.0, "as it was looked for, later by what is excused"
    assert monitor.advance(119.9) == []
    assert monitor.advance(120.0) == [HealthChange(W, Health.SUSPECT, "silent for 15.0 s")]
    assert monitor.beat(W, 121.0) == HealthChange(W, Health.HEALTHY, "heard again after 16.0 s")
    assert monitor.next_deadline() == 136.0


def test_an_excuse_that_reaches_beyond_now_is_no_negative_silence(monitor):
    monitor.excuse(20.0)
    assert monitor.beat(W, 11.0) is None
    assert monitor.advance(11.0 + 20.0) == []
    assert monitor.health(W) is Health.HEALTHY


def test_another_interval_holds_from_now_on(monitor):
    monitor.set_interval(W, 10.0)
    assert monitor.advance(15.0) == []
    assert monitor.next_deadline() == 30.0
    monitor.set_interval(W, 2.0)
    assert monitor.next_deadline() == 6.0
    monitor.set_interval(WorkerId("unknown"), 1.0)
    monitor.set_interval(W, math.inf)
    assert monitor.next_deadline() == 6.0
