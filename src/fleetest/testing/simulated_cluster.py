"""A whole fleet in virtual time: the real core and policies, simulated workers, links with latency, and faults by seed.

The same seed gives the same history. First faults happen, then everything is healed and the runs must end.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from fleetest.core import commands, events
from fleetest.core.cluster_state import ClusterState
from fleetest.core.invariants import check
from fleetest.core.model import Capabilities, Limits, RunId, TaskId, TaskSpec, Verdict, WorkerId
from fleetest.core.policies import BalancingPolicy
from fleetest.health_monitor import HealthMonitor
from fleetest.load_balancer import LoadBalancer
from fleetest.task_scheduler import TaskScheduler
from fleetest.testing.simulated_worker import Behaviour, SimulatedSlot, SimulatedWorker
from fleetest.testing.virtual_clock import VirtualClock

LATENCY_S = (0.0005, 0.02)


@dataclass(slots=True)
class RecordedRun:
    """What a client saw of its run."""

    tasks: Mapping[TaskId, TaskSpec]
    verdicts: dict[TaskId, Verdict] = field(default_factory=dict)
    attempts: list[commands.TaskOutcome] = field(default_factory=list)
    counts: dict[Verdict, int] | None = None
    """Set when the run has finished."""
    finished_at: float | None = None


class SimulatedCluster:
    """``checks``: demand all invariants after every event (slow for large runs)."""

    def __init__(
        self,
        seed: int = 0,
        limits: Limits | None = None,
        *,
        checks: bool = True,
        balancing: BalancingPolicy | None = None,
    ) -> None:
        self.random = random.Random(seed)
        self.clock = VirtualClock()
        self.limits = limits or Limits(heartbeat_interval_s=1.0, reconnect_grace_s=3.0)
        self.state = ClusterState(TaskScheduler(), balancing or LoadBalancer(), HealthMonitor(), self.limits)
        self.workers: dict[WorkerId, SimulatedWorker] = {}
        self.runs: dict[RunId, RecordedRun] = {}
        self.behaviours: dict[TaskId, Behaviour] = {}
        self.missing: dict[WorkerId, frozenset[TaskId]] = {}
        self.commands: list[commands.Command] = []
        """Everything that the core asked for, in order."""
        self.has_faults = True
        self._checks = checks
        self._planned: set[RunId] = set()
        self._heard: set[tuple[str, RunId]] = set()
        self._wake_at: float | None = None
        self._last_delivery: dict[tuple[WorkerId, int, bool], float] = {}
        self._sessions = 0

    # Building ----------------------------------------------------------------------------------------------------

    def add_worker(self, name: str, slots: int = 2, capabilities: Capabilities | None = None) -> SimulatedWorker:
        worker = SimulatedWorker(
            WorkerId(name),
            capabilities or Capabilities(),
            self.clock,
            self.random,
            self._behave,
            self._deliver,
            self._collected,
            self.kill,
            [SimulatedSlot() for _ in range(slots)],
        )
        self.workers[worker.worker_id] = worker
        self._restart(worker)
        self._beat(worker)
        return worker

    def submit(self, name: str, tasks: Sequence[TaskSpec], *, owner: str = "", priority: int = 0) -> RecordedRun:
        run_id = RunId(name)
        run = self.runs[run_id] = RecordedRun({task.task_id: task for task in tasks})
        self.apply(events.RunSubmitted(run_id, owner=owner, priority=priority))
        return run

    def _behave(self, task_id: TaskId, attempt: int) -> Behaviour:
        return self.behaviours.get(task_id, _ORDINARY)

    # The coordinator's part ----------------------------------------------------------------------------------------

    def apply(self, event: events.Event) -> None:
        emitted = self.state.apply(event, self.clock.now)
        if self._checks:
            check(self.state)
        self.commands += emitted
        for command in emitted:
            self._carry_out(command)
        self._set_alarm()

    def _set_alarm(self) -> None:
        due = self.state.next_deadline()
        if due is None or (self._wake_at is not None and self.clock.now < self._wake_at <= due):
            return
        self._wake_at = due

        def wake() -> None:
            if self._wake_at == due:
                self._wake_at = None
                self.apply(events.DeadlineReached())

        self.clock.call_at(due, wake)

    def _carry_out(self, command: commands.Command) -> None:
        if isinstance(command, commands.PublishOutcomes):
            self._record(command)
        elif isinstance(command, commands.RunFinished):
            run = self.runs[command.run_id]
            assert run.counts is None, "a run ends once"
            run.counts, run.finished_at = command.counts, self.clock.now
        elif isinstance(command, commands.DisconnectWorker):
            worker = self.workers[command.worker_id]
            if worker.is_linked:
                self._unlink(worker)
        else:
            worker_id = getattr(command, "worker_id", None)
            if worker_id is not None and not isinstance(command, commands.RaiseAlert | commands.ClearAlert):
                self._send(self.workers[worker_id], command)

    def _record(self, command: commands.PublishOutcomes) -> None:
        run = self.runs[command.run_id]
        for outcome in command.outcomes:
            assert run.counts is None, f"{outcome} comes after the end of its run"
            run.attempts.append(outcome)
            if outcome.is_final:
                assert outcome.task_id not in run.verdicts, f"{outcome} is a second verdict"
                run.verdicts[outcome.task_id] = outcome.verdict

    # Links ---------------------------------------------------------------------------------------------------------

    def _in_order(self, worker: SimulatedWorker, to_worker: bool, call: Callable[[], None]) -> None:
        key = (worker.worker_id, worker.link, to_worker)
        when = max(self.clock.now + self.random.uniform(*LATENCY_S), self._last_delivery.get(key, 0.0))
        self._last_delivery[key] = when
        self.clock.call_at(when, call)

    def _deliver(self, worker: SimulatedWorker, event: events.Event) -> None:
        link = worker.link

        def arrive() -> None:
            if worker.is_linked and worker.link == link:
                if isinstance(event, events.SuiteReady):
                    self._heard.add((worker.session, event.run_id))
                self.apply(event)
                if self.has_faults and isinstance(event, events.AttemptsFinished) and self.random.random() < 0.1:
                    self.apply(event)

        if worker.is_linked:
            self._in_order(worker, False, arrive)

    def _send(self, worker: SimulatedWorker, command: commands.Command) -> None:
        link, session = worker.link, worker.session

        def arrive() -> None:
            if worker.is_alive and worker.is_linked and worker.link == link and worker.session == session:
                worker.receive(command)

        if worker.is_linked:
            self._in_order(worker, True, arrive)

    def _collected(self, worker: SimulatedWorker, run_id: RunId) -> None:
        if not worker.is_alive or run_id not in worker.runs:
            return
        if run_id not in self._planned and worker.is_linked:
            self._planned.add(run_id)
            self.apply(events.SuitePlanned(run_id, "", list(self.runs[run_id].tasks.values())))
        missing = self.missing.get(worker.worker_id, frozenset())
        session = worker.session

        def say() -> None:
            # Repeated until it arrives, as a worker does with whatever was not confirmed when its link broke.
            if worker.session == session and worker.is_alive and (session, run_id) not in self._heard:
                self._deliver(worker, events.SuiteReady(worker.worker_id, run_id, "", missing))
                self.clock.call_later(0.5, say)

        say()

    def _beat(self, worker: SimulatedWorker) -> None:
        if worker.is_alive and worker.is_linked and not worker.is_paused:
            self._deliver(worker, events.WorkerHeartbeat(worker.worker_id))
        self.clock.call_later(self.limits.heartbeat_interval_s, lambda: self._beat(worker))

    # Faults --------------------------------------------------------------------------------------------------------

    def _unlink(self, worker: SimulatedWorker) -> None:
        worker.is_linked = False
        worker.link += 1
        self.clock.call_later(self.random.uniform(0.05, 5.0), lambda: self._relink(worker, worker.link))

    def _relink(self, worker: SimulatedWorker, link: int) -> None:
        if worker.is_linked or not worker.is_alive or worker.link != link:
            return
        worker.is_linked = True
        held = worker.held_leases()
        self.apply(events.WorkerJoined(worker.worker_id, worker.session, len(worker.slots), worker.capabilities, held))

    def break_link(self, worker: SimulatedWorker) -> None:
        """The network, not the worker: it goes on, and comes back with what it holds."""
        if worker.is_linked:
            self._unlink(worker)
            self.apply(events.WorkerDisconnected(worker.worker_id, "connection reset"))

    def kill(self, worker: SimulatedWorker, *, known_dead: bool = True) -> None:
        """The worker's process dies; another one starts under its name a little later."""
        if not worker.is_alive:
            return
        was_linked = worker.is_linked
        worker.is_alive = worker.is_linked = False
        worker.link += 1
        if was_linked:
            self.apply(events.WorkerDisconnected(worker.worker_id, "killed", process_is_dead=known_dead))
        self.clock.call_later(self.random.uniform(0.05, 5.0), lambda: self._restart(worker))

    def drain(self, worker: SimulatedWorker) -> None:
        """It finishes what runs and leaves; another session comes later."""
        if not worker.is_alive or not worker.is_linked:
            return
        self._deliver(worker, events.WorkerDraining(worker.worker_id))
        session = worker.session

        def leave() -> None:
            if worker.session != session or not worker.is_alive:
                return
            if not worker.is_linked:
                self.clock.call_later(1.0, leave)
            else:
                worker.is_alive = worker.is_linked = False
                worker.link += 1
                self.apply(events.WorkerDisconnected(worker.worker_id, "drained", said_goodbye=True))
                self.clock.call_later(1.0, lambda: self._restart(worker))

        self.clock.call_later(self.random.uniform(0.1, 2.0), leave)

    def pause(self, worker: SimulatedWorker, seconds: float) -> None:
        """Stopped like by SIGSTOP: silent, then it goes on as if nothing had happened."""
        if worker.is_alive and not worker.is_paused:
            worker.is_paused = True
            self.clock.call_later(seconds, worker.wake_up)

    def fail_infrastructure(self, worker: SimulatedWorker) -> None:
        """It cannot start what is queued in one slot."""
        slot = self.random.choice(worker.slots)
        if worker.is_alive and slot.queue:
            failed = [lease.lease_id for lease in slot.queue]
            slot.queue.clear()
            self._deliver(worker, events.InfrastructureFailed(worker.worker_id, failed, "cannot fork"))

    def _restart(self, worker: SimulatedWorker) -> None:
        if worker.is_linked:
            return
        self._sessions += 1
        worker.session = f"s{self._sessions}"
        worker.is_alive = worker.is_linked = True
        worker.is_paused = False
        worker.link += 1
        worker.runs.clear()
        worker.slots[:] = [SimulatedSlot() for _ in worker.slots]
        self.apply(events.WorkerJoined(worker.worker_id, worker.session, len(worker.slots), worker.capabilities))

    def misbehave(self) -> None:
        """One random fault, now."""
        worker = self.random.choice(list(self.workers.values()))
        fault = self.random.randrange(7)
        if fault == 0:
            self.kill(worker)
        elif fault == 1:
            self.kill(worker, known_dead=False)
        elif fault in (2, 3):
            self.break_link(worker)
        elif fault == 4:
            self.pause(worker, self.random.uniform(0.1, 10.0))
        elif fault == 5:
            self.drain(worker)
        else:
            self.fail_infrastructure(worker)

    # Running -------------------------------------------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        return all(run.counts is not None for run in self.runs.values())

    def run_with_faults(self, duration_s: float, mean_gap_s: float) -> None:
        """Faults at random moments for so long; stops early when every run has ended."""
        end = self.clock.now + duration_s

        def fault() -> None:
            if self.has_faults and self.clock.now < end:
                self.misbehave()
                self.clock.call_later(self.random.expovariate(1 / mean_gap_s), fault)

        self.clock.call_later(self.random.expovariate(1 / mean_gap_s), fault)
        while not self.is_over and self.clock.now < end:
            self.clock.step()
        self.has_faults = False

    def run_to_the_end(self, limit_s: float = 600.0) -> None:
        """No more faults: every run must end within ``limit_s`` of virtual time."""
        self.has_faults = False
        for worker in self.state.snapshot().workers:
            if worker.state == "quarantined":
                self.kill(self.workers[worker.worker_id])
        end = self.clock.now + limit_s
        while not self.is_over:
            self.clock.step()
            if self.clock.now > end:
                raise AssertionError(f"not over after {limit_s} s: {self._unfinished()}")

    def _unfinished(self) -> str:
        lines = []
        for run_id, run in self.runs.items():
            for task_id in [task_id for task_id in run.tasks if task_id not in run.verdicts][:5]:
                lines.append(f"{task_id}: {self.state.why(run_id, task_id)}")
                lines += [f"    {line}" for line in self.state.story(run_id, task_id)]
        return "\n".join(lines)

    def check_end(self) -> None:
        """Exactly one verdict per task, and nothing left over."""
        for run in self.runs.values():
            assert set(run.verdicts) == set(run.tasks), "every task has one verdict"
            assert run.counts is not None
            assert sum(run.counts.values()) == len(run.tasks)
        cluster = self.state.cluster
        assert not cluster.leases, "no lease is left"
        assert not cluster.busy
        assert not cluster.placement.locks
        assert not cluster.voided
        for worker in cluster.workers.values():
            assert worker.free == dict(worker.capabilities.resources), "all resources are free"
        check(self.state)


_ORDINARY = Behaviour()
