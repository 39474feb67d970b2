"""Anything that workers and clients may say, in any order: the state never contradicts itself, and every run ends."""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fleetest.core import commands, events
from fleetest.core.invariants import check
from fleetest.core.model import (
    NO_REQUIREMENTS,
    AttemptResult,
    Capabilities,
    Constraint,
    Lease,
    LeaseId,
    Limits,
    Operator,
    Requirements,
    RunId,
    TaskId,
    TaskSpec,
    Verdict,
    WorkerId,
)
from fleetest.load_balancer import LoadBalancer
from fleetest.testing.eager_hedging import EagerHedging
from fleetest.testing.naive_model import check_schedule
from fleetest.testing.scripted_cluster import ScriptedCluster

NAMES = ["w1", "w2", "w3"]
GPU = Capabilities({"cuda": ("12.4",)}, {"gpus": 1.0})
REQUIREMENTS = [
    NO_REQUIREMENTS,
    NO_REQUIREMENTS,
    Requirements(resources=(("gpus", 1.0),)),
    Requirements(constraints=(Constraint("cuda", Operator.GE, "12"),)),
    Requirements(locks=("db",)),
    Requirements(alone=True),
    Requirements(workers=2),
    Requirements(workers=3, locks=("db",)),
]
VERDICTS = [Verdict.PASSED, Verdict.PASSED, Verdict.FAILED, Verdict.CRASHED, Verdict.SKIPPED, Verdict.TIMEOUT]
LIMITS = Limits(
    heartbeat_interval_s=1.0,
    reconnect_grace_s=3.0,
    lease_overrun_s=5.0,
    infrastructure_failures_max=4,
    quarantine_s=1.0,
    quarantine_max_s=4.0,
    flapping_losses=4,
)


@st.composite
def plans(draw):
    """Tasks of all kinds; dependencies may be unknown or go round in circles."""
    count = draw(st.integers(0, 12))
    names = [f"t{number}" for number in range(count)]
    tasks = []
    for name in names:
        group = draw(st.sampled_from(["", "g1", "g2", "kept"]))
        depends_on = draw(st.lists(st.sampled_from([*names, "unknown"]), max_size=1)) if draw(st.booleans()) else []
        tasks.append(
            TaskSpec(
                TaskId(name),
                group=group,
                keep_together=group == "kept",
                requirements=draw(st.sampled_from(REQUIREMENTS)),
                priority=draw(st.sampled_from([0, 0, 1])),
                timeout_s=draw(st.sampled_from([None, None, 2.0])),
                retries=draw(st.sampled_from([0, 0, 1])),
                depends_on=tuple(TaskId(name) for name in depends_on),
                expected_s=draw(st.sampled_from([None, 0.01, 5.0])),
            )
        )
    return tasks


class ClusterMachine(RuleBasedStateMachine):
    balancing = LoadBalancer

    def __init__(self):
        super().__init__()
        self.cluster = ScriptedCluster(LIMITS, balancing=self.balancing())
        self.held: dict[str, dict[LeaseId, Lease]] = {}
        """By linked or disconnected worker: leases that it was granted and has not reported."""
        self.sessions: dict[str, int] = {}
        self.linked: set[str] = set()
        self.old: list[tuple[str, LeaseId]] = []
        """Leases that were reported, returned or lost: whatever is said of them must count for nothing."""
        self.planned: dict[str, list[TaskSpec]] = {}
        self.unplanned: list[str] = []
        self.ended: set[str] = set()

    # What the core asks for ------------------------------------------------------------------------------------

    def apply(self, event):
        emitted = self.cluster.apply(event)
        check_schedule(self.cluster.state.cluster, emitted)
        for command in emitted:
            self.obey(command)

    def obey(self, command):
        if isinstance(command, commands.GrantLeases):
            assert command.worker_id in self.linked, "a lease for a worker that cannot hear of it"
            for lease in command.leases:
                self.held[command.worker_id][lease.lease_id] = lease
        elif isinstance(command, commands.DisconnectWorker):
            # A new session replaces the old one: it is the old link that is closed.
            if command.reason != "replaced by a new session":
                self.linked.discard(command.worker_id)
        elif isinstance(command, commands.RunFinished):
            assert command.run_id not in self.ended
            self.ended.add(command.run_id)
        elif isinstance(command, commands.PublishOutcomes | commands.PublishStarted):
            assert command.run_id not in self.ended, "something is published after the end"

    def live(self):
        return [(name, lease_id) for name in sorted(self.linked) for lease_id in self.held[name]]

    def pick(self, data, things):
        return data.draw(st.sampled_from(things))

    # Runs --------------------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.planned) + len(self.unplanned) < 3)
    @rule(
        owner=st.sampled_from(["ann", "bob"]),
        priority=st.integers(0, 1),
        wait_s=st.sampled_from([None, None, 0.0, 4.0]),
    )
    def submit(self, owner, priority, wait_s):
        name = f"run{len(self.planned) + len(self.unplanned)}"
        self.unplanned.append(name)
        self.apply(events.RunSubmitted(RunId(name), owner=owner, priority=priority, wait_for_workers_s=wait_s))

    @precondition(lambda self: self.unplanned)
    @rule(tasks=plans())
    def plan(self, tasks):
        name = self.unplanned.pop()
        self.planned[name] = [] if name in self.ended else tasks
        self.apply(events.SuitePlanned(RunId(name), "", tasks))

    @precondition(lambda self: self.planned)
    @rule(data=st.data(), kill=st.booleans(), quiet=st.booleans())
    def cancel(self, data, kill, quiet):
        name = self.pick(data, sorted(self.planned))
        self.apply(events.RunCancelled(RunId(name), "enough", kill=kill, quiet=quiet))

    # Workers -----------------------------------------------------------------------------------------------------

    @rule(name=st.sampled_from(NAMES), slots=st.integers(1, 3))
    def join_anew(self, name, slots):
        self.sessions[name] = self.sessions.get(name, 0) + 1
        self.old += [(name, lease_id) for lease_id in self.held.get(name, ())]
        self.held[name] = {}
        self.linked.add(name)
        session = str(self.sessions[name])
        self.apply(events.WorkerJoined(WorkerId(name), session, slots, GPU if name == "w1" else Capabilities()))

    @precondition(lambda self: set(self.sessions) - self.linked)
    @rule(data=st.data())
    def join_again(self, data):
        name = self.pick(data, sorted(set(self.sessions) - self.linked))
        kept = {lease_id for lease_id in self.held[name] if data.draw(st.booleans())}
        self.old += [(name, lease_id) for lease_id in self.held[name] if lease_id not in kept]
        known = self.cluster.state.cluster.leases
        # What is no longer live is killed when the core sees it, so the worker does not report it as live.
        self.held[name] = {
            lease_id: lease for lease_id, lease in self.held[name].items() if lease_id in kept and lease_id in known
        }
        self.linked.add(name)
        slots = next((w.slots for w in self.cluster.state.snapshot().workers if w.worker_id == name), 2)
        session = str(self.sessions[name])
        capabilities = GPU if name == "w1" else Capabilities()
        self.apply(events.WorkerJoined(WorkerId(name), session, slots, capabilities, tuple(kept)))

    @precondition(lambda self: self.linked)
    @rule(data=st.data(), how=st.sampled_from(["break", "break", "dead", "goodbye"]))
    def disconnect(self, data, how):
        name = self.pick(data, sorted(self.linked))
        self.linked.discard(name)
        self.apply(
            events.WorkerDisconnected(WorkerId(name), how, said_goodbye=how == "goodbye", process_is_dead=how == "dead")
        )
        if how != "break":
            self.old += [(name, lease_id) for lease_id in self.held[name]]
            self.held[name] = {}
            self.sessions[name] += 1

    @precondition(lambda self: self.linked)
    @rule(data=st.data())
    def drain(self, data):
        self.apply(events.WorkerDraining(WorkerId(self.pick(data, sorted(self.linked)))))

    @rule(
        name=st.sampled_from(NAMES),
        word=st.sampled_from(
            [events.WorkerDrainRequested, events.WorkerResumed, events.WorkerQuarantined, events.WorkerReleased]
        ),
    )
    def operate(self, name, word):
        self.apply(word(WorkerId(name)))

    @precondition(lambda self: self.linked and (self.planned or self.unplanned))
    @rule(data=st.data(), lacks=st.sampled_from([None, None, "t0", "t1"]))
    def ready(self, data, lacks):
        name = self.pick(data, sorted(self.linked))
        run = self.pick(data, sorted([*self.planned, *self.unplanned]))
        missing = frozenset({TaskId(lacks)} if lacks else ())
        self.apply(events.SuiteReady(WorkerId(name), RunId(run), "", missing))

    @precondition(lambda self: self.linked and (self.planned or self.unplanned))
    @rule(data=st.data())
    def unavailable(self, data):
        name = self.pick(data, sorted(self.linked))
        run = self.pick(data, sorted([*self.planned, *self.unplanned]))
        self.apply(events.SuiteUnavailable(WorkerId(name), RunId(run), "", "no such directory"))

    @precondition(lambda self: self.linked)
    @rule()
    def beat(self):
        for name in sorted(self.linked):
            self.apply(events.WorkerHeartbeat(WorkerId(name)))

    # Attempts ----------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.live())
    @rule(data=st.data())
    def start(self, data):
        name, lease_id = self.pick(data, self.live())
        self.apply(events.AttemptsStarted(WorkerId(name), [lease_id]))

    @precondition(lambda self: self.live())
    @rule(data=st.data(), verdict=st.sampled_from(VERDICTS), twice=st.booleans())
    def finish(self, data, verdict, twice):
        name, lease_id = self.pick(data, self.live())
        del self.held[name][lease_id]
        self.old.append((name, lease_id))
        results = [AttemptResult(lease_id, verdict, duration_s=0.05)] * (2 if twice else 1)
        self.apply(events.AttemptsFinished(WorkerId(name), results))

    @precondition(lambda self: self.live())
    @rule(data=st.data(), not_collectable=st.booleans())
    def give_back(self, data, not_collectable):
        name, lease_id = self.pick(data, self.live())
        self.apply(events.LeasesReturned(WorkerId(name), [lease_id], not_collectable))
        if lease_id not in self.cluster.state.cluster.leases:
            self.held[name].pop(lease_id, None)
            self.old.append((name, lease_id))

    @precondition(lambda self: self.live())
    @rule(data=st.data())
    def infrastructure_fails(self, data):
        name, lease_id = self.pick(data, self.live())
        del self.held[name][lease_id]
        self.old.append((name, lease_id))
        self.apply(events.InfrastructureFailed(WorkerId(name), [lease_id], "cannot fork"))

    @precondition(lambda self: self.old)
    @rule(data=st.data(), verdict=st.sampled_from(VERDICTS), name=st.sampled_from([None, *NAMES]))
    def stale(self, data, verdict, name):
        owner, lease_id = self.pick(data, self.old)
        before = {run: self.cluster.verdicts(run) for run in self.planned}
        result = AttemptResult(lease_id, verdict)
        worker_id = WorkerId(name or owner)
        live = self.cluster.state.cluster.leases.get(lease_id)
        if live is not None:
            return
        self.apply(events.AttemptsStarted(worker_id, [lease_id]))
        self.apply(events.AttemptsFinished(worker_id, [result]))
        self.apply(events.LeasesReturned(worker_id, [lease_id]))
        assert {run: self.cluster.verdicts(run) for run in self.planned} == before

    # Time --------------------------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.01, 0.5, 2.0, 20.0]))
    def wait(self, seconds):
        for command in self.cluster.wait(seconds):
            self.obey(command)

    @invariant()
    def one_verdict_per_task(self):
        for run, tasks in self.planned.items():
            verdicts = self.cluster.verdicts(run)
            assert set(verdicts) <= {task.task_id for task in tasks}
            if run in self.ended:
                assert set(verdicts) == {task.task_id for task in tasks}

    @invariant()
    def why_always_answers(self):
        for run, tasks in self.planned.items():
            for task in tasks[:3]:
                assert self.cluster.why(task.task_id, run)

    # Heal everything: the runs must end ----------------------------------------------------------------------------

    def teardown(self):
        while self.unplanned:
            name = self.unplanned.pop()
            self.planned[name] = []
            self.apply(events.SuitePlanned(RunId(name), "", []))
        for name in NAMES:
            self.join_anew(name, 2)
            self.apply(events.WorkerReleased(WorkerId(name)))
            for run in sorted(self.planned):
                self.apply(events.SuiteReady(WorkerId(name), RunId(run), ""))
        for _ in range(300):
            if set(self.planned) <= self.ended:
                break
            for name, lease_id in self.live():
                if self.held[name].pop(lease_id, None) is not None:
                    result = AttemptResult(lease_id, Verdict.PASSED, duration_s=0.05)
                    self.apply(events.AttemptsFinished(WorkerId(name), [result]))
            self.wait(0.5)
            self.beat()
        assert set(self.planned) <= self.ended, [
            (run, task.task_id, self.cluster.why(task.task_id, run))
            for run in self.planned
            for task in self.planned[run]
        ]
        check(self.cluster.state)
        assert not self.cluster.state.cluster.leases


ClusterMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestCluster = ClusterMachine.TestCase


class HedgingMachine(ClusterMachine):
    """The same with a second attempt of whatever runs, wherever there is room for one."""

    balancing = EagerHedging


HedgingMachine.TestCase.settings = ClusterMachine.TestCase.settings
TestHedgingCluster = HedgingMachine.TestCase
