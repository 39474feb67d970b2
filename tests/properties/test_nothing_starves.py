"""Under any endless stream of work that goes first, every task starts within a bounded time."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from fleetest.core.model import NO_REQUIREMENTS, Capabilities, Limits, Requirements
from fleetest.testing.scripted_cluster import ScriptedCluster, task

AGEING_S = 60.0
LIMITS = Limits(heartbeat_interval_s=math.inf, ageing_s=AGEING_S)
MACHINE = Capabilities({}, {"cpus": 4.0})
ONE_CPU = Requirements(resources=(("cpus", 1.0),))
SMALL = [
    NO_REQUIREMENTS,
    ONE_CPU,
    Requirements(locks=("a",)),
    Requirements(locks=("b",)),
]
WANTED = [
    NO_REQUIREMENTS,
    ONE_CPU,
    Requirements(resources=(("cpus", 4.0),)),
    Requirements(locks=("a", "b")),
    Requirements(resources=(("cpus", 3.0),), locks=("a",)),
    Requirements(alone=True),
]


class Stream:
    """Runs of small tasks, one after the other, so that something always waits."""

    def __init__(self, cluster, needs, priority):
        self.cluster, self.needs, self.priority, self.count = cluster, needs, priority, 0

    def keep_flowing(self):
        live = self.cluster.state.cluster.runs
        if sum(run_id.startswith("stream") for run_id in live) < 2:
            self.count += 1
            names = [f"{self.count}-{number}" for number in range(20)]
            tasks = [
                task(name, group=name, expected_s=1.0, requirements=self.needs[number % len(self.needs)])
                for number, name in enumerate(names)
            ]
            self.cluster.submit(*tasks, run=f"stream{self.count}", owner="many", priority=self.priority)


def started_after_s(cluster, stream, victims, limit_s):
    """When each of the victims was leased; the oldest lease of the fleet ends every quarter of a second."""
    since = cluster.now
    found = {}
    while len(found) < len(victims):
        stream.keep_flowing()
        heads = [slot.head() for worker in cluster.state.cluster.workers.values() for slot in worker.slots]
        heads = sorted((head for head in heads if head is not None), key=lambda head: head.slot.head_since)
        cluster.now += 0.25
        cluster.finish(heads[0].task.task_id, duration_s=1.0)
        for name in victims:
            if name in cluster.leases:
                found.setdefault(name, cluster.now - since)
        assert cluster.now - since <= limit_s, [(name, cluster.why(name)) for name in victims]
    return found


@settings(max_examples=40, deadline=None)
@given(
    workers=st.integers(1, 2),
    slots=st.integers(1, 4),
    needs=st.lists(st.sampled_from(SMALL), min_size=1, max_size=4),
    wanted=st.lists(st.sampled_from(WANTED), min_size=1, max_size=4),
    priority=st.sampled_from([0, 1, 9]),
)
def test_every_task_starts_within_a_bounded_time(workers, slots, needs, wanted, priority):
    cluster = ScriptedCluster(LIMITS)
    for number in range(workers):
        cluster.join(f"w{number}", slots, MACHINE)
    stream = Stream(cluster, needs, priority)
    stream.keep_flowing()
    victims = [f"victim{number}" for number in range(len(wanted))]
    cluster.submit(
        *(
            task(name, group=name, requirements=requirements, expected_s=1.0)
            for name, requirements in zip(victims, wanted, strict=True)
        ),
        owner="one",
    )
    started_after_s(cluster, stream, victims, limit_s=(len(wanted) + 1) * 1.5 * AGEING_S)


def test_a_low_priority_waits_until_it_is_old_and_then_gets_one_turn_at_a_time():
    cluster = ScriptedCluster(LIMITS)
    cluster.join("w", 2)
    stream = Stream(cluster, [NO_REQUIREMENTS], 5)
    stream.keep_flowing()
    cluster.submit(task("low0", group="a", expected_s=1.0), task("low1", group="b", expected_s=1.0))
    found = started_after_s(cluster, stream, ["low0", "low1"], 3 * AGEING_S)
    assert AGEING_S <= found["low0"] < 1.2 * AGEING_S
    assert found["low1"] >= found["low0"] + AGEING_S


def test_time_alone_makes_nothing_old():
    cluster = ScriptedCluster(LIMITS)
    cluster.join("w")
    cluster.submit(*(task(f"high{number}", expected_s=600.0) for number in range(6)), run="high", priority=1)
    cluster.submit(task("low"))
    for number in range(6):
        assert "low" not in cluster.verdicts()
        cluster.now += 600.0
        cluster.finish(f"high{number}", duration_s=600.0)
    assert "low" in cluster.leases
