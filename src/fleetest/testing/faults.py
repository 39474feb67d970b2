"""What goes wrong with machines, networks and workers, at random, by the random numbers of the simulated cluster."""

from __future__ import annotations

from collections.abc import Callable

from fleetest.core import events
from fleetest.core.alerts import Cause
from fleetest.core.invariants import check
from fleetest.core.model import AttemptResult, LeaseId, RunId, Verdict
from fleetest.simulation.simulated_cluster import LIE, SimulatedCluster
from fleetest.simulation.simulated_worker import SimulatedWorker

_HEALED_S = 15.0
"""No link of before the healing is held longer."""


class Faults:
    """Strikes one of ``kinds`` (all of ``KINDS`` unless told otherwise) at random moments until it is healed."""

    def __init__(
        self, cluster: SimulatedCluster, *, mean_gap_s: float = 0.7, kinds: tuple[str, ...] | None = None
    ) -> None:
        self.cluster = cluster
        self.counts: dict[str, int] = {}
        self._mean_gap_s = mean_gap_s
        self._kinds = kinds or tuple(KINDS)
        self._is_over = False

    def start(self) -> None:
        self.cluster.repeats_results = 0.1
        self._again()

    def run(self, duration_s: float) -> None:
        """Faults for so long, then none; stops early when every run has ended."""
        self.start()
        self.cluster.run_until(self.cluster.clock.now + duration_s)
        self.heal()

    def heal(self) -> None:
        """Nothing breaks any more, and the operator trusts and resumes every machine."""
        cluster = self.cluster
        self._is_over = True
        cluster.repeats_results = 0.0
        make_room(cluster)
        now = cluster.clock.now
        for worker in cluster.workers.values():
            worker.slowness = min(worker.slowness, 4.0)
            worker.unreachable_until = min(worker.unreachable_until, now + _HEALED_S)
            cluster.apply(events.WorkerResumed(worker.worker_id))
            cluster.apply(events.WorkerReleased(worker.worker_id))

    def _again(self) -> None:
        cluster = self.cluster
        cluster.clock.call_later(cluster.random.expovariate(1 / self._mean_gap_s), self._strike)

    def _strike(self) -> None:
        if not self._is_over:
            self.strike(self.cluster.random.choice(self._kinds))
            self._again()

    def strike(self, kind: str) -> None:
        """This fault now, on a random worker."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        worker = self.cluster.random.choice(list(self.cluster.workers.values()))
        KINDS[kind](self.cluster, worker)


# One function per kind ----------------------------------------------------------------------------------------------


def crash(cluster: SimulatedCluster, worker: SimulatedWorker) -> None:
    cluster.kill(worker)


def vanish(cluster: SimulatedCluster, worker: SimulatedWorker) -> None:
    """Its machine is gone without a word: the coordinator sees a connection that may come back."""
    cluster.kill(worker, known_dead=False)


def break_link(cluster: SimulatedCluster, worker: SimulatedWorker) -> None:
    cluster.break_link(worker)


def half_open(cluster: SimulatedCluster, worker: SimulatedWorker) -> None:
    """The worker sees the end of its link long before the coordinator does."""
    cluster.break_link(worker, unseen_s=cluster.random.uniform(0.1, 8.0))


def stop(cluster: SimulatedCluster, worker: SimulatedWorker) -> None:
    cluster.pause(worker, cluster.random.uniform(0.1, 15.0))


def slow_down(cluster: SimulatedCluster, worker: SimulatedWorker) -> None:
    worker.slowness = cluster.random.choice([0.5, 1.0, 2.0, 5.0, 20.0])


def partition(cluster: SimulatedCluster, worker: SimulatedWorker) -> None:
    cluster.hold_link(worker, cluster.random.uniform(0.5, 15.0))


def partition_one_way(cluster: SimulatedCluster, worker: SimulatedWorker) -> None:
    up = cluster.random.random() < 0.5
    cluster.hold_link(worker, cluster.random.uniform(0.5, 15.0), up=up, down=not up)


def split_fleet(cluster: SimulatedCluster, _worker: SimulatedWorker) -> None:
    """Half of the machines at once."""
    seconds = cluster.random.uniform(0.5, 10.0)
    for worker in cluster.workers.values():
        if cluster.random.random() < 0.5:
            cluster.hold_link(worker, seconds)


def flap(cluster: SimulatedCluster, worker: SimulatedWorker) -> None:
    """The link breaks several times in a row."""
    for number in range(cluster.random.randint(3, 8)):
        cluster.clock.call_later(number * cluster.random.uniform(0.3, 1.5), break_link, cluster, worker)


def leave(cluster: SimulatedCluster, worker: SimulatedWorker) -> None:
    cluster.drain(worker)


def fail_infrastructure(cluster: SimulatedCluster, worker: SimulatedWorker) -> None:
    if worker.is_alive and not worker.is_paused:
        worker.fail_queue(cluster.random.choice(worker.slots))


def fail_all_infrastructure(_cluster: SimulatedCluster, worker: SimulatedWorker) -> None:
    """Its disk is full: no slot can start anything."""
    if worker.is_alive and not worker.is_paused:
        for slot in worker.slots:
            worker.fail_queue(slot)


def lie(cluster: SimulatedCluster, worker: SimulatedWorker) -> None:
    """It speaks of leases that it does not hold, and of runs that there never were."""
    held = set(worker.held_leases())
    live = [lease_id for lease_id in cluster.state.cluster.leases if lease_id not in held]
    own = {
        live.lease_id
        for live in cluster.state.cluster.leases.values()
        if live.slot.worker.worker_id == worker.worker_id
    }
    strange = [LeaseId(cluster.random.randrange(1, 10)), *(lease_id for lease_id in live if lease_id not in own)]
    if worker.link is None or not worker.is_alive:
        return
    lease_id, name = cluster.random.choice(strange), worker.worker_id
    result = AttemptResult(lease_id, Verdict.PASSED, duration_s=-1.0, evidence=LIE)
    # Straight onto the link: a liar does not repeat itself faithfully after a break.
    for event in (
        events.AttemptsStarted(name, (lease_id,)),
        events.AttemptsFinished(name, [result]),
        events.LeasesReturned(name, [lease_id]),
        events.InfrastructureFailed(name, [lease_id], LIE, has_started=True),
        events.SuiteReady(name, RunId("never submitted"), ""),
        events.SuiteUnavailable(name, RunId("never submitted"), "", LIE),
    ):
        cluster.deliver(worker, event)


def operate(cluster: SimulatedCluster, worker: SimulatedWorker) -> None:
    """The operator drains a machine, or distrusts it, and thinks better of it later."""
    begin, end = cluster.random.choice(
        [
            (events.WorkerDrainRequested, events.WorkerResumed),
            (events.WorkerQuarantined, events.WorkerReleased),
        ]
    )
    cluster.apply(begin(worker.worker_id))
    cluster.clock.call_later(cluster.random.uniform(0.1, 8.0), cluster.apply, end(worker.worker_id))


def probe(cluster: SimulatedCluster, worker: SimulatedWorker) -> None:
    """Its own probe fails, and succeeds some time later."""
    if worker.is_alive and not worker.is_paused:
        worker.tell(events.WorkerProbed(worker.worker_id, False, "no display"))
        cluster.clock.call_later(cluster.random.uniform(0.1, 8.0), _probe_again, cluster, worker, worker.session)


def _probe_again(cluster: SimulatedCluster, worker: SimulatedWorker, session: str) -> None:
    if worker.is_paused and worker.is_alive:
        cluster.clock.call_later(1.0, _probe_again, cluster, worker, session)
    elif worker.is_alive and worker.session == session:
        worker.tell(events.WorkerProbed(worker.worker_id, True))


def fill_disk(cluster: SimulatedCluster, _worker: SimulatedWorker) -> None:
    """The coordinator's disk is nearly full, and has room again some time later."""
    cluster.apply(events.CoordinatorChecked(Cause.DISK_NEARLY_FULL, "3 MiB free"))
    cluster.clock.call_later(cluster.random.uniform(0.1, 8.0), make_room, cluster)


def make_room(cluster: SimulatedCluster) -> None:
    cluster.apply(events.CoordinatorChecked(Cause.DISK_NEARLY_FULL))


KINDS: dict[str, Callable[[SimulatedCluster, SimulatedWorker], None]] = {
    "crash": crash,
    "vanish": vanish,
    "break_link": break_link,
    "half_open": half_open,
    "stop": stop,
    "slow_down": slow_down,
    "partition": partition,
    "partition_one_way": partition_one_way,
    "split_fleet": split_fleet,
    "flap": flap,
    "leave": leave,
    "fail_infrastructure": fail_infrastructure,
    "fail_all_infrastructure": fail_all_infrastructure,
    "lie": lie,
    "operate": operate,
    "probe": probe,
    "fill_disk": fill_disk,
}


def check_end(cluster: SimulatedCluster) -> None:
    """Exactly one verdict per task, and nothing left over. Raises AssertionError or InvariantViolation."""
    for run in cluster.runs.values():
        assert set(run.verdicts) == set(run.tasks) or not run.verdicts, "every task has one verdict"
        assert run.counts is not None
        assert sum(run.counts.values()) == len(run.verdicts)
        counted = {verdict: list(run.verdicts.values()).count(verdict) for verdict in set(run.verdicts.values())}
        assert run.counts == counted, "the counts are those of the verdicts"
    state = cluster.state.cluster
    assert not state.leases, "no lease is left"
    assert not state.busy
    assert not state.placement.locks
    assert not state.voided
    for worker in state.workers.values():
        assert worker.free == dict(worker.capabilities.resources), "all resources are free"
    check(cluster.state)
