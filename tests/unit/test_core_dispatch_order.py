"""What a slot is given when the best of what waits is not for it."""

from fleetest.core.model import Limits
from fleetest.testing.naive_model import check_schedule
from fleetest.testing.scripted_cluster import ScriptedCluster, task

ONE_BY_ONE = Limits(prefetch_s=0.0, prefetch_tasks_max=1)


class JudgedCluster(ScriptedCluster):
    def apply(self, event):
        emitted = super().apply(event)
        check_schedule(self.state.cluster, emitted)
        return emitted


def test_a_suspect_that_must_wait_does_not_keep_a_slot_from_others():
    cluster = JudgedCluster(ONE_BY_ONE)
    cluster.join("w1", 2)
    cluster.submit(*[task(name, group=name, priority=1) for name in "ab"], task("c", group="c"))
    cluster.start("a", "b")
    cluster.disconnect("w1", dead=True)
    cluster.leases.clear()
    cluster.join("w1", 2, session="2")
    cluster.ready("w1")
    assert len({"a", "b"} & set(cluster.leases)) == 1
    assert "c" in cluster.leases


def test_more_urgent_work_of_another_slots_group_comes_before_the_own_group():
    cluster = JudgedCluster(ONE_BY_ONE)
    cluster.join("w1", 2)
    urgent = [task(f"g{number}", group="g", priority=1, expected_s=1.0, depends_on=["x"]) for number in range(2)]
    plain = [task(f"h{number}", group="h", expected_s=1.0) for number in range(4)]
    cluster.submit(task("x", group="g", priority=1, expected_s=1.0), *urgent, *plain)
    cluster.start("x", "h0")
    cluster.finish("x")
    assert "g0" in cluster.leases
    cluster.start("g0")
    cluster.finish("h0")
    assert "g1" in cluster.leases
    assert "h1" not in cluster.leases
