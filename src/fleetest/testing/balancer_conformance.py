"""What every balancing policy must do. Subclass :class:`BalancerConformance` in a test module and give it ``make``."""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Iterable, Sequence

import pytest

from fleetest.core.cluster import Cluster
from fleetest.core.entities import Slot
from fleetest.core.invariants import check
from fleetest.core.model import Capabilities, Instant, Limits, RunId, TaskId, TaskSpec, Verdict, WorkerId
from fleetest.core.policies import BalancingPolicy, Hedge, Move
from fleetest.core.requirements import parse_options
from fleetest.simulation.simulated_cluster import Policies, SimulatedCluster
from fleetest.simulation.simulated_worker import Behaviour
from fleetest.testing.faults import Faults, check_end

RUN = "run"


class BalancerConformance:
    """Inherit, and give ``make``: a new policy, as a coordinator would get it."""

    def make(self) -> BalancingPolicy:
        raise NotImplementedError

    @pytest.mark.parametrize("seed", range(5))
    def test_every_task_gets_its_verdict_in_a_fleet_with_faults(self, seed: int) -> None:
        cluster = unequal_fleet(self.make(), seed)
        Faults(cluster, mean_gap_s=0.7).run(10.0)
        cluster.run_to_the_end()
        check_end(cluster)

    @pytest.mark.parametrize("seed", range(3))
    def test_what_it_proposes_is_possible(self, seed: int) -> None:
        cluster = unequal_fleet(self.make(), seed)
        seen = _watch(cluster.state.cluster)
        cluster.run_to_the_end()
        check_end(cluster)
        assert seen.looks, "nobody asked it"

    def test_the_same_events_give_the_same_history(self) -> None:
        first, second = (unequal_fleet(self.make(), 7) for _ in range(2))
        for cluster in (first, second):
            Faults(cluster, mean_gap_s=0.7).run(5.0)
            cluster.run_to_the_end()
        assert first.runs[RunId(RUN)].finished_at == second.runs[RunId(RUN)].finished_at
        assert first.commands == second.commands

    def test_scores_are_for_those_who_can_run_the_task(self) -> None:
        cluster = unequal_fleet(self.make(), 1)
        while not cluster.state.cluster.leases:
            cluster.clock.step()
        state = cluster.state.cluster
        tasks = state.runs[RunId(RUN)].tasks.values()
        for worker in state.workers.values():
            for task in tasks:
                score = state.balancing.score(worker, task)
                assert (score is not None) == state.placement.is_eligible(task.task_class, worker)
                if score is not None:
                    parts = (score.fit, score.free, score.speed, score.reliability, score.locality, score.preference)
                    assert all(0.0 < part <= 1.0 for part in parts), score
                    assert score.total == pytest.approx(math.prod(parts))
        cluster.run_to_the_end()

    def test_what_it_says_of_a_worker_is_a_sane_number(self) -> None:
        cluster = unequal_fleet(self.make(), 1)
        state = cluster.state.cluster
        while not cluster.is_over:
            cluster.clock.step()
            for worker in state.workers.values():
                for task in list(state.runs[RunId(RUN)].tasks.values())[:3] if RunId(RUN) in state.runs else ():
                    assert 0.0 < state.balancing.slowness(worker, task.task_class) < math.inf
                assert math.isfinite(state.balancing.order(worker))
                assert 0.0 < state.balancing.prefetch_s(worker) <= 100 * state.limits.prefetch_s
                standing = state.balancing.standing(worker, state.now)
                assert 0.0 < standing.speed < math.inf
                assert 0.0 < standing.reliability <= 1.0
                assert 0.0 <= standing.load_s < math.inf

    def test_it_outlives_a_worker_that_it_measured(self) -> None:
        cluster = unequal_fleet(self.make(), 2)
        state = cluster.state.cluster
        while not state.leases:
            cluster.clock.step()
        state.balancing.recall({WorkerId("w0"): 3.0, WorkerId("never came"): 0.5})
        for worker in list(state.workers.values()):
            state.balancing.failed(worker)
            state.balancing.answered(worker, 0.5)
            state.balancing.forget(worker.worker_id)
            state.balancing.forget(worker.worker_id)
            assert math.isfinite(state.balancing.order(worker))
        cluster.run_to_the_end()
        check_end(cluster)

    def test_a_fleet_of_nobody_needs_no_proposals(self) -> None:
        policy = self.make()
        cluster = SimulatedCluster(0, policies=Policies(balancing=policy))
        assert list(policy.propose((), (), 0.0)) == []
        assert not cluster.state.cluster.workers


def unequal_fleet(policy: BalancingPolicy, seed: int) -> SimulatedCluster:
    """Workers of unlike speed and kind, with tests of skewed durations, some of which only some of them can run."""
    chance = random.Random(seed)
    cluster = SimulatedCluster(
        seed,
        Limits(heartbeat_interval_s=1.0, reconnect_grace_s=3.0),
        policies=Policies(balancing=policy),
        after_event=lambda state, _emitted: check(state),
    )
    for number in range(4):
        has_gpu = number == 0
        attributes = {"cuda": ("12.4",)} if has_gpu else {}
        cluster.add_worker(f"w{number}", 2, Capabilities(attributes, {"gpus": float(has_gpu), "cpus": 4.0}))
    needs = [parse_options(options).requirements for options in ({}, {}, {"requires": "cuda>=12"}, {"gpus": 1})]
    tasks = []
    for number in range(60):
        duration_s = chance.lognormvariate(-1.5, 1.0)
        expected_s = duration_s * chance.lognormvariate(0.0, 0.3) if chance.random() < 0.7 else None
        spec = TaskSpec(
            TaskId(f"t{number}"),
            group=f"g{number // 6}",
            keep_together=number // 6 == 3,
            requirements=chance.choice(needs) if number // 6 != 3 else needs[0],
            expected_s=expected_s,
        )
        cluster.behaviours[spec.task_id] = Behaviour(duration_s, chance.choice([Verdict.PASSED] * 9 + [Verdict.FAILED]))
        tasks.append(spec)
    cluster.submit(RUN, tasks)
    return cluster


class _Seen:
    looks = 0


def _watch(cluster: Cluster) -> _Seen:
    """Check every proposal against the state at the moment at which it is made."""
    seen, policy = _Seen(), cluster.balancing
    original = policy.propose

    def propose(idle: Collection[Slot], busy: Iterable[Slot], now: Instant) -> Sequence[Move | Hedge]:
        proposals = list(original(idle, busy, now))
        seen.looks += 1
        receivers = [proposal.receiver for proposal in proposals]
        donors = [proposal.donor for proposal in proposals if isinstance(proposal, Move)]
        assert len(set(receivers)) == len(receivers), "a slot gets one thing at a time"
        assert len(set(donors)) == len(donors), "a slot gives once"
        assert set(receivers) <= set(idle)
        for proposal in proposals:
            if isinstance(proposal, Move):
                _check_move(cluster, proposal)
            else:
                task = proposal.lease.task
                assert proposal.lease.is_started
                assert proposal.receiver.worker is not proposal.lease.slot.worker
                assert cluster.placement.is_eligible(task.task_class, proposal.receiver.worker)
        return proposals

    policy.propose = propose  # type: ignore[method-assign]
    return seen


def _check_move(cluster: Cluster, move: Move) -> None:
    assert move.leases
    assert move.donor.head() not in move.leases, "what runs, or runs next, stays"
    for live in move.leases:
        assert live.slot is move.donor
        assert not live.is_started
        assert not live.is_revoked
        assert not live.task.group.keep_together
        assert live.task.moves < cluster.limits.moves_max
        assert cluster.placement.is_eligible(live.task.task_class, move.receiver.worker)
