"""Urgent work does not wait behind a long test while other slots go on with what is less urgent."""

from hypothesis import given, settings
from hypothesis import strategies as st

from fleetest.core import commands
from fleetest.core.model import Limits, TaskId, TaskSpec
from fleetest.simulation.simulated_cluster import SimulatedCluster
from fleetest.simulation.simulated_worker import Behaviour

LOW_S = 0.3
NOTICED_S = 4.0
"""Looks come every second; what is taken back, and what its new slot has already, take some time too."""
ONCE_MORE = 2
"""Starts on each slot afterwards: other long tests may begin and have to be noticed too."""


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    slots=st.lists(st.integers(1, 3), min_size=1, max_size=4).filter(lambda slots: sum(slots) > 1),
    long_tests=st.lists(st.tuples(st.floats(20.0, 60.0), st.integers(0, 2)), min_size=1, max_size=5),
    short_tests=st.lists(st.tuples(st.floats(0.05, 0.5), st.integers(0, 2)), min_size=20, max_size=40),
)
def test_hardly_anything_less_urgent_starts_while_urgent_work_waits_in_a_queue(seed, slots, long_tests, short_tests):
    granted_at: dict[TaskId, float] = {}

    def trace(now, what):
        if isinstance(what, commands.GrantLeases):
            for lease in what.leases:
                granted_at.setdefault(lease.task_id, now)

    cluster = SimulatedCluster(seed, Limits(), trace=trace)
    for number, count in enumerate(slots):
        cluster.add_worker(f"w{number}", count)
    specs = []
    # The low ones in such numbers that the other slots have some until the long tests end.
    for number, (duration_s, priority) in enumerate([*long_tests, *short_tests, *[(LOW_S, -1)] * 300]):
        task_id = TaskId(f"{number}")
        specs.append(TaskSpec(task_id, group=task_id, priority=priority, expected_s=duration_s))
        cluster.behaviours[task_id] = Behaviour(duration_s=duration_s)
    run = cluster.submit("run", specs)
    cluster.run_to_the_end()
    assert len(run.verdicts) == len(specs)
    started_at: dict[TaskId, float] = {}
    for execution in cluster.executions:
        first = started_at.get(execution.task_id, execution.started_at)
        started_at[execution.task_id] = min(first, execution.started_at)
    for spec in specs:
        waits = granted_at[spec.task_id], started_at[spec.task_id]
        less_urgent = [started_at[other.task_id] for other in specs if other.priority < spec.priority]
        overtaking = [at for at in less_urgent if waits[0] < at < waits[1]]
        late = [at for at in overtaking if at > min(overtaking) + NOTICED_S]
        assert len(late) <= ONCE_MORE * sum(slots), (spec, waits, late)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    slots=st.lists(st.integers(1, 3), min_size=1, max_size=4).filter(lambda slots: sum(slots) > 1),
    submitted_at=st.floats(0.0, 8.0),
    long_low=st.lists(st.floats(10.0, 60.0), min_size=3, max_size=12),
    short_low=st.lists(st.floats(0.05, 0.5), min_size=50, max_size=200),
    urgent=st.lists(st.floats(0.05, 0.5) | st.floats(10.0, 60.0), min_size=3, max_size=20),
    chance=st.randoms(use_true_random=False),
)
def test_hardly_anything_less_urgent_starts_once_an_urgent_run_is_there(
    seed, slots, submitted_at, long_low, short_low, urgent, chance
):
    """Each slot may have a long test of low priority next when it comes."""
    cluster = SimulatedCluster(seed, Limits())
    for number, count in enumerate(slots):
        cluster.add_worker(f"w{number}", count)

    def submit(run, priority, durations_s):
        specs = []
        for number, duration_s in enumerate(durations_s):
            task_id = TaskId(f"{run}{number}")
            group = task_id if chance.random() < 0.5 else f"{run} group {number // 5}"
            specs.append(TaskSpec(task_id, group=group, priority=priority, expected_s=duration_s))
            cluster.behaviours[task_id] = Behaviour(duration_s=duration_s)
        cluster.submit(run, specs)
        return [spec.task_id for spec in specs]

    low_s = [*long_low, *short_low]
    chance.shuffle(low_s)
    low_ids = submit("low", 0, low_s)
    cluster.run_until(submitted_at)
    urgent_ids = submit("urgent", 5, urgent)
    cluster.run_to_the_end(limit_s=3600.0)
    started_at: dict[TaskId, float] = {}
    for execution in cluster.executions:
        first = started_at.get(execution.task_id, execution.started_at)
        started_at[execution.task_id] = min(first, execution.started_at)
    last = max(urgent_ids, key=lambda task_id: started_at[task_id])
    overtaking = [at for at in map(started_at.__getitem__, low_ids) if submitted_at < at < started_at[last]]
    # While every slot is at work on a long test there is nothing to notice.
    late = [at for at in overtaking if at > min(overtaking) + NOTICED_S]
    assert len(late) <= ONCE_MORE * sum(slots), (last, started_at[last], late)
