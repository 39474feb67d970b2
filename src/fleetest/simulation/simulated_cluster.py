"""A whole fleet in virtual time: the real core and policies, simulated workers, links with latency.

The same seed gives the same history.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from fleetest.core import commands, events
from fleetest.core.cluster_state import ClusterState
from fleetest.core.model import Capabilities, LeaseId, Limits, RunId, TaskId, TaskSpec, Verdict, WorkerId
from fleetest.core.policies import BalancingPolicy, HealthPolicy, SchedulingPolicy
from fleetest.health_monitor import HealthMonitor
from fleetest.load_balancer import LoadBalancer
from fleetest.simulation.simulated_worker import Behaviour, Execution, Link, SimulatedSlot, SimulatedWorker
from fleetest.simulation.virtual_clock import VirtualClock
from fleetest.task_scheduler import TaskScheduler

LATENCY_S = (0.0005, 0.02)
RECONNECT_S = (0.05, 5.0)
RESTART_S = (0.1, 3.0)
LIE = "a lie"
"""``evidence`` of a result that a worker made up for a lease that it does not hold."""


@dataclass(slots=True, eq=False)
class RecordedRun:
    """What a client saw of its run."""

    tasks: Mapping[TaskId, TaskSpec]
    verdicts: dict[TaskId, Verdict] = field(default_factory=dict)
    attempts: list[commands.TaskOutcome] = field(default_factory=list)
    counts: dict[Verdict, int] | None = None
    """Set when the run has finished."""
    submitted_at: float = 0.0
    finished_at: float | None = None


@dataclass(slots=True, eq=False)
class Policies:
    """What decides; the adaptive defaults unless told otherwise."""

    scheduling: SchedulingPolicy = field(default_factory=TaskScheduler)
    balancing: BalancingPolicy = field(default_factory=LoadBalancer)
    health: HealthPolicy = field(default_factory=HealthMonitor)


class SimulatedCluster:
    """``after_event`` is called after every event, with the state and what it emitted: where tests demand their rules.

    ``latency_s`` are the bounds of what a message takes from side to side; ``collecting_s`` of the collection.
    ``trace`` gets every event and command with its time.
    """

    def __init__(
        self,
        seed: int = 0,
        limits: Limits | None = None,
        *,
        policies: Policies | None = None,
        after_event: Callable[[ClusterState, Sequence[commands.Command]], None] | None = None,
        latency_s: tuple[float, float] = LATENCY_S,
        collecting_s: tuple[float, float] = (0.01, 0.5),
        trace: Callable[[float, object], None] | None = None,
    ) -> None:
        self.random = random.Random(seed)
        self.clock = VirtualClock()
        self.limits = limits or Limits(heartbeat_interval_s=1.0, reconnect_grace_s=3.0)
        policies = policies or Policies()
        self.state = ClusterState(policies.scheduling, policies.balancing, policies.health, self.limits)
        self.workers: dict[WorkerId, SimulatedWorker] = {}
        self.runs: dict[RunId, RecordedRun] = {}
        self.behaviours: dict[TaskId, Behaviour] = {}
        self.missing: dict[WorkerId, frozenset[TaskId]] = {}
        self.unavailable: dict[WorkerId, frozenset[RunId]] = {}
        """Runs whose suite a worker cannot execute at all."""
        self.commands: list[commands.Command] = []
        """Everything that the core asked for, in order."""
        self.executions: list[Execution] = []
        self.events_applied = 0
        self.repeats_results = 0.0
        """Probability that a result arrives twice."""
        self._latency_s, self._collecting_s = latency_s, collecting_s
        self._after_event, self._trace = after_event, trace
        self._links: dict[WorkerId, Link] = {}
        """As the coordinator sees it."""
        self._planned: set[RunId] = set()
        self._heard: set[tuple[str, RunId]] = set()
        self._ended_leases: set[LeaseId] = set()
        self._wake_at: float | None = None
        self._sessions = 0

    # Building ----------------------------------------------------------------------------------------------------

    def add_worker(
        self, name: str, slots: int = 2, capabilities: Capabilities | None = None, *, slowness: float = 1.0
    ) -> SimulatedWorker:
        worker = SimulatedWorker(
            WorkerId(name),
            capabilities or Capabilities(),
            self,
            [SimulatedSlot(index) for index in range(slots)],
            slowness,
        )
        self.workers[worker.worker_id] = worker
        self._start_process(worker)
        # Workers do not beat in step.
        self.clock.call_later(self.random.uniform(0, self.limits.heartbeat_interval_s), self._beat, worker)
        return worker

    def submit(self, name: str, tasks: Sequence[TaskSpec], *, owner: str = "", priority: int = 0) -> RecordedRun:
        return self.submit_run(events.RunSubmitted(RunId(name), owner=owner, priority=priority), tasks)

    def submit_run(self, event: events.RunSubmitted, tasks: Sequence[TaskSpec]) -> RecordedRun:
        run = RecordedRun({task.task_id: task for task in tasks}, submitted_at=self.clock.now)
        self.runs[event.run_id] = run
        self.apply(event)
        return run

    # The coordinator's part ----------------------------------------------------------------------------------------

    def apply(self, event: events.Event) -> None:
        now = self.clock.now
        if self._trace is not None:
            self._trace(now, event)
        self.events_applied += 1
        emitted = self.state.apply(event, now)
        if self._after_event is not None:
            self._after_event(self.state, emitted)
        self.commands += emitted
        for command in emitted:
            if self._trace is not None:
                self._trace(now, command)
            self._carry_out(command)
        self._set_alarm()

    def _set_alarm(self) -> None:
        due = self.state.next_deadline()
        if due is None or (self._wake_at is not None and self.clock.now < self._wake_at <= due):
            return
        self._wake_at = due
        self.clock.call_at(due, self._alarm, due)

    def _alarm(self, due: float) -> None:
        if self._wake_at == due:
            self._wake_at = None
            self.apply(events.DeadlineReached())

    def _carry_out(self, command: commands.Command) -> None:
        if isinstance(command, _TOLD_TO_WORKERS):
            self._send(self.workers[command.worker_id], command)
        elif isinstance(command, commands.PublishOutcomes):
            self._record_outcomes(command)
        elif isinstance(command, commands.RunFinished):
            run = self.runs[command.run_id]
            assert run.counts is None, "a run ends once"
            run.counts, run.finished_at = command.counts, self.clock.now
        elif isinstance(command, commands.DisconnectWorker):
            link = self._links.pop(command.worker_id, None)
            if link is not None:
                worker = self.workers[command.worker_id]
                self._down(link, self._link_is_gone, worker, link)

    def _record_outcomes(self, command: commands.PublishOutcomes) -> None:
        run = self.runs[command.run_id]
        for outcome in command.outcomes:
            assert run.counts is None, f"{outcome} comes after the end of its run"
            assert outcome.task_id in run.tasks, f"{outcome} was never planned"
            run.attempts.append(outcome)
            result = outcome.result
            if result is not None and not outcome.is_superseded:
                assert result.evidence != LIE, f"{outcome} is of a worker that did not hold the lease"
                assert result.lease_id not in self._ended_leases, f"{outcome}: its lease has ended before"
                self._ended_leases.add(result.lease_id)
            assert not (outcome.is_final and outcome.is_superseded), f"{outcome} is stale and final"
            if outcome.is_final:
                assert outcome.task_id not in run.verdicts, f"{outcome} is a second verdict"
                run.verdicts[outcome.task_id] = outcome.verdict

    # Messages ------------------------------------------------------------------------------------------------------

    def _up(self, link: Link, call: Callable[..., None], *args: object) -> None:
        when = link.up_free_at = max(self.clock.now + self.random.uniform(*self._latency_s), link.up_free_at)
        self.clock.call_at(when, call, *args)

    def _down(self, link: Link, call: Callable[..., None], *args: object) -> None:
        when = link.down_free_at = max(self.clock.now + self.random.uniform(*self._latency_s), link.down_free_at)
        self.clock.call_at(when, call, *args)

    def deliver(self, worker: SimulatedWorker, event: events.Event) -> None:
        if worker.link is not None:
            self._up(worker.link, self._arrived, worker, worker.link, event)

    def _arrived(self, worker: SimulatedWorker, link: Link, event: events.Event) -> None:
        if self._links.get(worker.worker_id) is link:
            self.apply(event)
            if (
                self.repeats_results
                and isinstance(event, events.AttemptsFinished)
                and self.random.random() < self.repeats_results
            ):
                self.apply(event)

    def _send(self, worker: SimulatedWorker, command: commands.Command) -> None:
        link = self._links.get(worker.worker_id)
        if link is not None:
            self._down(link, self._received, worker, link, command)

    def _received(self, worker: SimulatedWorker, link: Link, command: commands.Command) -> None:
        if worker.is_alive and worker.link is link:
            worker.receive(command)

    # What workers need ---------------------------------------------------------------------------------------------

    def behave(self, task_id: TaskId, attempt: int) -> Behaviour:
        return self.behaviours.get(task_id, _ORDINARY)

    def record(self, execution: Execution) -> None:
        self.executions.append(execution)

    def collect(self, worker: SimulatedWorker, run_id: RunId) -> None:
        self.clock.call_later(self.random.uniform(*self._collecting_s), self._collected, worker, worker.session, run_id)

    def _collected(self, worker: SimulatedWorker, session: str, run_id: RunId) -> None:
        """Said again until it arrives, as a worker does with whatever was not confirmed when its link broke."""
        if worker.session != session or not worker.is_alive or run_id not in worker.runs:
            return
        if (session, run_id) in self._heard or self.runs[run_id].counts is not None:
            return
        if worker.link is not None and not worker.is_paused:
            self._up(worker.link, self._collection_arrived, worker, worker.link, run_id)
        self.clock.call_later(0.5, self._collected, worker, session, run_id)

    def _collection_arrived(self, worker: SimulatedWorker, link: Link, run_id: RunId) -> None:
        worker_id = worker.worker_id
        if self._links.get(worker_id) is not link or (worker.session, run_id) in self._heard:
            return
        self._heard.add((worker.session, run_id))
        if run_id in self.unavailable.get(worker_id, ()):
            self.apply(events.SuiteUnavailable(worker_id, run_id, "", "no such directory"))
            return
        if run_id not in self._planned:
            self._planned.add(run_id)
            self.apply(events.SuitePlanned(run_id, "", list(self.runs[run_id].tasks.values())))
        missing = self.missing.get(worker_id, frozenset())
        self.apply(events.SuiteReady(worker_id, run_id, "", missing))

    def _beat(self, worker: SimulatedWorker) -> None:
        if worker.is_alive and worker.link is not None and not worker.is_paused:
            self.deliver(worker, events.WorkerHeartbeat(worker.worker_id))
        self.clock.call_later(self.limits.heartbeat_interval_s, self._beat, worker)

    # Links and processes ---------------------------------------------------------------------------------------------

    def _start_process(self, worker: SimulatedWorker) -> None:
        self._sessions += 1
        worker.start_anew(f"s{self._sessions}")
        self._connect(worker)

    def _connect(self, worker: SimulatedWorker) -> None:
        """A new link replaces what the coordinator still takes for the old one."""
        link = Link(up_free_at=self.clock.now, down_free_at=self.clock.now)
        self._links[worker.worker_id] = link
        held = worker.held_leases()
        worker.link = link
        self.apply(events.WorkerJoined(worker.worker_id, worker.session, len(worker.slots), worker.capabilities, held))
        worker.linked(link)

    def _link_is_gone(self, worker: SimulatedWorker, link: Link) -> None:
        """The worker notices: it goes on, and connects again soon."""
        if worker.is_alive and worker.link is link:
            worker.was_disturbed = True
            worker.link = None
            self._reconnect_later(worker)

    def _reconnect_later(self, worker: SimulatedWorker) -> None:
        when = max(self.clock.now, worker.unreachable_until) + self.random.uniform(*RECONNECT_S)
        self.clock.call_at(when, self._reconnect, worker, worker.session)

    def _reconnect(self, worker: SimulatedWorker, session: str) -> None:
        if not worker.is_alive or worker.session != session or worker.link is not None:
            return
        if worker.is_paused or self.clock.now < worker.unreachable_until:
            self._reconnect_later(worker)
        else:
            self._connect(worker)

    def _coordinator_sees_end(
        self, worker: SimulatedWorker, link: Link | None, reason: str, *, is_dead: bool = False, is_bye: bool = False
    ) -> None:
        if link is not None and self._links.get(worker.worker_id) is link:
            del self._links[worker.worker_id]
            self.apply(
                events.WorkerDisconnected(worker.worker_id, reason, said_goodbye=is_bye, process_is_dead=is_dead)
            )

    def break_link(self, worker: SimulatedWorker, *, unseen_s: float = 0.0) -> None:
        """The network, not the worker: it goes on, and comes back with what it holds.

        The coordinator notices ``unseen_s`` later, maybe after the worker is back.
        """
        link = worker.link
        if link is not None:
            self._link_is_gone(worker, link)
            if unseen_s:
                self.clock.call_later(unseen_s, self._coordinator_sees_end, worker, link, "connection timed out")
            else:
                self._coordinator_sees_end(worker, link, "connection reset")

    def hold_link(self, worker: SimulatedWorker, seconds: float, *, up: bool = True, down: bool = True) -> None:
        """A partition, one way or both: what is under way arrives, in order, when it is over."""
        worker.was_disturbed = True
        free_at = self.clock.now + seconds
        worker.unreachable_until = max(worker.unreachable_until, free_at)
        if worker.link is not None and up:
            worker.link.up_free_at = max(worker.link.up_free_at, free_at)
        if worker.link is not None and down:
            worker.link.down_free_at = max(worker.link.down_free_at, free_at)

    def kill(self, worker: SimulatedWorker, *, known_dead: bool = True, comes_back: bool = True) -> None:
        """The worker's process dies; another one starts under its name a little later."""
        if not worker.is_alive:
            return
        link = worker.link
        worker.was_disturbed = True
        worker.died()
        self._coordinator_sees_end(worker, link, "killed", is_dead=known_dead)
        if comes_back:
            self.clock.call_later(self.random.uniform(*RESTART_S), self._restart, worker, worker.session)

    def die(self, worker: SimulatedWorker) -> None:
        self.kill(worker)

    def _restart(self, worker: SimulatedWorker, session: str) -> None:
        if worker.session == session and not worker.is_alive:
            self._start_process(worker)

    def drain(self, worker: SimulatedWorker) -> None:
        """It is asked to leave: gives back what waits, finishes what runs, leaves; another one starts later."""
        if not worker.is_alive or worker.is_leaving or worker.link is None or worker.is_paused:
            return
        worker.drain()
        self._leave_when_done(worker, worker.session)

    def _leave_when_done(self, worker: SimulatedWorker, session: str) -> None:
        if worker.session != session or not worker.is_alive:
            return
        if worker.is_executing or worker.link is None or worker.is_paused:
            self.clock.call_later(0.2, self._leave_when_done, worker, session)
            return
        link = worker.link
        # The goodbye is a message like others: after the results.
        self._up(link, self._said_goodbye, worker, link)
        worker.died()
        self.clock.call_later(1.0, self._restart, worker, session)

    def _said_goodbye(self, worker: SimulatedWorker, link: Link) -> None:
        self._coordinator_sees_end(worker, link, "drained", is_bye=True)

    def pause(self, worker: SimulatedWorker, seconds: float) -> None:
        """Stopped like by SIGSTOP: silent, then it goes on as if nothing had happened."""
        if worker.is_alive and not worker.is_paused:
            worker.is_paused = True
            worker.was_disturbed = True
            self.clock.call_later(seconds, self._wake, worker, worker.session)

    def _wake(self, worker: SimulatedWorker, session: str) -> None:
        if worker.is_alive and worker.session == session and worker.is_paused:
            worker.wake_up()

    # Running -------------------------------------------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        return all(run.counts is not None for run in self.runs.values())

    def run_until(self, when: float) -> None:
        """Let the time pass; stops early when every run has ended."""
        self.clock.call_at(when, _nothing)
        while not self.is_over and self.clock.now < when:
            self.clock.step()

    def run_to_the_end(self, limit_s: float = 600.0) -> None:
        """Every run must end within ``limit_s`` of virtual time. Raises AssertionError with what is left if not."""
        end = self.clock.now + limit_s
        open_runs = [run for run in self.runs.values() if run.counts is None]
        while open_runs:
            self.clock.step()
            if open_runs[-1].counts is not None:
                open_runs = [run for run in open_runs if run.counts is None]
            if self.clock.now > end:
                raise AssertionError(f"not over after {limit_s:.0f} s: {self._unfinished()}")

    def _unfinished(self) -> str:
        lines = []
        for run_id, run in self.runs.items():
            for task_id in [task_id for task_id in run.tasks if task_id not in run.verdicts][:5]:
                lines.append(f"{task_id}: {self.state.why(run_id, task_id)}")
                lines += [f"    {line}" for line in self.state.story(run_id, task_id)]
        return "\n".join(lines)


def _nothing() -> None:
    pass


_ORDINARY = Behaviour()
_TOLD_TO_WORKERS = (
    commands.PrepareRun,
    commands.GrantLeases,
    commands.SlotIdle,
    commands.RevokeLeases,
    commands.KillLeases,
    commands.EndRun,
)
