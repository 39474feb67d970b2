"""The health monitor: silence, loss, recovery and alerts, at stated times.

The time is given in every test: none sleeps, none has a margin. Runs alone (``python test_health_monitor.py``) and
with pytest.
"""

from __future__ import annotations

import math
import tempfile
import unittest
from pathlib import Path

from support.command_line import run_file
from support.machines import CPU
from support.policy_case import PolicyCase

from fleetest.core import commands, events
from fleetest.core.alerts import Cause
from fleetest.core.model import Limits, Verdict, WorkerId
from fleetest.core.policies import Health, HealthChange
from fleetest.health_monitor import ADAPTED_MAX, HealthMonitor
from fleetest.storage.memory_file import MemoryFile
from fleetest.testing.scripted_cluster import ScriptedCluster, task

W = WorkerId("w")
INTERVAL_S = 5.0
SUSPECT_AT_S, LOST_AT_S = 15.0, 30.0
"""After three and six intervals of silence."""


class HeartbeatTimeoutTests(unittest.TestCase):
    """A silent worker passes through suspect to lost at the stated times."""

    def setUp(self) -> None:
        """One worker whose heartbeats are due every five seconds, watched from time 0."""
        self.monitor = HealthMonitor()
        self.monitor.watch(W, 0.0, INTERVAL_S)

    def tearDown(self) -> None:
        """The monitor is all there is."""
        del self.monitor

    def test_suspect_then_lost_at_exactly_the_stated_times(self):
        """Nothing a millisecond before, and each change once, with the reason."""
        self.assertEqual(list(self.monitor.advance(SUSPECT_AT_S - 0.001)), [])
        self.assertEqual(
            list(self.monitor.advance(SUSPECT_AT_S)), [HealthChange(W, Health.SUSPECT, "silent for 15.0 s")]
        )
        self.assertEqual(list(self.monitor.advance(LOST_AT_S - 0.001)), [])
        self.assertEqual(list(self.monitor.advance(LOST_AT_S)), [HealthChange(W, Health.LOST, "silent for 30.0 s")])
        self.assertEqual(list(self.monitor.advance(10 * LOST_AT_S)), [])

    def test_it_says_when_to_look_next(self):
        """So that nobody has to look in between."""
        self.assertEqual(self.monitor.next_deadline(), SUSPECT_AT_S)
        self.monitor.advance(SUSPECT_AT_S)
        self.assertEqual(self.monitor.next_deadline(), LOST_AT_S)
        self.monitor.advance(LOST_AT_S)
        self.assertIsNone(self.monitor.next_deadline())

    def test_heartbeats_keep_it_healthy(self):
        """For as long as they come."""
        for beat in range(1, 200):
            self.assertIsNone(self.monitor.beat(W, beat * INTERVAL_S))
            self.assertEqual(list(self.monitor.advance(beat * INTERVAL_S)), [])
        self.assertIs(self.monitor.health(W), Health.HEALTHY)

    def test_silence_is_counted_from_the_last_sign_of_life(self):
        """Not from the beginning."""
        self.monitor.beat(W, 10.0)
        self.assertEqual(list(self.monitor.advance(SUSPECT_AT_S)), [])
        due = self.monitor.next_deadline()
        assert due is not None
        self.assertGreaterEqual(due, 10.0 + SUSPECT_AT_S)

    def test_any_message_is_a_sign_of_life(self):
        """A worker that sends results is not silent."""
        self.monitor.advance(SUSPECT_AT_S)
        change = self.monitor.seen(W, 16.0)
        assert change is not None
        self.assertIs(change.health, Health.HEALTHY)

    def test_irregular_heartbeats_give_more_time_within_bounds(self):
        """Measured jitter stretches the time to suspicion, never beyond the stated factor, never below the interval."""
        steady, jittery = (self.time_to_suspicion(gaps) for gaps in ([5.0] * 60, [2.5, 7.5] * 30))
        self.assertAlmostEqual(steady, SUSPECT_AT_S)
        self.assertGreater(jittery, SUSPECT_AT_S)
        self.assertLessEqual(jittery, SUSPECT_AT_S * ADAPTED_MAX)
        self.assertAlmostEqual(self.time_to_suspicion([0.1] * 60), SUSPECT_AT_S)

    def time_to_suspicion(self, gaps: list[float]) -> float:
        monitor, now = HealthMonitor(), 0.0
        monitor.watch(W, now, INTERVAL_S)
        for gap in gaps:
            now += gap
            monitor.beat(W, now)
            monitor.advance(now)
        while True:
            due = monitor.next_deadline()
            assert due is not None
            if any(change.health is Health.SUSPECT for change in monitor.advance(due)):
                return due - now

    def test_all_lost_at_once(self):
        """A whole lab loses power: each of them is reported, once."""
        names = [WorkerId(f"w{number}") for number in range(500)]
        for name in names:
            self.monitor.watch(name, 0.0, INTERVAL_S)
        lost = [change.worker_id for change in self.monitor.advance(LOST_AT_S) if change.health is Health.LOST]
        self.assertEqual(sorted(lost), sorted([*names, W]))
        self.assertEqual(list(self.monitor.advance(2 * LOST_AT_S)), [])

    def test_only_the_silent_ones_are_lost(self):
        """A fifth of a hundred falls silent; the others are never even suspected."""
        monitor = HealthMonitor()
        names = [WorkerId(f"w{number}") for number in range(100)]
        for name in names:
            monitor.watch(name, 0.0, INTERVAL_S)
        found: list[HealthChange] = []
        for beat in range(1, 10):
            now = beat * INTERVAL_S
            for name in names[20:]:
                monitor.beat(name, now)
            found += monitor.advance(now)
        self.assertEqual({change.worker_id for change in found}, set(names[:20]))
        self.assertEqual(sum(change.health is Health.LOST for change in found), 20)

    def test_a_stopped_monitor_changes_nothing(self):
        """Who is no longer watched is not judged; who is watched without an interval neither."""
        self.monitor.forget(W)
        self.assertIsNone(self.monitor.next_deadline())
        self.assertEqual(list(self.monitor.advance(1e9)), [])
        self.assertIsNone(self.monitor.beat(W, 1e9))
        self.monitor.watch(W, 0.0, math.inf)
        self.assertEqual(list(self.monitor.advance(1e9)), [])


class WatchedFleet(PolicyCase):
    """Real core and monitor; heartbeats every five seconds, fifteen seconds of grace for a broken link."""

    limits = Limits(heartbeat_interval_s=INTERVAL_S, reconnect_grace_s=15.0)

    def pass_time(self, seconds: float, beating: tuple[str, ...] = ()) -> None:
        """Let time pass while only these workers send heartbeats, one per second."""
        end = self.cluster.now + seconds
        while self.cluster.now < end:
            self.cluster.wait(min(1.0, end - self.cluster.now))
            for name in beating:
                self.cluster.apply(events.WorkerHeartbeat(WorkerId(name)))

    def state(self, name: str) -> str:
        for worker in self.cluster.state.snapshot().workers:
            if worker.worker_id == name:
                return worker.state
        return "gone"

    def lasting(self, name: str) -> set[str]:
        """Causes of the alerts of this worker that are not over."""
        return {
            alert.cause
            for alert in self.cluster.state.snapshot().alerts
            if alert.worker_id == name and alert.cleared_at is None
        }


class RecoveryTests(WatchedFleet):
    """Workers recover, and what they ran is recovered if they do not."""

    def test_one_that_beats_again_returns_to_healthy(self):
        """A suspect gets nothing new; heard again, it does."""
        self.join({"w": CPU})
        self.pass_time(SUSPECT_AT_S + 1)
        self.assertEqual(self.state("w"), "suspect")
        self.cluster.submit(task("t"))
        self.pass_time(1.0)
        self.assertEqual(self.state("w"), "healthy", "that it is ready was a sign of life")
        self.assertEqual(set(self.running()), {"t"})

    def test_a_suspect_is_given_nothing_new(self):
        """What is waiting goes to others or waits."""
        self.join({"w": CPU})
        self.cluster.submit(task("first", expected_s=100.0))
        self.cluster.start("first")
        self.pass_time(SUSPECT_AT_S + 1)
        self.cluster.submit(task("second", expected_s=100.0), run="other", ready=False)
        self.assertNotIn("second", self.cluster.leases)
        self.assertEqual(set(self.running()), {"first"}, "what it runs is left to it for now")

    def test_the_work_of_a_lost_worker_is_done_by_another_with_the_reason(self):
        """Recovery: another attempt elsewhere, and the story says why."""
        self.join({"w1": CPU, "w2": CPU})
        self.submit_prepared(task("t", hedge=False))
        self.cluster.start("t")
        silent = self.cluster.worker_of("t")
        other = next(worker.worker_id for worker in self.workers() if worker.worker_id != silent)
        self.pass_time(LOST_AT_S + 1, beating=(other,))
        self.assertEqual(self.state(silent), "gone")
        self.assertEqual(self.cluster.worker_of("t"), other)
        self.assertEqual(self.cluster.leases["t"].attempt, 2)
        self.assertIn("silent for", " ".join(self.cluster.state.story("run", "t")))
        self.cluster.finish("t")
        self.assertEqual(self.cluster.verdicts(), {"t": Verdict.PASSED})

    def test_the_link_of_a_lost_worker_is_closed_with_the_reason(self):
        """So that one that was only asleep connects anew."""
        self.join({"w": CPU})
        self.pass_time(LOST_AT_S + 1)
        [closed] = self.cluster.all(commands.DisconnectWorker)
        self.assertEqual(closed.worker_id, "w")
        self.assertIn("silent for", closed.reason)

    def test_all_lost_at_once_and_the_run_goes_on_with_new_ones(self):
        """Nothing is given up because nobody is left."""
        self.join({f"w{number}": CPU for number in range(5)})
        self.cluster.submit(*(task(f"t{number}") for number in range(5)))
        self.start_running()
        self.pass_time(LOST_AT_S + 1)
        self.assertEqual(self.workers(), [])
        self.assertEqual(self.cluster.verdicts(), {})
        self.assertEqual(self.cluster.why("t0"), "waiting for a worker: none has joined")
        self.join_and_prepare("new", CPU)
        self.work_off(0.1)
        self.assertEqual(set(self.cluster.verdicts().values()), {Verdict.PASSED})
        self.assertEqual(len(self.cluster.verdicts()), 5)

    def test_a_broken_link_is_waited_for(self):
        """Within the grace the same session keeps what it runs; after it the worker is lost."""
        self.join({"w": CPU})
        self.cluster.submit(task("t"))
        self.cluster.start("t")
        lease = self.cluster.leases["t"]
        self.cluster.disconnect("w")
        self.assertEqual(self.state("w"), "disconnected")
        self.cluster.wait(14.9)
        self.cluster.join("w", capabilities=CPU, held=[lease.lease_id])
        self.assertEqual(self.state("w"), "healthy")
        self.cluster.finish("t")
        self.assertEqual([outcome.attempt for outcome in self.cluster.outcomes()], [1])

    def test_a_worker_that_stays_away_longer_is_lost(self):
        """After the grace, to the moment."""
        self.join({"w": CPU})
        self.cluster.disconnect("w")
        self.cluster.wait(14.999)
        self.assertEqual(self.state("w"), "disconnected")
        self.cluster.wait(0.001)
        self.assertEqual(self.state("w"), "gone")

    def test_a_new_worker_under_the_name_of_a_lost_one_is_welcome(self):
        """It is a worker like any other."""
        self.join({"w": CPU})
        self.pass_time(LOST_AT_S + 1)
        self.cluster.submit(task("t"), ready=False)
        self.cluster.join("w", capabilities=CPU, session="another")
        self.cluster.ready("w")
        self.assertEqual(self.running(), {"t": "w"})

    def test_drained_by_an_operator_and_resumed(self):
        """It finishes what runs, gets nothing new, and serves again when it is told to."""
        self.join({"w": CPU})
        self.cluster.submit(task("a", expected_s=100.0), task("b", expected_s=100.0))
        self.cluster.start("a")
        self.cluster.apply(events.WorkerDrainRequested(W))
        self.cluster.give_back("b")
        self.cluster.finish("a")
        self.assertEqual(self.state("w"), "draining")
        self.assertEqual(self.running(), {})
        self.cluster.apply(events.WorkerResumed(W))
        self.assertEqual(self.running(), {"b": "w"})

    def test_a_worker_that_cannot_start_anything_is_quarantined(self):
        """Failures of the machine are the machine's: the task is tried elsewhere, the worker gets nothing new."""
        self.join({"broken": CPU})
        self.cluster.submit(*(task(f"t{number}") for number in range(20)))
        for _ in range(20):
            held = [lease.lease_id for lease in self.worker("broken").slots[0].leases.values()]
            if not held:
                break
            self.cluster.apply(events.InfrastructureFailed(WorkerId("broken"), held[:1], "cannot fork"))
        self.assertEqual(self.state("broken"), "quarantined")
        self.join_and_prepare("sound", CPU)
        self.work_off(0.1)
        verdicts = self.cluster.verdicts()
        self.assertEqual(len(verdicts), 20)
        self.assertGreaterEqual(sum(verdict is Verdict.PASSED for verdict in verdicts.values()), 19)


class AlertTests(WatchedFleet):
    """Alerts: once per worker and cause while it lasts, with worker, kind and time; cleared on recovery."""

    def test_silence_raises_one_alert_with_worker_kind_and_time(self):
        """However long it lasts and however often anybody looks."""
        self.join({"w": CPU, "other": CPU})
        self.pass_time(SUSPECT_AT_S + 10, beating=("other",))
        raised = self.cluster.all(commands.RaiseAlert)
        self.assertEqual([(alert.worker_id, alert.cause) for alert in raised], [("w", Cause.SUSPECT)])
        [alert] = self.cluster.state.snapshot().alerts
        self.assertEqual((alert.worker_id, alert.cause), ("w", "suspect"))
        self.assertEqual(alert.raised_at, SUSPECT_AT_S)
        self.assertIn("silent for 15.0 s", alert.message)

    def test_it_clears_on_recovery(self):
        """And says when."""
        self.join({"w": CPU})
        self.pass_time(SUSPECT_AT_S + 1)
        self.cluster.apply(events.WorkerHeartbeat(W))
        self.assertEqual([clear.cause for clear in self.cluster.all(commands.ClearAlert)], [Cause.SUSPECT])
        [alert] = self.cluster.state.snapshot().alerts
        self.assertEqual(alert.cleared_at, SUSPECT_AT_S + 1)

    def test_the_same_cause_later_is_a_new_alert(self):
        """No repeats while it lasts; again when it comes again."""
        self.join({"w": CPU})
        for _ in range(2):
            while self.state("w") == "healthy":
                self.cluster.wait(1.0)
            self.assertEqual(self.state("w"), "suspect")
            self.cluster.apply(events.WorkerHeartbeat(W))
            self.assertEqual(self.state("w"), "healthy")
        self.assertEqual([alert.cause for alert in self.cluster.all(commands.RaiseAlert)], [Cause.SUSPECT] * 2)

    def test_loss_is_an_alert_of_its_own_until_the_worker_is_back(self):
        """Suspicion is over then: the worker is known to be lost."""
        self.join({"w": CPU})
        self.pass_time(LOST_AT_S + 1)
        self.assertEqual(self.lasting("w"), {"lost"})
        self.cluster.join("w", capabilities=CPU, session="another")
        self.assertEqual(self.lasting("w"), set())

    def test_each_of_many_has_its_own(self):
        """Alerts are per worker."""
        self.join({f"w{number}": CPU for number in range(7)})
        self.pass_time(SUSPECT_AT_S + 1)
        raised = [(alert.worker_id, alert.cause) for alert in self.cluster.all(commands.RaiseAlert)]
        self.assertEqual(sorted(raised), [(f"w{number}", Cause.SUSPECT) for number in range(7)])

    def test_quarantine_by_an_operator_is_an_alert_until_release(self):
        """With the reason that was given."""
        self.join({"w": CPU})
        self.cluster.apply(events.WorkerQuarantined(W, "smells of smoke"))
        [alert] = self.cluster.state.snapshot().alerts
        self.assertEqual(alert.cause, "quarantined")
        self.assertIn("smells of smoke", alert.message)
        self.cluster.apply(events.WorkerReleased(W))
        self.assertEqual(self.lasting("w"), set())

    def test_an_alert_is_acknowledged_once(self):
        """By the first who does; it lasts on."""
        self.join({"w": CPU})
        self.pass_time(SUSPECT_AT_S + 1)
        [alert] = self.cluster.state.snapshot().alerts
        for who in ("ann", "bob"):
            self.cluster.apply(events.AlertAcknowledged(alert.alert_id, who))
        [alert] = self.cluster.state.snapshot().alerts
        self.assertEqual(alert.acknowledged_by, "ann")
        self.assertEqual(self.lasting("w"), {"suspect"})


class TrustTests(WatchedFleet):
    """Quarantine ends in probation, and probation in trust, if the worker proves itself."""

    limits = Limits(
        heartbeat_interval_s=math.inf,
        infrastructure_failures_max=2,
        quarantine_s=60.0,
        probation_successes=2,
        flapping_losses=3,
        flapping_window_s=100.0,
    )

    def break_circuit(self) -> None:
        """Two failures to start anything: quarantine."""
        self.join({"w": CPU}, slots=3)
        self.cluster.submit(*(task(f"t{number}", expected_s=0.01, hedge=False) for number in range(20)))
        for _ in range(2):
            [first, *_] = self.cluster.state.cluster.leases
            self.cluster.apply(events.InfrastructureFailed(W, [first], "no disk"))
        self.assertEqual(self.state("w"), "quarantined")
        self.cluster.give_back(*(live.task.task_id for live in self.cluster.state.cluster.leases.values()))
        self.assertEqual(self.running(), {})

    def test_quarantine_ends_in_probation_with_one_task_at_a_time_then_in_trust(self):
        """After the stated time; so many successes, one by one, and it has all its slots again."""
        self.break_circuit()
        self.cluster.wait(59.999)
        self.assertEqual((self.state("w"), self.running()), ("quarantined", {}))
        self.cluster.wait(0.001)
        self.assertEqual(self.state("w"), "probation")
        for _ in range(2):
            self.assertEqual(self.lasting("w"), {"quarantined"}, "until it has proved itself")
            [only] = self.running()
            self.cluster.start(only)
            self.assertEqual(len(self.cluster.state.cluster.leases), 1)
            self.cluster.finish(only)
        self.assertEqual((self.state("w"), self.lasting("w")), ("healthy", set()))
        self.assertEqual(len(self.running()), 3)

    def test_a_failure_on_probation_is_quarantine_for_twice_as_long(self):
        """Under the same alert: it is the same trouble."""
        self.break_circuit()
        self.cluster.wait(60.0)
        [trial] = self.cluster.state.cluster.leases
        self.cluster.apply(events.InfrastructureFailed(W, [trial], "still no disk"))
        self.cluster.wait(119.999)
        self.assertEqual(self.state("w"), "quarantined")
        self.cluster.wait(0.001)
        self.assertEqual(self.state("w"), "probation")
        self.assertEqual(len(self.cluster.all(commands.RaiseAlert)), 1)

    def test_a_worker_whose_link_breaks_again_and_again_is_put_on_probation(self):
        """Flapping: three times within the window; it is told to people."""
        for number in range(3):
            self.cluster.join("w", 2, CPU, session=f"s{number}")
            self.cluster.wait(1.0)
            self.cluster.disconnect("w")
            self.cluster.wait(20.0)
        self.cluster.join("w", 2, CPU, session="s3")
        self.assertEqual(self.state("w"), "probation")
        self.assertIn("flapping", self.lasting("w"))

    def test_a_quarantine_outlives_the_coordinator(self):
        """It is in ``fleet.json``, and the next coordinator gives the worker nothing until its time is over."""
        self.break_circuit()
        self.cluster.wait(20.0)
        with tempfile.TemporaryDirectory() as name:
            file = MemoryFile(Path(name))
            file.save(self.cluster.state.remember())
            known = file.load()
        self.cluster = ScriptedCluster(self.limits, epoch=2)
        self.cluster.now = 20.0
        self.cluster.apply(events.MemoryRecalled(known))
        self.join({"w": CPU}, slots=3)
        self.submit_prepared(*(task(f"t{number}", expected_s=0.01) for number in range(20)))
        self.assertEqual((self.state("w"), self.running()), ("quarantined", {}))
        self.cluster.wait(39.999)
        self.assertEqual((self.state("w"), self.running()), ("quarantined", {}))
        self.cluster.wait(0.001)
        self.assertEqual((self.state("w"), len(self.running())), ("probation", 1))

    def test_losses_far_apart_are_no_flapping(self):
        """A link may break once in a while."""
        for number in range(6):
            self.cluster.join("w", 2, CPU, session=f"s{number}")
            self.cluster.wait(200.0)
            self.cluster.disconnect("w")
            self.cluster.wait(20.0)
        self.cluster.join("w", 2, CPU, session="last")
        self.assertEqual(self.state("w"), "healthy")


if __name__ == "__main__":
    raise SystemExit(run_file(__name__))
