"""Neither do gangs starve single tests nor single tests gangs, however much of the others keeps arriving."""

import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fleetest.core.model import Limits, Requirements
from fleetest.testing.scripted_cluster import ScriptedCluster, task

AGEING_S = 60.0
LIMITS = Limits(heartbeat_interval_s=math.inf, ageing_s=AGEING_S)


class Arrivals:
    """Two endless streams, one of gangs and one of single tests: of each a new run whenever less than one is left."""

    def __init__(self, workers, slots, *, gang, gang_priority=(0, 0), single_priority=(0, 0), gang_s, single_s):
        """A priority is that of the test and that of its run."""
        self.cluster = ScriptedCluster(LIMITS)
        for number in range(workers):
            self.cluster.join(f"w{number}", slots)
        self.kinds = {"gang": (gang, gang_priority, gang_s), "single": (Requirements(), single_priority, single_s)}
        self.count = 0
        self.arrived, self.waited_s = {}, {"gang": 0.0, "single": 0.0}
        """When what has not begun arrived, and the longest wait of what has."""

    def keep_flowing(self):
        for kind, (requirements, priority, seconds) in self.kinds.items():
            waiting = [name for name in self.arrived if name.startswith(kind)]
            if len(waiting) < 2:
                self.count += 1
                names = [f"{kind}{self.count}-{number}" for number in range(4)]
                self.arrived.update(dict.fromkeys(names, self.cluster.now))
                own, of_run = priority
                tasks = [
                    task(name, group=name, requirements=requirements, expected_s=seconds, priority=own)
                    for name in names
                ]
                self.cluster.submit(*tasks, run=f"{kind}{self.count}", owner=kind, priority=of_run)

    def go_on(self, until_s, limit_s):
        """Every test takes what was expected of it. Fails when one has waited longer than ``limit_s``."""
        cluster = self.cluster
        while cluster.now < until_s:
            self.keep_flowing()
            slots = [slot for worker in cluster.state.cluster.workers.values() for slot in worker.slots if slot.leases]
            head = min((slot.head() for slot in slots), key=lambda live: live.slot.head_since + live.typical_s)
            cluster.wait(max(0.0, head.slot.head_since + head.typical_s - cluster.now))
            cluster.report(head, head.slot.worker.worker_id, duration_s=head.typical_s)
            for name in [name for name in self.arrived if name in cluster.leases]:
                kind = "gang" if name.startswith("gang") else "single"
                self.waited_s[kind] = max(self.waited_s[kind], cluster.now - self.arrived.pop(name))
            for name, arrived_at in self.arrived.items():
                assert cluster.now - arrived_at <= limit_s, f"{name} has waited for {cluster.now - arrived_at:.0f} s"


@settings(max_examples=15, deadline=None)
@given(
    workers=st.integers(2, 4),
    slots=st.integers(1, 3),
    size=st.integers(2, 4),
    alone=st.booleans(),
    gang_s=st.sampled_from([0.5, 2.0, 8.0]),
    single_s=st.sampled_from([0.5, 2.0, 8.0]),
    priorities=st.sampled_from(
        [((0, 0), (0, 0)), ((0, 0), (0, 1)), ((0, 1), (0, 0)), ((0, 0), (9, 0)), ((9, 0), (0, 1))]
    ),
)
@example(workers=4, slots=3, size=2, alone=True, gang_s=2.0, single_s=0.5, priorities=((0, 0), (0, 1)))
def test_neither_starves_the_other(workers, slots, size, alone, gang_s, single_s, priorities):
    arrivals = Arrivals(
        workers,
        slots,
        gang=Requirements(workers=min(size, workers), alone=alone),
        gang_priority=priorities[0],
        single_priority=priorities[1],
        gang_s=gang_s,
        single_s=single_s,
    )
    # The longest wait of all that can be drawn here with priorities of runs alone is 104 s.
    arrivals.go_on(until_s=600.0, limit_s=2 * AGEING_S)
    assert all(arrivals.waited_s.values())


@pytest.mark.parametrize("alone", [False, True])
def test_of_equal_priority_nobody_waits_until_it_is_old(alone):
    gang = Requirements(workers=2, alone=alone)
    arrivals = Arrivals(3, 2, gang=gang, gang_s=2.0, single_s=2.0)
    arrivals.go_on(until_s=300.0, limit_s=AGEING_S)
