"""The naive model sees what a broken scheduler does: for each rule one break, and the seeds fail."""

import pytest

from fleetest.core.model import Capabilities, Constraint, Limits, Operator, Requirements, TaskId
from fleetest.core.placement import Placement
from fleetest.core.policies import Choice
from fleetest.task_scheduler import TaskScheduler
from fleetest.testing.naive_model import check_schedule
from fleetest.testing.scripted_cluster import ScriptedCluster, task

GPU = Capabilities({}, {"gpus": 1.0})
NEEDS_GPU = Requirements(resources=(("gpus", 1.0),))


class JudgedCluster(ScriptedCluster):
    def apply(self, event):
        emitted = super().apply(event)
        check_schedule(self.state.cluster, emitted)
        return emitted


def drive() -> None:
    """A little of everything: priorities, resources, dependencies, two workers."""
    cluster = JudgedCluster(Limits(prefetch_s=0.0))
    cluster.join("w1", 2)
    cluster.join("w2", 1, GPU)
    names = [f"t{number}" for number in range(6)]
    cluster.submit(
        *[task(name, group=name, priority=int(name == "t5"), expected_s=1.0) for name in names],
        task("gpu", group="gpu", requirements=NEEDS_GPU),
        task("after", group="after", depends_on=["t5"]),
    )
    for _ in range(20):
        for live in list(cluster.state.cluster.leases.values()):
            if live.lease_id in cluster.state.cluster.leases:
                cluster.start(live.task.task_id)
                cluster.finish(live.task.task_id)
    assert len(cluster.verdicts()) == 8


def test_the_real_scheduler_passes():
    drive()


@pytest.mark.replaces_core
def test_an_idle_slot_beside_queued_work_is_seen(monkeypatch):
    choose = TaskScheduler.choose
    monkeypatch.setattr(
        TaskScheduler,
        "choose",
        lambda self, slot, *rest: Choice() if slot.index == 1 else choose(self, slot, *rest),
    )
    with pytest.raises(AssertionError, match="has nothing to do"):
        drive()


@pytest.mark.replaces_core
def test_a_task_on_a_worker_that_cannot_run_it_is_seen(monkeypatch):
    monkeypatch.setattr(Placement, "is_eligible", lambda *_: True)
    monkeypatch.setattr(Placement, "fits", lambda *_: True)
    cluster = JudgedCluster()
    cluster.join("w1", 1)
    with pytest.raises(AssertionError, match="cannot run it"):
        cluster.submit(task("cuda", requirements=Requirements(constraints=(Constraint("cuda", Operator.GE, "12"),))))


def test_a_retry_too_many_is_seen():
    cluster = JudgedCluster(Limits(prefetch_s=0.0))
    cluster.join("w1", 1)
    cluster.submit(*[task(name, retries=1) for name in "abcd"])
    tasks = cluster.state.cluster.runs["run"].tasks.values()
    next(one for one in tasks if not one.live_leases).retries_used = 2
    cluster.start("a")
    with pytest.raises(AssertionError, match="granted for retry 2"):
        cluster.finish("a")


@pytest.mark.replaces_core
def test_less_urgent_work_that_goes_first_is_seen(monkeypatch):
    add_tasks = TaskScheduler.add_tasks

    def flattened(self, tasks, now):
        # The scheduler is told that all are equally urgent; the cluster knows better.
        priorities = [one.priority for one in tasks]
        for one in tasks:
            one.priority = 0
        add_tasks(self, tasks, now)
        for one, priority in zip(tasks, priorities, strict=True):
            one.priority = priority

    monkeypatch.setattr(TaskScheduler, "add_tasks", flattened)
    with pytest.raises(AssertionError, match=r"of priority 0 was granted .* before task 't5' of priority 1"):
        drive()


def test_a_task_before_its_dependency_is_seen():
    cluster = JudgedCluster()
    cluster.join("w1", 1)
    cluster.submit(task("first"))
    cluster.start("first")
    live = next(iter(cluster.state.cluster.leases.values()))
    # As if the core had granted it too early.
    object.__setattr__(live.task.spec, "depends_on", (TaskId("other"),))
    with pytest.raises(AssertionError, match="before other"):
        check_schedule(cluster.state.cluster, cluster.emitted)


def test_a_resource_that_is_given_out_twice_is_seen(monkeypatch):
    cluster = ScriptedCluster()
    cluster.join("w2", 2, GPU)
    cluster.submit(task("one", requirements=NEEDS_GPU), task("two"))
    two = cluster.state.cluster.leases[cluster.leases["two"].lease_id].task
    two.requirements = NEEDS_GPU
    with pytest.raises(AssertionError, match="too much gpus"):
        check_schedule(cluster.state.cluster, [])
