"""The whole framework, end to end: a coordinator, worker processes, a DuckDB file, HTTP, and clients.

Every test has a fleet of its own on a port that the system chooses, and leaves nothing behind. None of them sleeps:
they wait for what the fleet says. Runs alone (``python test_integration.py``) and with pytest.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import socket
import unittest

import psutil

from support.command_line import run_file
from support.fleet import Fleet
from support.fleet_case import FleetCase
from support.following import PytestTarget, command
from support.meeting import most_at_once

from fleetest.core.model import Limits, TaskId
from fleetest.core.snapshot import ClusterSnapshot
from fleetest.health_monitor import HealthMonitor
from fleetest.load_balancer import LoadBalancer
from fleetest.task_scheduler import TaskScheduler
from fleetest.transport.identity import Role
from fleetest.transport.token import read_token


class InitializationTests(FleetCase):
    """Coordinator, scheduler, balancer, monitor, store and dashboard are up and answer."""

    def test_all_components_are_there_and_answer(self):
        """The coordinator runs with the three policies, and its port answers HTTP."""
        cluster = self.fleet.state.cluster
        self.assertIsInstance(cluster.scheduling, TaskScheduler)
        self.assertIsInstance(cluster.balancing, LoadBalancer)
        self.assertIsInstance(cluster.health, HealthMonitor)
        self.assertEqual(self.fleet.get("/healthz", role=None).status, 200)
        ready = self.fleet.get("/readyz")
        self.assertEqual((ready.status, ready.values["is_ready"]), (200, True), ready.values)
        self.assertEqual(self.fleet.get("/api/v1/status").values["workers_total"], 0)
        self.assertEqual(self.fleet.get("/").status, 200)
        self.assertEqual(self.fleet.snapshot().workers, ())

    def test_the_database_file_is_where_it_was_asked_to_be(self):
        """A real file with the tables of the history."""
        self.assertTrue(self.fleet.history.flush(60.0))
        self.assertTrue(self.fleet.database.is_file())
        tables = {name for (name,) in self.fleet.rows("SELECT table_name FROM information_schema.tables")}
        self.assertLessEqual({"attempts", "planned_tasks", "runs", "tasks", "workers"}, tables)

    def test_an_empty_fleet_takes_a_run_and_keeps_it(self):
        """Nobody is there to execute it; it waits and says so."""
        run = self.fleet.submit(command("t", "print('here')"))
        self.fleet.wait_until(lambda snapshot: any(run.tasks for run in snapshot.runs), "the run is known")
        why = self.fleet.ask(lambda: self.fleet.state.why(run.run_id, "t"))
        self.assertEqual(why, "waiting for a worker: none has joined")
        self.fleet.start_workers("late")
        self.assertEqual(run.wait_for_end(), {"t": "passed"})

    def test_two_fleets_stand_side_by_side(self):
        """Ports and folders are their own."""
        other = Fleet()
        self.addCleanup(other.close)
        self.assertNotEqual(other.port, self.fleet.port)
        self.assertEqual(other.get("/healthz", role=None).status, 200)
        foreign = read_token(self.fleet.token_file(Role.ADMIN))
        self.assertEqual(self.fleet.get("/api/v1/status", token=foreign).status, 200)
        self.assertEqual(other.get("/api/v1/status", token=foreign).status, 401)


class WorkerRegistrationTests(FleetCase):
    """Every started worker is listed with its id, host, status and detected capabilities."""

    def test_every_started_worker_is_listed(self):
        """Three processes, three workers."""
        self.fleet.start_workers("w1", "w2", "w3")
        listed = {worker.worker_id: worker.state for worker in self.fleet.snapshot().workers}
        self.assertEqual(listed, {"w1": "healthy", "w2": "healthy", "w3": "healthy"})

    def test_a_worker_tells_what_its_machine_has(self):
        """Processors, memory, platform, browsers, GPUs if any; and the labels and resources that it was given."""
        browser = self.fleet.programs / "firefox"
        browser.write_text("#!/bin/sh\necho Mozilla Firefox 128.0.1\n")
        browser.chmod(0o700)
        self.fleet.start_worker("w", "--label", "rack=b", "--label", "camera=yes", "--resource", "licence=2", slots=3)
        self.fleet.wait_for_workers("w")
        worker = self.fleet.worker("w")
        assert worker is not None
        has = worker.capabilities
        self.assertEqual(worker.slots, 3)
        self.assertEqual(has.attributes["os"], ("linux",) if os.uname().sysname == "Linux" else ("macos",))
        self.assertEqual(has.attributes["arch"], (os.uname().machine,))
        self.assertEqual((has.attributes["rack"], has.attributes["camera"]), (("b",), ("yes",)))
        self.assertEqual(has.resources["licence"], 2.0)
        self.assertGreater(has.resources["cpus"], 0)
        self.assertLessEqual(has.resources["cpus"], os.cpu_count() or 1)
        self.assertGreater(has.resources["memory"], 64e6)
        self.assertLessEqual(has.resources["memory"], psutil.virtual_memory().total)
        self.assertEqual((has.attributes["browser"], has.attributes["browser.firefox"]), (("firefox",), ("128.0.1",)))
        self.assertEqual(bool(has.resources.get("gpus")), "gpu.vendor" in has.attributes)

    def test_it_is_a_row_in_the_database(self):
        """With host, slots and capabilities."""
        self.fleet.start_worker("w", "--label", "rack=b", slots=2)
        self.fleet.wait_for_workers("w")
        [(name, host, slots, rack)] = self.fleet.rows(
            "SELECT worker, host, slots, map_extract(attributes, 'rack')[1][1] FROM workers"
        )
        self.assertEqual((name, host, slots, rack), ("w", socket.gethostname(), 2, "b"))

    def test_a_worker_without_the_token_is_not_welcome(self):
        """It ends with a status that says so, and is listed nowhere."""
        wrong = self.fleet.directory / "wrong"
        wrong.touch(mode=0o600)
        wrong.write_text("x" * 32 + "\n")
        self.fleet.start_worker("stranger", token_file=wrong)
        self.assertNotEqual(self.fleet.workers["stranger"].wait(60.0), 0)
        self.assertEqual(self.fleet.snapshot().workers, ())


class TaskDistributionTests(FleetCase):
    """Tasks are distributed to workers that can run them, by priority."""

    def test_tasks_of_several_priorities_all_get_a_worker(self):
        """Thirty tasks at once on two workers: one verdict each, both workers had some."""
        self.fleet.start_workers("w1", "w2", slots=2)
        tasks = [command(f"t{number}", "print('done')", priority=number % 5) for number in range(30)]
        verdicts = self.fleet.submit(*tasks).wait_for_end()
        self.assertEqual(verdicts, {f"t{number}": "passed" for number in range(30)})
        ran_on = {worker for (worker,) in self.fleet.rows("SELECT DISTINCT worker FROM attempts")}
        self.assertEqual(ran_on, {"w1", "w2"})

    def test_with_one_free_slot_the_higher_priority_starts_first(self):
        """Submitted together behind a task that holds the only slot."""
        self.fleet.start_workers("w")
        run = self.fleet.submit(
            self.meets("holds-the-slot", priority=100, cpus=1),
            *(self.meets(f"p{priority}", priority=priority, cpus=1) for priority in (1, 9, 5, -3, 7)),
        )
        self.fleet.meeting.wait_for("holds-the-slot")
        self.fleet.meeting.open_house()
        run.wait_for_end()
        self.assertEqual(self.fleet.meeting.arrivals, ["holds-the-slot", "p9", "p7", "p5", "p1", "p-3"])

    def test_an_urgent_run_overtakes_a_patient_one(self):
        """What is submitted later with a higher priority starts before what waits already."""
        self.fleet.start_workers("w")
        patient = self.fleet.submit(*(self.meets(f"patient-{number}", cpus=1) for number in range(4)))
        self.fleet.meeting.wait_for_count(1)
        urgent = self.fleet.submit(self.meets("urgent", priority=5, cpus=1))
        self.fleet.wait_until(lambda snapshot: sum(run.tasks for run in snapshot.runs) == 5, "both runs are planned")
        self.fleet.meeting.open_house()
        urgent.wait_for_end()
        patient.wait_for_end()
        self.assertEqual(self.fleet.meeting.arrivals[1], "urgent")
        self.assertEqual(len(self.fleet.meeting.arrivals), 5)

    def test_a_task_waits_for_what_it_depends_on(self):
        """And is not run if that fails."""
        self.fleet.start_workers("w", slots=2)
        verdicts = self.fleet.submit(
            command("deploy", "print('deployed')", depends_on=["build"]),
            command("build", "raise SystemExit(1)"),
            command("report", "print('told')", depends_on=["lint"]),
            command("lint", "print('clean')"),
        ).wait_for_end()
        self.assertEqual(verdicts, {"build": "failed", "deploy": "not_run", "lint": "passed", "report": "passed"})


class HardwareRequirementTests(FleetCase):
    """Tasks run where what they need is, and nowhere else."""

    def test_a_cpu_task_runs_and_a_gpu_task_waits_says_why_and_runs_when_a_gpu_joins(self):
        """What nobody can run holds up nothing meanwhile."""
        self.fleet.start_worker("plain", "--resource", "gpus=0")
        self.fleet.wait_for_workers("plain")
        run = self.fleet.submit(command("on-gpu", "print(1)", gpus=1), command("on-cpu", "print(2)", cpus=1))
        run.wait_for_verdict("on-cpu")
        why = self.fleet.ask(lambda: self.fleet.state.why(run.run_id, "on-gpu"))
        self.assertIn("no worker has gpus 1 (closest: worker plain", why)
        self.assertEqual(run.verdicts, {"on-cpu": "passed"})
        self.fleet.start_worker("with-gpu", "--resource", "gpus=1")
        self.assertEqual(run.wait_for_end(), {"on-cpu": "passed", "on-gpu": "passed"})
        self.assertEqual(run.worker_of("on-gpu"), "with-gpu")

    def test_labels_and_versions_choose_the_worker(self):
        """Each task has one machine where it fits."""
        self.fleet.start_worker("old", "--label", "cuda=11.8", "--label", "rack=a")
        self.fleet.start_worker("new", "--label", "cuda=12.4", "--label", "rack=b")
        self.fleet.wait_for_workers("old", "new")
        run = self.fleet.submit(
            command("needs-new", "print(1)", requires="cuda>=12"),
            command("needs-old", "print(1)", requires="cuda<12"),
            command("needs-rack", "print(1)", requires="cuda>=11, rack=b"),
            command("needs-both", "print(1)", requires="cuda<12, rack=b"),
        )
        run.wait_for_verdict("needs-new", "needs-old", "needs-rack")
        self.assertEqual([run.worker_of(f"needs-{what}") for what in ("new", "old", "rack")], ["new", "old", "new"])
        self.assertNotIn("needs-both", run.verdicts)
        self.assertIn("no worker has all of", self.fleet.ask(lambda: self.fleet.state.why(run.run_id, "needs-both")))
        run.cancel("enough was seen")
        self.assertEqual(run.wait_for_end()["needs-both"], "cancelled")

    def test_one_licence_is_held_by_one_task_at_a_time(self):
        """Four slots and one licence: never two of them together."""
        self.fleet.start_worker("w", "--resource", "licence=1", slots=4)
        self.fleet.wait_for_workers("w")
        run = self.fleet.submit(*(self.meets(f"t{number}", resources={"licence": 1}) for number in range(4)))
        for _ in range(4):
            [name] = self.fleet.meeting.wait_for_count(1)
            self.fleet.meeting.release(name)
        run.wait_for_end()
        self.assertEqual(self.fleet.meeting.most_present, 1)


class TaskExecutionTests(FleetCase):
    """Commands and pytest tests run for real; what became of them arrives and is kept."""

    def test_a_command_runs_for_real(self):
        """It leaves a file; its output, duration and verdict arrive."""
        self.fleet.start_workers("w")
        made = self.fleet.directory / "made"
        run = self.fleet.submit(command("t", f"open({str(made)!r}, 'w').write('x'); print('written', 6 * 7)"))
        self.assertEqual(run.wait_for_end(), {"t": "passed"})
        self.assertEqual(made.read_text(), "x")
        outcome = run.outcome("t")
        assert outcome.result is not None
        self.assertEqual(outcome.result.output, "written 42\n")
        self.assertGreater(outcome.result.duration_s, 0.0)
        self.assertEqual((outcome.worker, outcome.attempt), ("w", 1))

    def test_a_failing_command_is_failed(self):
        """Never a success; the exit status and what it printed are told."""
        self.fleet.start_workers("w")
        run = self.fleet.submit(
            command("fails", "print('before the end'); raise SystemExit(3)"),
            command("passes", "print('fine')"),
        )
        self.assertEqual(run.wait_for_end(), {"fails": "failed", "passes": "passed"})
        self.assertEqual(run.counts, {"failed": 1, "passed": 1})
        result = run.outcome("fails").result
        assert result is not None
        self.assertIn("before the end", result.output)
        self.assertIn("3", result.evidence)

    def test_a_command_that_cannot_be_started_is_no_success(self):
        """A program that does not exist."""
        self.fleet.start_workers("w")
        run = self.fleet.submit(command("t", ["/nowhere/to-be-found"]))
        self.assertNotIn(run.wait_for_end()["t"], ("passed", "skipped"))

    def test_a_command_that_dies_by_a_signal_is_crashed(self):
        """Not failed: nobody decided that."""
        self.fleet.start_workers("w")
        run = self.fleet.submit(command("t", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"))
        self.assertEqual(run.wait_for_end(), {"t": "crashed"})

    def test_a_command_that_runs_too_long_is_ended(self):
        """By its worker, at its timeout, with what it had printed; and its process is gone."""
        self.fleet.start_workers("w")
        program = "import os, signal; print(os.getpid(), flush=True); signal.pause()"
        run = self.fleet.submit(command("t", program, timeout_s=1.0))
        self.assertEqual(run.wait_for_end(), {"t": "timeout"})
        result = run.outcome("t").result
        assert result is not None
        self.assertGreaterEqual(result.duration_s, 1.0)
        self.assertFalse(psutil.pid_exists(int(result.output.split()[0])))

    def test_every_outcome_is_a_row(self):
        """Verdict, attempt, worker, output, duration: what the client hears is what the database has."""
        self.fleet.start_workers("w", slots=2)
        run = self.fleet.submit(
            command("passes", "print('fine')"),
            command("fails", "print('not fine'); raise SystemExit(2)", retries=1),
        )
        run.wait_for_end()
        rows = self.fleet.rows(
            "SELECT task_id, attempt, verdict, is_final, worker, output, duration_s > 0, reason"
            " FROM attempts WHERE run_id = ? ORDER BY task_id, attempt",
            run.run_id,
        )
        self.assertEqual(
            [row[:7] for row in rows],
            [
                ("fails", 1, "failed", False, "w", "not fine\n", True),
                ("fails", 2, "failed", True, "w", "not fine\n", True),
                ("passes", 1, "passed", True, "w", "fine\n", True),
            ],
        )
        self.assertIn("2", rows[0][7])
        [(outcome, tests, passed, failed)] = self.fleet.rows(
            "SELECT outcome, tests, passed, failed FROM runs WHERE run_id = ?", run.run_id
        )
        self.assertEqual((outcome, tests, passed, failed), ("finished", 2, 1, 1))

    @unittest.skipUnless(importlib.util.find_spec("pytest"), "the workers' interpreter has no pytest")
    def test_pytest_tests_run_for_real(self):
        """Passed, failed, skipped and erroneous ones, each with its own verdict, as rows too."""
        (self.fleet.directory / "test_of_a_user.py").write_text(
            "import pytest\n"
            "def test_passes(): print('seen')\n"
            "def test_fails(): assert 1 + 1 == 3\n"
            "@pytest.mark.skip(reason='not today')\n"
            "def test_skips(): pass\n"
            "@pytest.fixture\n"
            "def broken(): raise RuntimeError('no set-up')\n"
            "def test_errs(broken): pass\n"
        )
        self.fleet.start_workers("w", slots=2)
        run = self.fleet.submit(PytestTarget(("-p", "no:cacheprovider", "test_of_a_user.py")))
        verdicts = run.wait_for_end()
        self.assertEqual(run.failures, [])
        self.assertEqual(
            {name.rpartition("::")[2]: verdict for name, verdict in verdicts.items()},
            {"test_passes": "passed", "test_fails": "failed", "test_skips": "skipped", "test_errs": "error"},
        )
        [(traceback,)] = self.fleet.rows("SELECT traceback FROM attempts WHERE task_id LIKE '%test_fails'")
        self.assertIn("assert (1 + 1) == 3", traceback)


class WorkerHealthTests(FleetCase):
    """Heartbeats keep workers healthy; silence is noticed."""

    limits = Limits(heartbeat_interval_s=0.5, reconnect_grace_s=0.3)

    def test_heartbeats_keep_workers_healthy_and_the_last_one_is_recent(self):
        """Nothing else is said for several intervals, and nobody becomes suspect."""
        self.fleet.start_workers("w1", "w2")
        first = {worker.worker_id: worker.last_seen for worker in self.fleet.snapshot().workers}

        def all_beat_on(snapshot: ClusterSnapshot) -> bool:
            now = {worker.worker_id: worker.last_seen for worker in snapshot.workers}
            return all(now[name] >= first[name] + 4 * 0.5 for name in first)

        self.fleet.wait_until(all_beat_on, "four intervals of heartbeats pass")
        snapshot = self.fleet.snapshot()
        self.assertEqual({worker.state for worker in snapshot.workers}, {"healthy"})
        for worker in snapshot.workers:
            self.assertLess(snapshot.now - worker.last_seen, 3 * 0.5)
        self.assertEqual(snapshot.alerts, ())

    def test_a_silent_worker_is_suspect_and_healthy_again_when_it_goes_on(self):
        """Stopped by a signal: its link is open, it just says nothing. The alert clears."""
        self.fleet.start_workers("w")
        pid = self.fleet.workers["w"].pid
        os.kill(pid, signal.SIGSTOP)
        try:
            self.fleet.wait_until(
                lambda snapshot: [worker.state for worker in snapshot.workers] == ["suspect"], "it is suspect"
            )
        finally:
            os.kill(pid, signal.SIGCONT)
        self.fleet.wait_until(
            lambda snapshot: [worker.state for worker in snapshot.workers] == ["healthy"], "it is healthy again"
        )
        [alert] = [alert for alert in self.fleet.snapshot().alerts if alert.cause == "suspect"]
        self.assertEqual(alert.worker_id, "w")
        self.assertIsNotNone(alert.cleared_at)

    def test_a_worker_that_stays_silent_is_lost_and_its_task_runs_elsewhere(self):
        """Health monitoring detects the failure although no link breaks."""
        self.fleet.start_workers("silent")
        run = self.fleet.submit(self.meets("t"))
        self.fleet.meeting.wait_for("t")
        pid = self.fleet.workers["silent"].pid
        self.fleet.start_workers("sound")
        os.kill(pid, signal.SIGSTOP)
        try:
            self.fleet.meeting.wait_until(lambda: self.fleet.meeting.arrivals == ["t", "t"], "it comes again")
            self.assertIsNone(self.fleet.worker("silent"))
        finally:
            os.kill(pid, signal.SIGCONT)
            self.fleet.meeting.open_house()
        self.assertEqual(run.wait_for_end(), {"t": "passed"})
        self.assertEqual(run.outcome("t").worker, "sound")


class DashboardTests(FleetCase):
    """The dashboard's pages and data are served, and agree with the coordinator."""

    def test_the_page_loads_with_everything_it_names(self):
        """HTML, and each of its own files; nothing comes from another host."""
        page = self.fleet.get("/", accept="text/html")
        self.assertEqual((page.status, page.kind), (200, "text/html"))
        text = page.body.decode()
        named = re.findall(r"""(?:src|href)=["']([^"']+)["']""", text)
        self.assertTrue(any(name.startswith("/static/") for name in named), named)
        for name in named:
            with self.subTest(name):
                self.assertNotRegex(name, r"^(?:[a-z]+:)?//")
                if not name.startswith("#"):
                    self.assertEqual(self.fleet.get(name).status, 200)

    def test_counts_agree_with_the_coordinator(self):
        """Workers, slots and tasks, while something runs and afterwards."""
        self.fleet.start_workers("w1", "w2")
        run = self.fleet.submit(*(self.meets(f"t{number}", cpus=1) for number in range(3)))
        self.fleet.meeting.wait_for_count(2)
        run.wait_until(lambda: len(run.started) == 2, "two starts are told")
        status = self.fleet.get("/api/v1/status").values
        self.assertEqual((status["workers"]["healthy"], status["workers_total"]), (2, 2))
        self.assertEqual((status["slots"]["total"], status["slots"]["used"], status["runs"]), (2, 2, 1))
        counts = self.fleet.snapshot().runs[0].states
        self.assertEqual(status["tasks"]["running"], counts["running"])
        self.assertEqual((counts["running"], counts["waiting"]), (2, 1))
        listed = self.fleet.get(f"/api/v1/runs/{run.run_id}/tasks").values["items"]
        self.assertEqual({row["task_id"] for row in listed}, {"t0", "t1", "t2"})
        self.assertEqual(sorted(row["state"] for row in listed), ["queued", "running", "running"])
        workers = self.fleet.get("/api/v1/workers").values["items"]
        self.assertEqual(
            {(worker["worker_id"], worker["slots_used"], len(worker["running"])) for worker in workers},
            {("w1", 1, 1), ("w2", 1, 1)},
        )
        self.fleet.meeting.open_house()
        run.wait_for_end()
        status = self.fleet.get("/api/v1/status").values
        self.assertEqual((status["runs"], status["slots"]["used"], status["verdicts"]["passed"]), (0, 0, 3))

    def test_what_waits_says_why(self):
        """The queue, by reason, and the task itself."""
        self.fleet.start_worker("plain", "--resource", "gpus=0")
        self.fleet.wait_for_workers("plain")
        run = self.fleet.submit(command("on-gpu", "print(1)", gpus=1), command("plain-task", "print(2)"))
        run.wait_for_verdict("plain-task")
        queue = self.fleet.get("/api/v1/queue").values
        self.assertEqual(queue["waiting"], 1)
        self.assertIn("no worker has gpus 1", queue["groups"][0]["reason"])
        shown = self.fleet.get(f"/api/v1/runs/{run.run_id}/tasks/on-gpu").values
        self.assertEqual(shown["why"], self.fleet.ask(lambda: self.fleet.state.why(run.run_id, TaskId("on-gpu"))))

    def test_a_run_of_the_past_is_shown_from_the_database(self):
        """Its verdicts, attempts and output are what the client heard."""
        self.fleet.start_workers("w")
        run = self.fleet.submit(
            command("passes", "print('fine')"), command("fails", "print('not fine'); raise SystemExit(2)", retries=1)
        )
        run.wait_for_end()
        self.fleet.wait_until_recorded(run.run_id)
        shown = self.fleet.get(f"/api/v1/runs/{run.run_id}").values
        self.assertEqual((shown["is_live"], shown["outcome"], shown["is_success"]), (False, "finished", False))
        self.assertEqual((shown["counts"]["passed"], shown["counts"]["failed"], shown["tasks"]), (1, 1, 2))
        task = self.fleet.get(f"/api/v1/runs/{run.run_id}/tasks/fails").values
        self.assertEqual((task["verdict"], len(task["attempt_list"])), ("failed", 2))
        self.assertEqual({attempt["output"] for attempt in task["attempt_list"]}, {"not fine\n"})

    def test_a_run_is_submitted_and_executed_over_http(self):
        """Nobody stays connected; the verdicts are there to be asked for."""
        self.fleet.start_workers("w")
        directory = str(self.fleet.directory)
        ready = {"name": "t", "argv": list(self.fleet.meeting.argv("t")), "directory": directory}
        body = {"suites": [{"kind": "commands", "commands": [ready]}]}
        self.assertEqual(self.fleet.post("/api/v1/runs", body, role=Role.VIEW).status, 403)
        submitted = self.fleet.post("/api/v1/runs", body, role=Role.SUBMIT)
        self.assertEqual(submitted.status, 201, submitted.body)
        self.fleet.meeting.wait_for("t")
        self.fleet.meeting.release("t")
        self.fleet.wait_until(lambda snapshot: not snapshot.runs, "the run ends")
        run_id = submitted.values["run_id"]
        self.fleet.wait_until_recorded(run_id)
        self.assertTrue(self.fleet.get(f"/api/v1/runs/{run_id}").values["is_success"])

    def test_an_operator_drains_and_resumes_a_worker(self):
        """It finishes what runs, gets nothing new, and then serves again."""
        self.fleet.start_workers("w")
        run = self.fleet.submit(self.meets("first", cpus=1), self.meets("second", cpus=1, depends_on=["first"]))
        self.fleet.meeting.wait_for("first")
        self.assertEqual(self.fleet.post("/api/v1/workers/w/drain").status, 202)
        self.fleet.meeting.release("first")
        run.wait_for_verdict("first")
        [worker] = self.fleet.get("/api/v1/workers").values["items"]
        self.assertEqual((worker["state"], worker["running"]), ("draining", []))
        self.assertEqual(self.fleet.post("/api/v1/workers/w/resume").status, 202)
        self.fleet.meeting.wait_for("second")
        self.fleet.meeting.release("second")
        self.assertEqual(run.wait_for_end(), {"first": "passed", "second": "passed"})

    def test_nothing_is_shown_without_a_token(self):
        """Except that it lives, and the form to log in."""
        self.assertEqual(self.fleet.get("/healthz", role=None).status, 200)
        self.assertEqual(self.fleet.get("/login", role=None).status, 200)
        for path in ("/", "/api/v1/status", "/api/v1/workers", "/no-such-page"):
            with self.subTest(path):
                self.assertEqual(self.fleet.get(path, role=None).status, 401)
                self.assertEqual(self.fleet.get(path, token="x" * 32).status, 401)
                self.assertEqual(self.fleet.get(path, role=Role.WORKER).status, 404 if "no-such" in path else 403)


class FaultToleranceTests(FleetCase):
    """Workers die, and every task still has exactly one verdict."""

    def test_a_killed_worker_is_noticed_and_its_tasks_finish_elsewhere_exactly_once(self):
        """kill -9 while it runs two tasks and has more waiting."""
        self.fleet.start_workers("dies", slots=2)
        run = self.fleet.submit(*(self.meets(f"t{number}") for number in range(6)))
        caught = self.fleet.meeting.wait_for_count(2)
        run.wait_for_start(*caught)
        self.fleet.start_workers("lives", slots=2)
        self.fleet.kill_worker("dies")
        self.fleet.wait_until(
            lambda snapshot: "dies" not in {worker.worker_id for worker in snapshot.workers}, "its loss is noticed"
        )
        self.assertIn("lost", {alert.cause for alert in self.fleet.snapshot().alerts})
        self.fleet.meeting.open_house()
        self.assertEqual(run.wait_for_end(), {f"t{number}": "passed" for number in range(6)})
        self.assertEqual({outcome.worker for outcome in run.outcomes if outcome.is_final}, {"lives"})
        finals = self.fleet.rows(
            "SELECT task_id, count(*) FROM attempts WHERE run_id = ? AND is_final GROUP BY task_id", run.run_id
        )
        self.assertEqual(dict(finals), {f"t{number}": 1 for number in range(6)})
        arrivals = self.fleet.meeting.arrivals
        self.assertEqual(
            {name: arrivals.count(name) for name in set(arrivals)},
            {f"t{number}": 2 if f"t{number}" in caught else 1 for number in range(6)},
            "what had begun ran again, the rest ran once",
        )

    def test_the_commands_of_a_killed_worker_die_with_it(self):
        """Nobody is left to hear them, so they must not go on beside the second attempt."""
        self.fleet.start_workers("dies")
        run = self.fleet.submit(self.meets("t"))
        self.fleet.meeting.wait_for("t")
        run.wait_for_start("t")
        self.fleet.kill_worker("dies")
        self.fleet.meeting.wait_until(lambda: not self.fleet.meeting.present, "it goes")
        self.fleet.start_workers("another")
        self.fleet.meeting.wait_for("t")
        self.fleet.meeting.release("t")
        self.assertEqual(run.wait_for_end(), {"t": "passed"})

    def test_a_new_worker_under_the_same_name_is_welcome(self):
        """It is listed, healthy, and gets work."""
        self.fleet.start_workers("w")
        run = self.fleet.submit(self.meets("t"))
        self.fleet.meeting.wait_for("t")
        self.fleet.kill_worker("w")
        self.fleet.start_workers("w")
        self.fleet.meeting.wait_for("t")
        self.fleet.meeting.open_house()
        self.assertEqual(run.wait_for_end(), {"t": "passed"})
        self.assertEqual(run.outcome("t").worker, "w")
        worker = self.fleet.worker("w")
        assert worker is not None
        self.assertEqual((worker.state, worker.alerts), ("healthy", ()))

    def test_all_workers_die_and_the_run_ends_with_a_new_one(self):
        """Nothing is given up while a worker may still come."""
        self.fleet.start_workers("w1", "w2")
        run = self.fleet.submit(*(self.meets(f"t{number}") for number in range(4)))
        self.fleet.meeting.wait_for_count(2)
        for name in ("w1", "w2"):
            self.fleet.kill_worker(name)
        self.fleet.wait_until(lambda snapshot: not snapshot.workers, "nobody is left")
        self.assertEqual(run.verdicts, {})
        self.fleet.meeting.open_house()
        self.fleet.start_workers("last")
        self.assertEqual(run.wait_for_end(), {f"t{number}": "passed" for number in range(4)})

    def test_a_client_that_goes_away_leaves_the_fleet_free(self):
        """Its run is cancelled, and the next one is served."""
        self.fleet.start_workers("w")
        left = self.fleet.submit(self.meets("forgotten"))
        self.fleet.meeting.wait_for("forgotten")
        left.leave()
        self.fleet.meeting.wait_until(lambda: not self.fleet.meeting.present, "its task is ended")
        self.assertEqual(self.fleet.submit(command("next", "print(1)")).wait_for_end(), {"next": "passed"})


class ConcurrencyTests(FleetCase):
    """More long tasks than slots: as many run at once as there are slots, and all finish."""

    def test_as_many_run_at_once_as_there_are_slots(self):
        """Five slots on two workers, fifteen tasks; they tell themselves when they began and ended."""
        self.fleet.start_worker("w1", slots=2)
        self.fleet.start_worker("w2", slots=3)
        self.fleet.wait_for_workers("w1", "w2")
        names = {f"t{number}" for number in range(15)}
        run = self.fleet.submit(*(self.meets(name) for name in sorted(names)))
        for left in range(15, 0, -1):
            present = self.fleet.meeting.wait_for_count(min(5, left))
            self.fleet.meeting.release(sorted(present)[0])
        self.assertEqual(run.wait_for_end(), dict.fromkeys(names, "passed"))
        self.assertEqual(self.fleet.meeting.most_present, 5)
        results = [run.outcome(name).result for name in names]
        spans = [json.loads(result.output) for result in results if result is not None]
        self.assertEqual({span["task"] for span in spans}, names)
        self.assertEqual(most_at_once((span["started"], span["ended"]) for span in spans), 5)

    def test_several_clients_at_once(self):
        """Four runs share the fleet; each hears of its own tasks only."""
        self.fleet.start_workers("w1", "w2", slots=2)
        runs = [
            self.fleet.submit(*(command(f"r{number}-t{task}", "print('done')") for task in range(10)))
            for number in range(4)
        ]
        for number, run in enumerate(runs):
            self.assertEqual(run.wait_for_end(), {f"r{number}-t{task}": "passed" for task in range(10)})
        [(attempts,)] = self.fleet.rows("SELECT count(*) FROM attempts")
        self.assertEqual(attempts, 40)


if __name__ == "__main__":
    raise SystemExit(run_file(__name__))
