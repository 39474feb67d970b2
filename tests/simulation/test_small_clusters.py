"""Small clusters in every order of events, as deep as a test run has time for."""

import pytest

from fleetest.core.attempt_handling import AttemptHandling
from fleetest.testing import exhaustive
from fleetest.testing.exhaustive import STARTS, explore

DEPTH = 3


@pytest.mark.parametrize("start", STARTS, ids=lambda start: start.name)
def test_every_order_of_a_few_events_holds(start):
    states, tried = explore(start, DEPTH)
    print(f"{start.name}: {states} states, {tried} transitions")
    assert states > 50


def test_the_count_of_states_is_printed():
    lines = []
    assert exhaustive.main(["--depth", "1", "--start", "one worker"], say=lines.append) == 0
    assert lines == ["one worker, two tasks: 8 states within 1 events, 7 transitions, all hold"]


@pytest.mark.replaces_core
def test_a_broken_core_is_found_with_the_events_that_break_it(monkeypatch):
    monkeypatch.setattr(AttemptHandling, "_live", lambda self, lease_id, worker_id: self._cluster.leases.get(lease_id))
    monkeypatch.setattr(AttemptHandling, "lose", lambda self, leases, reason, *, with_worker=True: None)
    with pytest.raises(AssertionError, match="two workers, two tasks, after die w1: "):
        explore(STARTS[1], 2)
