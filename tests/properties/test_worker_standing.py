"""One worker, anything that may happen to it, in any order: what its state and its alerts never do."""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fleetest.core import commands, events
from fleetest.core.model import Capabilities, Limits, WorkerId
from fleetest.health_monitor import ADAPTED_MAX, LOST_INTERVALS, SUSPECT_INTERVALS
from fleetest.testing.scripted_cluster import ScriptedCluster, task

W = WorkerId("w")
INTERVAL_S = 1.0
LIMITS = Limits(
    heartbeat_interval_s=INTERVAL_S,
    reconnect_grace_s=3.0,
    infrastructure_failures_max=2,
    quarantine_s=2.0,
    quarantine_max_s=8.0,
    probation_successes=2,
    flapping_losses=3,
    flapping_window_s=20.0,
    lost_alert_s=30.0,
    alerts_kept_max=10,
)
WITH_WORK = ("healthy", "probation")


class WorkerMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.cluster = ScriptedCluster(LIMITS)
        self.session = 0
        self.is_linked = False
        self.heard_at = 0.0
        self.has_probe = False
        self.probe_is_ok = True
        self.held_back = self.drained = self.drains = False
        self.lasting: set[str] = set()
        self.tasks = 0

    def apply(self, event, *, is_life=True):
        if is_life:
            self.heard_at = self.cluster.now
        self.obey(self.cluster.apply(event))

    def obey(self, emitted):
        for command in emitted:
            if isinstance(command, commands.RaiseAlert):
                assert command.cause not in self.lasting, "raised twice"
                self.lasting.add(command.cause)
            elif isinstance(command, commands.ClearAlert):
                assert command.cause in self.lasting, "cleared and never raised"
                self.lasting.discard(command.cause)
            elif isinstance(command, commands.DisconnectWorker) and command.reason != "replaced by a new session":
                self.is_linked = False
            elif isinstance(command, commands.GrantLeases):
                assert self.state() in WITH_WORK

    def state(self):
        return next((worker.state for worker in self.cluster.state.snapshot().workers), None)

    # What happens --------------------------------------------------------------------------------------------------

    @rule(has_probe=st.booleans())
    def join_anew(self, has_probe):
        self.session += 1
        self.is_linked, self.has_probe, self.probe_is_ok = True, has_probe, not has_probe
        self.drained = self.drains = False
        self.apply(events.WorkerJoined(W, str(self.session), 2, Capabilities(), has_probe=has_probe))
        for run in list(self.cluster.state.cluster.runs):
            self.apply(events.SuiteReady(W, run, ""))

    @precondition(lambda self: self.session and not self.is_linked)
    @rule()
    def join_again(self):
        if W not in self.cluster.state.cluster.workers:
            self.drained = self.drains = False
            self.probe_is_ok = not self.has_probe
        self.is_linked = True
        self.apply(events.WorkerJoined(W, str(self.session), 2, Capabilities(), has_probe=self.has_probe))

    @precondition(lambda self: self.is_linked)
    @rule(how=st.sampled_from(["break", "dead", "goodbye"]))
    def disconnect(self, how):
        self.is_linked = False
        self.apply(events.WorkerDisconnected(W, how, how == "goodbye", how == "dead"), is_life=False)

    @precondition(lambda self: self.is_linked)
    @rule()
    def beat(self):
        self.apply(events.WorkerHeartbeat(W))

    @precondition(lambda self: self.is_linked and self.has_probe)
    @rule(is_ok=st.booleans())
    def probe(self, is_ok):
        self.probe_is_ok = is_ok
        self.apply(events.WorkerProbed(W, is_ok, "line"))

    @precondition(lambda self: self.is_linked)
    @rule()
    def drain_itself(self):
        self.drains = True
        self.apply(events.WorkerDraining(W))

    @rule()
    def drain(self):
        self.drained = W in self.cluster.state.cluster.workers
        self.apply(events.WorkerDrainRequested(W), is_life=False)

    @rule()
    def resume(self):
        self.drained = False
        self.apply(events.WorkerResumed(W), is_life=False)

    @rule()
    def quarantine(self):
        self.held_back = True
        self.apply(events.WorkerQuarantined(W, "bad"), is_life=False)

    @rule()
    def release(self):
        self.held_back = False
        self.apply(events.WorkerReleased(W), is_life=False)

    @precondition(lambda self: self.is_linked and self.tasks < 20)
    @rule()
    def submit(self):
        self.tasks += 1
        self.obey(self.cluster.submit(task("a"), task("b"), task("c"), run=f"run{self.tasks}", ready=False))
        self.apply(events.SuiteReady(W, f"run{self.tasks}", ""))

    @precondition(lambda self: self.is_linked and self.cluster.state.cluster.leases)
    @rule(how=st.sampled_from(["passed", "failed to start"]))
    def execute(self, how):
        lease = next(iter(self.cluster.state.cluster.leases.values()))
        if how == "passed":
            self.heard_at = self.cluster.now
            self.obey(self.cluster.report(lease, W))
        else:
            self.apply(events.InfrastructureFailed(W, [lease.lease_id], "no disk"))

    @rule(seconds=st.sampled_from([0.1, 0.9, 2.5, 7.0]))
    def wait(self, seconds):
        """Every deadline by itself: what a command says is true at its moment."""
        end = self.cluster.now + seconds
        while (due := self.cluster.state.next_deadline()) is not None and due <= end:
            self.obey(self.cluster.wait(max(0.0, due - self.cluster.now)))
        self.cluster.now = end

    # What is always so -----------------------------------------------------------------------------------------------

    @invariant()
    def silence_beyond_the_bounds_is_seen(self):
        silence_s = self.cluster.now - self.heard_at
        if silence_s >= SUSPECT_INTERVALS * ADAPTED_MAX * INTERVAL_S:
            assert self.state() not in WITH_WORK
        if silence_s >= LOST_INTERVALS * ADAPTED_MAX * INTERVAL_S + LIMITS.reconnect_grace_s:
            assert self.state() is None

    @invariant()
    def nothing_that_forbids_work_is_forgotten(self):
        if self.held_back or self.drained or self.drains or not self.probe_is_ok:
            assert self.state() not in WITH_WORK

    @invariant()
    def the_alerts_that_last_are_those_of_the_snapshot_and_bounded(self):
        alerts = self.cluster.state.snapshot().alerts
        assert {alert.cause for alert in alerts if alert.cleared_at is None} == self.lasting
        assert len([alert for alert in alerts if alert.cleared_at is not None]) <= LIMITS.alerts_kept_max

    def teardown(self):
        """Everything is well again: the worker is trusted with work, and no alert lasts."""
        self.join_anew(has_probe=False)
        self.release()
        assert self.state() == "healthy"
        for _ in range(40):
            self.wait(0.9)
            self.beat()
        assert self.lasting == set()


WorkerMachine.TestCase.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestWorker = WorkerMachine.TestCase
