"""The circuit breaker and what lost links say, with time given."""

import pytest

from fleetest.core.model import Limits, Trust, WorkerId
from fleetest.core.policies import Finding, TrustChange
from fleetest.health_monitor.trust import TOGETHER_S, Trustworthiness

W = WorkerId("w")
LIMITS = Limits(
    infrastructure_failures_max=3,
    quarantine_s=60.0,
    quarantine_max_s=300.0,
    probation_successes=2,
    flapping_losses=4,
    flapping_window_s=100.0,
)


class Watch:
    """Says what happens and remembers what was judged."""

    def __init__(self, fleet_size=100):
        self.trust = Trustworthiness(LIMITS, lambda: fleet_size)
        self.now = 0.0

    def at(self, now):
        """What was judged until then, with every deadline at its moment."""
        found = []
        while (due := self.trust.next_deadline()) is not None and due <= now:
            self.now = max(self.now, due)
            found += self.trust.advance(self.now)
        self.now = now
        return found + self.trust.advance(now)

    def fail(self, times=1):
        for _ in range(times):
            self.trust.failed(W, "no disk", self.now)
        return self.at(self.now)

    def prove(self, times=1, is_proof=True):
        for _ in range(times):
            self.trust.executed(W, self.now, is_proof=is_proof)
        return self.at(self.now)

    def lose(self, name=W):
        self.trust.link_lost(name, self.now)
        return self.at(self.now)

    @property
    def state(self):
        return self.trust.trust(W)[0]


@pytest.fixture
def watch():
    return Watch()


def test_failures_in_a_row_open_the_circuit_then_it_is_tried_out_then_trusted_again(watch):
    assert watch.fail(2) == []
    assert watch.fail() == [
        TrustChange(W, Trust.NONE, "3 infrastructure failures in a row: no disk (tried again in 60 s)")
    ]
    assert watch.at(59.9) == []
    assert watch.at(60.0) == [TrustChange(W, Trust.PROBATION, "its quarantine is over")]
    assert watch.prove() == []
    assert watch.prove() == [TrustChange(W, Trust.FULL, "2 tests ran well on probation")]


def test_a_result_ends_the_row(watch):
    for _ in range(5):
        assert watch.fail(2) == []
        assert watch.prove(is_proof=False) == []
    assert watch.state is Trust.FULL


def test_a_failure_on_probation_opens_it_again_for_twice_as_long_up_to_the_bound(watch):
    watch.fail(3)
    waits = []
    for _ in range(5):
        start = watch.now
        watch.at(watch.trust.next_deadline())
        waits.append(watch.now - start)
        assert watch.state is Trust.PROBATION
        (change,) = watch.fail()
        assert change.trust is Trust.NONE
    assert waits == [60.0, 120.0, 240.0, 300.0, 300.0]


def test_being_trusted_for_long_wipes_out_how_often_it_was_opened(watch):
    watch.fail(3)
    watch.at(60.0)
    watch.prove(2)
    watch.at(100.0)
    (change,) = watch.fail(3)
    assert change.reason.endswith("(tried again in 120 s)")
    watch.at(220.0)
    watch.prove(2)
    watch.at(220.0 + LIMITS.quarantine_max_s)
    (change,) = watch.fail(3)
    assert change.reason.endswith("(tried again in 60 s)")


def test_a_test_that_crashes_proves_nothing(watch):
    watch.fail(3)
    watch.at(60.0)
    assert watch.prove(10, is_proof=False) == []
    assert watch.state is Trust.PROBATION


def test_what_still_fails_during_quarantine_does_not_prolong_it(watch):
    watch.fail(3)
    assert watch.fail(10) == []
    assert watch.trust.next_deadline() == 60.0


def test_lost_links_in_the_window_make_it_flap_and_put_it_on_probation(watch):
    for now in (0.0, 10.0, 20.0):
        watch.at(now)
        assert watch.lose() == []
    watch.at(30.0)
    assert watch.lose() == [
        Finding(W, "flapping", "4 lost links within 100 s"),
        TrustChange(W, Trust.PROBATION, "4 lost links within 100 s"),
    ]


def test_losses_far_apart_are_no_flapping(watch):
    for number in range(20):
        watch.at(number * 34.0)
        assert watch.lose() == []


def test_it_flaps_no_more_when_fewer_than_half_are_in_the_window(watch):
    for now in (0.0, 10.0, 20.0, 30.0):
        watch.at(now)
        watch.lose()
    assert watch.at(119.9) == []
    assert watch.at(120.0) == [Finding(W, "flapping")]
    assert watch.state is Trust.PROBATION, "it still has to prove itself"
    assert watch.prove(2)[0].trust is Trust.FULL


def test_it_still_flaps_while_half_are_in_the_window_as_it_was_lost_again(watch):
    for now in (0.0, 10.0, 20.0, 30.0):
        watch.at(now)
        watch.lose()
    watch.prove(2)
    watch.at(115.0)
    assert watch.lose() == []
    assert watch.at(129.9) == [], "the losses at 30 and 115 s"
    assert watch.at(130.0) == [Finding(W, "flapping")]
    assert watch.trust.next_deadline() is None


def test_another_loss_on_probation_is_quarantine_and_no_second_alert(watch):
    for now in (0.0, 10.0, 20.0, 30.0):
        watch.at(now)
        watch.lose()
    watch.at(40.0)
    (change,) = watch.lose()
    assert change == TrustChange(W, Trust.NONE, "its link was lost again on probation (tried again in 60 s)")


def test_when_half_of_the_fleet_is_lost_at_once_nobody_is_to_blame():
    watch = Watch(fleet_size=4)
    names = [WorkerId(f"w{number}") for number in range(4)]
    for round_number in range(20):
        watch.at(round_number * 10.0)
        for name in names:
            assert watch.lose(name) == []
    assert all(watch.trust.trust(name)[0] is Trust.FULL for name in names)


def test_losses_one_after_the_other_do_count_in_a_small_fleet():
    watch = Watch(fleet_size=4)
    found = []
    for number in range(8):
        watch.at(number * (TOGETHER_S + 1))
        found += watch.lose(WorkerId(f"w{number % 2}"))
    assert {finding.worker_id for finding in found} == {"w0", "w1"}


def test_release_forgets_everything_that_spoke_against_it(watch):
    for now in (0.0, 10.0, 20.0, 30.0):
        watch.at(now)
        watch.lose()
    watch.fail(1)
    assert watch.state is Trust.NONE
    watch.trust.release(W, watch.now)
    assert watch.at(watch.now) == [
        Finding(W, "flapping"),
        TrustChange(W, Trust.FULL, "released by the operator"),
    ]
    assert watch.trust.next_deadline() is None
    assert watch.lose() == []
    assert watch.fail(2) == []
    assert watch.fail(1)[0].reason.endswith("(tried again in 60 s)")


def test_memory_is_bounded_and_never_forgets_who_is_in_quarantine(watch, monkeypatch):
    monkeypatch.setattr("fleetest.health_monitor.trust.RECORDS_MAX", 10)
    watch.fail(3)
    for number in range(100):
        watch.trust.failed(WorkerId(f"other{number}"), "once", watch.now)
    assert len(watch.trust._records) <= 10
    assert watch.state is Trust.NONE
    assert watch.at(60.0)[-1] == TrustChange(W, Trust.PROBATION, "its quarantine is over")
