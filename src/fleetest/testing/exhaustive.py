"""Small clusters in every order of events: ``python -m fleetest.testing.exhaustive --depth 9`` prints how many states.

Every interleaving of what workers, links, tests, operator, client and time can do is tried from a given start, up to a
depth; states that differ only in names of leases, in the clock and in what the policies remember are one. In each state
the invariants and the naive model must hold, and from each the run must end with one verdict per task once everything
heals.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from fleetest.core import commands, events
from fleetest.core.cluster_state import ClusterState
from fleetest.core.invariants import check
from fleetest.core.model import (
    AttemptResult,
    Capabilities,
    Lease,
    LeaseId,
    Limits,
    Requirements,
    RunId,
    TaskId,
    TaskSpec,
    Verdict,
    WorkerId,
)
from fleetest.health_monitor import HealthMonitor
from fleetest.load_balancer import LoadBalancer
from fleetest.task_scheduler import TaskScheduler
from fleetest.testing.naive_model import check_schedule

RUN = RunId("run")
LIMITS = Limits(heartbeat_interval_s=1.0, reconnect_grace_s=3.0, attempts_lost_max=2, prefetch_tasks_max=2)
_HEALING_ROUNDS = 60


@dataclass(frozen=True, slots=True)
class Start:
    """What is enumerated: ``workers`` is slots by name."""

    name: str
    workers: dict[str, int]
    tasks: tuple[TaskSpec, ...]


def _task(name: str, **more: object) -> TaskSpec:
    return TaskSpec(TaskId(name), expected_s=1.0, **more)  # type: ignore[arg-type]


STARTS = (
    Start("one worker, two tasks", {"w1": 1}, (_task("a"), _task("b"))),
    Start("two workers, two tasks", {"w1": 1, "w2": 1}, (_task("a"), _task("b"))),
    Start("a retry", {"w1": 1, "w2": 1}, (_task("a", retries=1),)),
    Start(
        "a lock and a dependency",
        {"w1": 2},
        (
            _task("a", requirements=Requirements(locks=("db",))),
            _task("b", requirements=Requirements(locks=("db",))),
            _task("c", depends_on=(TaskId("a"),)),
        ),
    ),
    Start("a gang", {"w1": 1, "w2": 1}, (_task("a", requirements=Requirements(workers=2)), _task("b"))),
    Start(
        "one that wants the worker alone",
        {"w1": 2},
        (_task("a"), _task("b", requirements=Requirements(alone=True)), _task("c")),
    ),
)


@dataclass(slots=True)
class _World:
    """The core and what its workers know. Messages take no time; what a worker must answer, it may answer late."""

    start: Start
    state: ClusterState = field(
        default_factory=lambda: ClusterState(TaskScheduler(), LoadBalancer(), HealthMonitor(), LIMITS)
    )
    now: float = 0.0
    linked: set[str] = field(default_factory=set)
    sessions: dict[str, int] = field(default_factory=dict)
    held: dict[str, dict[LeaseId, Lease]] = field(default_factory=dict)
    asked_back: set[LeaseId] = field(default_factory=set)
    unready: set[str] = field(default_factory=set)
    ended: LeaseId | None = None
    """The last lease that was reported, by whom: it may be reported again."""
    ended_on: str = ""
    verdicts: dict[TaskId, Verdict] = field(default_factory=dict)
    is_cancelled: bool = False
    is_over: bool = False
    emitted_last: Sequence[commands.Command] = ()

    def apply(self, event: events.Event) -> None:
        emitted = self.state.apply(event, self.now)
        for command in emitted:
            self._obey(command)
        self.emitted_last = emitted

    def _obey(self, command: commands.Command) -> None:
        if isinstance(command, commands.GrantLeases):
            assert command.worker_id in self.linked, "a lease for a worker that cannot hear of it"
            self.held[command.worker_id].update((lease.lease_id, lease) for lease in command.leases)
        elif isinstance(command, commands.RevokeLeases | commands.KillLeases):
            self.asked_back.update(command.lease_ids)
        elif isinstance(command, commands.PrepareRun):
            self.unready.add(command.worker_id)
        elif isinstance(command, commands.DisconnectWorker):
            self.linked.discard(command.worker_id)
        elif isinstance(command, commands.PublishOutcomes):
            assert not self.is_over, "something is published after the end"
            for outcome in command.outcomes:
                if outcome.is_final:
                    assert outcome.task_id not in self.verdicts, f"{outcome.task_id} has two verdicts"
                    self.verdicts[outcome.task_id] = outcome.verdict
        elif isinstance(command, commands.RunFinished):
            assert not self.is_over
            assert len(self.verdicts) == len(self.start.tasks), "a run ends when every task has its verdict"
            self.is_over = True

    # What can happen ------------------------------------------------------------------------------------------------

    def choices(self) -> Iterator[str]:
        """Names of what can happen next; the same in the same state."""
        for name in self.start.workers:
            if name not in self.linked:
                yield f"join {name}"
                if self.held.get(name):
                    yield f"return {name}"
                continue
            if name in self.unready:
                yield f"ready {name}"
            yield f"die {name}"
            yield f"break {name}"
            yield f"drain {name}"
            for number, lease_id in enumerate(self.held[name]):
                live = self.state.cluster.leases.get(lease_id)
                if (live is not None and live.is_started) or lease_id in self.asked_back:
                    yield f"pass {name} {number}"
                    yield f"fail {name} {number}"
                if live is None or not live.is_started:
                    yield f"start {name} {number}"
                    if lease_id in self.asked_back:
                        yield f"give {name} {number}"
        if self.ended is not None:
            yield "again"
        if not self.is_cancelled and not self.is_over:
            yield "cancel"
        if self.state.next_deadline() is not None:
            yield "time"

    def do(self, choice: str) -> None:
        verb, *rest = choice.split()
        if verb == "time":
            due = self.state.next_deadline()
            assert due is not None
            self.now = max(self.now, due)
            self.apply(events.DeadlineReached())
        elif verb == "cancel":
            self.is_cancelled = True
            self.apply(events.RunCancelled(RUN, "enough", kill=True))
        elif verb == "again":
            assert self.ended is not None
            result = AttemptResult(self.ended, Verdict.FAILED, duration_s=1.0)
            self.apply(events.AttemptsFinished(WorkerId(self.ended_on), [result]))
        elif len(rest) == 2:
            self._speak_of_lease(verb, rest[0], list(self.held[rest[0]])[int(rest[1])])
        else:
            self._happen_to_worker(verb, rest[0])

    def _speak_of_lease(self, verb: str, name: str, lease_id: LeaseId) -> None:
        worker_id = WorkerId(name)
        if verb == "start":
            self.apply(events.AttemptsStarted(worker_id, [lease_id]))
            return
        del self.held[name][lease_id]
        if verb == "give":
            self.apply(events.LeasesReturned(worker_id, [lease_id]))
            return
        self.ended, self.ended_on = lease_id, name
        verdict = Verdict.PASSED if verb == "pass" else Verdict.FAILED
        self.apply(events.AttemptsFinished(worker_id, [AttemptResult(lease_id, verdict, duration_s=1.0)]))

    def _happen_to_worker(self, verb: str, name: str) -> None:
        worker_id = WorkerId(name)
        if verb in ("join", "return"):
            if verb == "join":
                self.held[name] = {}
                self.sessions[name] = self.sessions.get(name, 0) + 1
            self.linked.add(name)
            session = str(self.sessions[name])
            slots, held = self.start.workers[name], tuple(self.held[name])
            self.apply(events.WorkerJoined(worker_id, session, slots, Capabilities(), held))
        elif verb == "ready":
            self.unready.discard(name)
            self.apply(events.SuiteReady(worker_id, RUN, ""))
        elif verb == "drain":
            self.apply(events.WorkerDraining(worker_id))
        else:
            self.linked.discard(name)
            if verb == "die":
                self.held[name] = {}
            self.apply(events.WorkerDisconnected(worker_id, verb, process_is_dead=verb == "die"))

    # What is the same -----------------------------------------------------------------------------------------------

    def key(self) -> object:
        """Equal for states that are taken as one: names of leases, clock and memory of the policies are left out."""
        cluster = self.state.cluster
        run = cluster.runs.get(RUN)
        tasks = () if run is None else tuple(
            (task.state, task.attempts, task.retries_used, task.losses, task.near_losses, task.doubts,
             task.moves, frozenset(task.avoid or ()), tuple((str(live.slot), live.is_started, live.is_revoked,
             bool(live.kill_reason)) for live in task.live_leases))
            for task in run.tasks.values()
        )  # fmt: skip
        workers = tuple(
            (worker.worker_id, worker.state, tuple(tuple(live.task.task_id for live in slot.leases.values())
             for slot in worker.slots))
            for worker in cluster.workers.values()
        )  # fmt: skip
        knowledge = tuple(
            (name, name in self.linked, name in self.unready,
             tuple((lease.task_id, lease.attempt, lease_id in self.asked_back, lease_id in cluster.leases)
                   for lease_id, lease in self.held.get(name, {}).items()))
            for name in self.start.workers
        )  # fmt: skip
        due = self.state.next_deadline()
        wait_s = None if due is None else round(due - self.now, 3)
        return tasks, workers, knowledge, wait_s, self.is_cancelled, self.is_over, self.ended is None

    # How it must end ------------------------------------------------------------------------------------------------

    def heal(self) -> None:
        """Every worker comes back empty and does its work: the run must end."""
        for name in self.start.workers:
            if name in self.linked:
                self._happen_to_worker("die", name)
            self._happen_to_worker("join", name)
        for _ in range(_HEALING_ROUNDS):
            if self.is_over:
                break
            for name in sorted(self.unready):
                self._happen_to_worker("ready", name)
            for name in self.start.workers:
                for lease_id in list(self.held[name]):
                    if lease_id in self.held[name]:
                        self._speak_of_lease("pass", name, lease_id)
                self.apply(events.WorkerHeartbeat(WorkerId(name)))
            self.now += 0.5
            self.apply(events.DeadlineReached())
        assert self.is_over, "the run does not end although everything heals"
        check(self.state)
        assert not self.state.cluster.leases


def _replayed(start: Start, story: Sequence[str]) -> _World:
    world = _World(start)
    world.apply(events.RunSubmitted(RUN))
    world.apply(events.SuitePlanned(RUN, "", start.tasks))
    for name in start.workers:
        world.do(f"join {name}")
        world.do(f"ready {name}")
    for choice in story:
        world.do(choice)
    return world


def explore(start: Start, depth: int, *, states_max: int | None = None) -> tuple[int, int]:
    """Every state within ``depth`` events of the start. Returns how many states, and how many events were tried.

    Raises AssertionError or InvariantViolation with the events that lead there. ``states_max`` ends it early.
    """
    seen = {_replayed(start, ()).key()}
    frontier: list[tuple[str, ...]] = [()]
    tried = 0
    for _ in range(depth):
        following = []
        for story in frontier:
            for choice in list(_replayed(start, story).choices()):
                tried += 1
                longer = (*story, choice)
                key = _judged(start, longer)
                if key not in seen:
                    seen.add(key)
                    following.append(longer)
                    if states_max is not None and len(seen) >= states_max:
                        return len(seen), tried
        frontier = following
    return len(seen), tried


def _judged(start: Start, story: Sequence[str]) -> object:
    """The key of the state that these events lead to, once all that must hold there was found to hold."""
    try:
        world = _replayed(start, story)
        check(world.state)
        check_schedule(world.state.cluster, world.emitted_last)
        key = world.key()
        world.heal()
    except AssertionError as error:
        error.args = (f"{start.name}, after {', '.join(story)}: {error}",)
        raise
    return key


def main(arguments: list[str] | None = None, say: Callable[[str], None] = print) -> int:
    parser = argparse.ArgumentParser(prog="python -m fleetest.testing.exhaustive", description=__doc__)
    parser.add_argument("--depth", type=int, default=7, help="events after the first work (default: %(default)s)")
    parser.add_argument("--start", help="only starts with this in their name")
    options = parser.parse_args(arguments)
    for start in STARTS:
        if options.start is None or options.start in start.name:
            states, tried = explore(start, options.depth)
            say(f"{start.name}: {states} states within {options.depth} events, {tried} transitions, all hold")
    return 0


if __name__ == "__main__":
    sys.exit(main())
