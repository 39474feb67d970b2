"""The models decide as the installed pytest-xdist does: its real schedulers drive the same simulated nodes."""

import random
from types import SimpleNamespace

import pytest
from xdist.scheduler import LoadFileScheduling, LoadScheduling, WorkStealingScheduling

from fleetest.simulation.xdist_models import XDIST_MODES, NodeFleet

REAL = {
    "xdist load": LoadScheduling,
    "xdist worksteal": WorkStealingScheduling,
    "xdist loadfile": LoadFileScheduling,
}


class RealNode:
    """What xdist's scheduler takes for a worker's controller."""

    def __init__(self, node, wire):
        self.node, self.wire = node, wire
        self.gateway = SimpleNamespace(id=f"gw{node.index}")
        self.workerinput = {}

    @property
    def shutting_down(self):
        return self.node.is_ending

    def send_runtest_some(self, tests):
        self.wire.run_tests(self.node, tests)

    def send_steal(self, tests):
        self.wire.steal(self.node, tests)

    def shutdown(self):
        self.wire.end(self.node)


def real_scheduler(kind):
    class Adapter:
        def __init__(self, groups, nodes, wire):
            options = {"maxschedchunk": None, "tx": [f"{len(nodes)}*popen"], "loadscopereorder": True}
            config = SimpleNamespace(
                getoption=options.get,
                getvalue=options.get,
                option=SimpleNamespace(**options),
                hook=None,
            )
            self.scheduler = kind(config)
            self.nodes = [RealNode(node, wire) for node in nodes]
            for node in self.nodes:
                self.scheduler.add_node(node)
                self.scheduler.add_node_collection(node, [f"{g}::t{n}" for n, g in enumerate(groups)])

        def start(self):
            self.scheduler.schedule()

        def complete(self, node, test, duration_s):
            self.scheduler.mark_test_complete(self.nodes[node.index], test, duration_s)

        def unscheduled(self, node, tests):
            self.scheduler.remove_pending_tests_from_node(self.nodes[node.index], tests)

        @property
        def is_finished(self):
            return self.scheduler.tests_finished

    return Adapter


@pytest.mark.parametrize("mode", REAL)
@pytest.mark.parametrize("latency_s", [(0.0, 0.0), (0.001, 0.02)])
@pytest.mark.parametrize("seed", range(25))
def test_the_model_runs_every_test_where_and_when_xdist_does(mode, latency_s, seed):
    rnd = random.Random(seed)
    count, nodes, per_file = rnd.choice([1, 3, 7, 20, 90, 300]), rnd.choice([1, 2, 3, 8]), rnd.choice([1, 4, 20])
    groups = [f"f{rnd.randrange(1 + count // per_file)}.py" for _ in range(count)]
    durations_s = [rnd.choice([0.001, 0.05, 0.2, rnd.lognormvariate(-1, 1.5)]) for _ in range(count)]
    slownesses = [rnd.choice([1.0, 1.0, 2.0]) for _ in range(nodes)]
    model, real = (
        NodeFleet(make, groups, durations_s, slownesses, latency_s=latency_s, seed=seed).run()
        for make in (XDIST_MODES[mode], real_scheduler(REAL[mode]))
    )
    assert model == real
    assert sorted(ran.test for ran in model) == list(range(count))


def test_round_robin_deals_once_and_for_all():
    ran = NodeFleet(XDIST_MODES["static round robin"], ["f"] * 7, [1.0] * 7, [1.0, 2.0, 1.0]).run()
    assert {number: [r.test for r in ran if r.node == number] for number in range(3)} == {
        0: [0, 3, 6],
        1: [1, 4],
        2: [2, 5],
    }
    assert max(r.ended_at for r in ran) == 4.0
