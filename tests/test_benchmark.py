"""Benchmarks of all components: throughput and latency, each with proof that the work was really done.

Directly (``python test_benchmark.py``) they run at full size, with pytest or ``--quick`` at a small one. ``--json
FILE`` keeps the numbers. None sleeps and none asserts a time: speed is read, not passed.
"""

from __future__ import annotations

import math
import tempfile
import threading
import time
import unittest
from collections.abc import Callable
from pathlib import Path

from support import scale
from support.command_line import run_file
from support.core_loads import CoreLoad
from support.fleet import Fleet
from support.following import command
from support.machines import BROWSER, CPU, CUDA, ROCM, needs
from support.socket_workers import SocketWorkers
from support.tables import Samples, Table

from fleetest.core import commands, events
from fleetest.core.model import AttemptResult, LeaseId, Limits, RunId, TaskId, TaskSpec, Verdict, WorkerId
from fleetest.storage import records
from fleetest.storage.history import HistoryRecorder
from fleetest.storage.history_database import open_history
from fleetest.transport.identity import Role
from fleetest.transport.token import read_token


def tasks(count: int, **options: object) -> list[TaskSpec]:
    """Tasks in files of fifty, as a suite has them."""
    return [TaskSpec(TaskId(f"t{n}"), group=f"file{n // 50}", **options) for n in range(count)]  # type: ignore[arg-type]


class DistributedFrameworkBenchmark(unittest.TestCase):
    """One test per kind of load, each with a table of its own."""

    def setUp(self) -> None:
        """A folder for what a benchmark writes; fleets are closed by their cleanups, whatever happens."""
        self.addCleanup(self.check_nothing_is_left)
        folder = tempfile.TemporaryDirectory(prefix="fleetest-benchmark-")
        self.addCleanup(folder.cleanup)
        self.directory = Path(folder.name)
        self.threads = threading.active_count()

    def tearDown(self) -> None:
        """What is open still is closed by the cleanups that follow."""
        self.assertTrue(self.directory.is_dir())

    def check_nothing_is_left(self) -> None:
        """The last cleanup of all."""
        self.assertFalse(self.directory.exists())
        self.assertEqual(threading.active_count(), self.threads, threading.enumerate())

    def test_00_benchmark_database_operations(self) -> None:
        """Open, insert, update, query, reopen: the results' file with its recorder."""
        table = Table("database")
        self.addCleanup(table.show)
        runs = 40 if scale.is_full else 4
        attempts = 500
        path = self.directory / "results.duckdb"
        opening = Samples()
        with opening.one():
            history = HistoryRecorder(path, keep_open=True)
            self.addCleanup(history.close)
            self.assertTrue(history.flush(60.0))
        table.add("open", 1, sum(opening.seconds), opening)

        inserting, updating = Samples(), Samples()
        for run in range(runs):
            with inserting.one():
                self.insert(history, f"run{run}", attempts)
                self.assertTrue(history.flush(60.0))
            with updating.one():
                history.record(records.RunEnded(f"run{run}", time.time(), {"passed": attempts}))
                self.assertTrue(history.flush(60.0))
        table.add("insert", runs * attempts, sum(inserting.seconds), inserting, unit="attempts")
        table.add("update (a run ends)", runs, sum(updating.seconds), updating, unit="runs")

        querying = Samples()
        for run in range(runs):
            with querying.one():
                answer = history.query(lambda queries, run_id=f"run{run}": queries.tasks(run_id))  # type: ignore[misc]
            self.assertEqual(len(answer.rows), attempts)
        table.add("query a run's tasks", runs, sum(querying.seconds), querying, unit="queries")
        self.assertEqual(history.close(), [])

        reopening = Samples()
        with reopening.one():
            connection = open_history(path)
        self.addCleanup(connection.close)
        table.add("reopen", 1, sum(reopening.seconds), reopening)
        counted = connection.execute("SELECT count(*), count(DISTINCT run_id) FROM attempts").fetchone()
        self.assertEqual(counted, (runs * attempts, runs))
        ended = connection.execute("SELECT count(*) FROM runs WHERE outcome = 'finished'").fetchone()
        self.assertEqual(ended, (runs,))

    def insert(self, history: HistoryRecorder, run_id: str, attempts: int) -> None:
        history.record(records.RunStarted(run_id, time.time(), "benchmark", "me", "/"))
        history.record(records.TasksPlanned(run_id, [(f"t{n}", "", "g", n) for n in range(attempts)]))
        for number in range(attempts):
            result = AttemptResult(LeaseId(number), Verdict.PASSED, time.time(), 0.01, output="some output\n")
            history.record(
                records.AttemptRecorded(run_id, f"t{number}", 1, Verdict.PASSED, True, "w", "gw0", 0, "", result)
            )

    def test_01_benchmark_worker_registration(self) -> None:
        """A hundred workers: over the real socket, and in the core alone."""
        table = Table("worker registration")
        self.addCleanup(table.show)
        for count in (100, 10_000) if scale.is_full else (100,):
            load = CoreLoad()
            load.samples = Samples()
            load.join(count)
            table.add(f"core, {count:,}", count, sum(load.samples.seconds), load.samples, unit="workers")
            self.assertEqual(len(load.state.snapshot().workers), count)
        fleet = Fleet()
        self.addCleanup(fleet.close)
        workers = SocketWorkers(fleet.url, read_token(fleet.token_file(Role.WORKER)))
        self.addCleanup(workers.close)
        samples = Samples()
        workers.join([f"w{number}" for number in range(100)], samples)
        table.add("socket, 100", 100, sum(samples.seconds), samples, unit="workers")
        listed = {worker.worker_id for worker in fleet.snapshot().workers if worker.state == "healthy"}
        self.assertEqual(listed, {f"w{number}" for number in range(100)})
        self.assertEqual(fleet.get("/api/v1/status").values["workers_total"], 100)

    def test_02_benchmark_task_creation(self) -> None:
        """Ten to a thousand tasks and beyond: in the core, and submitted over the socket."""
        table = Table("task creation")
        self.addCleanup(table.show)
        for count in (10, 100, 1_000, 100_000) if scale.is_full else (10, 100, 1_000):
            load = CoreLoad()
            load.apply(events.RunSubmitted(RunId("run")))
            planned = tasks(count)
            load.samples = Samples()
            load.apply(events.SuitePlanned(RunId("run"), "", planned))
            table.add(f"core, {count:,}", count, sum(load.samples.seconds), load.samples, unit="tasks")
            [run] = load.state.snapshot().runs
            self.assertEqual((run.tasks, run.states["waiting"]), (count, count))
        fleet = Fleet()
        self.addCleanup(fleet.close)
        known = 0
        for count in (10, 100, 1_000, 10_000) if scale.is_full else (10, 100, 1_000):
            samples = Samples()
            work = [command(f"t{number}", ("true",)) for number in range(count)]
            known += count
            with samples.one():
                run = fleet.submit(*work)
                fleet.wait_until(
                    lambda seen, known=known: sum(run.tasks for run in seen.runs) == known,  # type: ignore[misc]
                    "its tasks are known",
                )
            table.add(f"socket, {count:,}", count, sum(samples.seconds), samples, unit="tasks")
            self.assertIn(run.run_id, {seen.run_id for seen in fleet.snapshot().runs})

    def test_03_benchmark_task_assignment(self) -> None:
        """Workers by tasks, with a queue that is really full: every task is assigned, executed and ends, once."""
        table = Table("task assignment")
        self.addCleanup(table.show)
        beyond = [(1_000, 100_000)] if scale.is_full else []
        for workers, count in [(10, 20), (50, 100), (100, 200), *beyond]:
            for kind, machines, mix in (("plain", [CPU], [needs()]), ("mixed", *self.mixed())):
                load = CoreLoad()
                names = load.join(workers, machines)
                specs = [
                    TaskSpec(TaskId(f"t{n}"), group=f"file{n // 50}", requirements=mix[n % len(mix)])
                    for n in range(count)
                ]
                load.apply(events.RunSubmitted(RunId("run")))
                load.apply(events.SuitePlanned(RunId("run"), "", specs))
                self.assertEqual(load.state.snapshot().runs[0].states["waiting"], count)
                load.samples = Samples()
                for name in names:
                    load.apply(events.SuiteReady(name, RunId("run"), ""))
                load.work_off()
                label = f"{workers:,} workers x {count:,}, {kind}"
                table.add(label, count, sum(load.samples.seconds), load.samples, unit="tasks")
                self.assertEqual(len(load.verdicts), count)
                self.assertEqual(set(load.verdicts.values()), {Verdict.PASSED})

    def mixed(self):  # type: ignore[no-untyped-def]
        """Four kinds of machines, five kinds of tasks."""
        return [CPU, CUDA, ROCM, BROWSER], [
            needs(),
            needs(requires="cuda>=12"),
            needs(requires="rocm=present"),
            needs(requires="browser=firefox, feature=webgpu"),
            needs(requires="memory>=12GB"),
        ]

    def test_04_benchmark_load_balancing(self) -> None:
        """Five workers with uneven loads: waiting work moves until all end together."""
        table = Table("load balancing")
        self.addCleanup(table.show)
        rounds = 50 if scale.is_full else 3
        for loads in ([2, 2, 2, 3, 3], [1, 2, 3, 5, 9], [0, 1, 2, 3, 14]):
            samples, moves = Samples(), 0
            for _ in range(rounds):
                load = self.loaded(loads)
                load.samples = samples
                seconds = 0
                while len(load.verdicts) < sum(loads):
                    self.assertGreater(load.finish_heads(1.0), 0, "work is left and nothing runs")
                    load.pass_time(0.9)
                    seconds += 1
                moves += load.moves
                self.assertEqual(set(load.verdicts.values()), {Verdict.PASSED})
                self.assertLessEqual(seconds, math.ceil(sum(loads) / 5) + 2, "of one second each, on five workers")
            label = f"{loads}, {moves / rounds:.0f} moves"
            table.add(label, len(samples.seconds), sum(samples.seconds), samples, unit="events")
            if max(loads) > math.ceil(sum(loads) / 5) + 2:
                self.assertGreater(moves, 0)

    def loaded(self, loads: list[int]) -> CoreLoad:
        """So many one-second tasks are leased to each worker; then every worker could run all of them."""
        load = CoreLoad(Limits(heartbeat_interval_s=math.inf, prefetch_s=1000.0))
        names = load.join(len(loads))
        for number, count in enumerate(loads):
            specs = [TaskSpec(TaskId(f"t{n}"), group=f"g{n}", expected_s=1.0, hedge=False) for n in range(count)]
            load.submit(f"run{number}", specs, ready=[names[number]])
        self.assertEqual([worker.lease_count for worker in load.state.cluster.workers.values()], loads)
        for number, count in enumerate(loads):
            for name in names:
                if count and name != names[number]:
                    load.apply(events.SuiteReady(name, RunId(f"run{number}"), ""))
        return load

    def test_05_benchmark_health_monitoring(self) -> None:
        """Ten to two hundred workers and beyond, a fifth of them silent: these are lost, the others never suspected."""
        table = Table("health monitoring")
        self.addCleanup(table.show)
        for count in (10, 50, 100, 200, 10_000) if scale.is_full else (10, 50, 100, 200):
            load = CoreLoad(Limits(heartbeat_interval_s=1.0))
            names = load.join(count)
            silent = set(names[::5])
            load.samples = Samples()
            raised: set[tuple[WorkerId, str]] = set()
            # Larger fleets beat at longer intervals, so it takes longer to be sure.
            for _ in range(40):
                if load.lost == silent:
                    break
                emitted = load.pass_time(load.heartbeat_interval_s)
                for name in names:
                    if name not in silent:
                        emitted += load.apply(events.WorkerHeartbeat(name))
                raised |= {(c.worker_id, str(c.cause)) for c in emitted if isinstance(c, commands.RaiseAlert)}
            table.add(
                f"{count:,} workers", len(load.samples.seconds), sum(load.samples.seconds), load.samples, unit="beats"
            )
            self.assertEqual(load.lost, silent)
            self.assertEqual({name for name, cause in raised if cause == "lost"}, silent)
            self.assertEqual({name for name, _ in raised}, silent)
            self.assertEqual(len(load.state.snapshot().workers), count - len(silent))

    def test_06_benchmark_concurrent_operations(self) -> None:
        """Fifty workers, a hundred tasks: submitting, assigning, balancing, monitoring and querying at once."""
        table = Table("concurrent operation")
        self.addCleanup(table.show)
        clients, per_run, rounds = 4, 25, 25 if scale.is_full else 1
        fleet = Fleet(Limits(heartbeat_interval_s=0.5, reconnect_grace_s=0.3))
        self.addCleanup(fleet.close)
        workers = SocketWorkers(fleet.url, read_token(fleet.token_file(Role.WORKER)), beat_every_s=0.1)
        self.addCleanup(workers.close)
        workers.join([f"w{number}" for number in range(50)], Samples())
        running, asking = Samples(), Samples()
        ended: list[dict[str, str]] = []
        troubles: list[BaseException] = []
        is_over = threading.Event()

        def submit() -> None:
            for _ in range(rounds):
                with running.one():
                    run = fleet.submit(*(command(f"t{number}", ("true",)) for number in range(per_run)))
                    ended.append(run.wait_for_end())
                run.leave()

        def ask() -> None:
            while not is_over.is_set():
                for path in ("/api/v1/status", "/api/v1/workers", "/api/v1/runs", "/api/v1/queue"):
                    with asking.one():
                        answer = fleet.get(path)
                    assert answer.status == 200, answer

        def kept(work: Callable[[], None]) -> Callable[[], None]:
            def call() -> None:
                try:
                    work()
                except BaseException as trouble:
                    troubles.append(trouble)

            return call

        started = time.perf_counter()
        threads = [threading.Thread(target=kept(submit)) for _ in range(clients)]
        asker = threading.Thread(target=kept(ask))
        for thread in (*threads, asker):
            thread.start()
        for thread in threads:
            thread.join()
        elapsed_s = time.perf_counter() - started
        is_over.set()
        asker.join()
        self.assertEqual(troubles, [])
        total = clients * rounds * per_run
        table.add(f"50 workers, {clients} clients", total, elapsed_s, running, unit="tasks")
        table.add("meanwhile over HTTP", len(asking.seconds), elapsed_s, asking, unit="requests")
        self.assertEqual(len(ended), clients * rounds)
        for verdicts in ended:
            self.assertEqual(verdicts, {f"t{number}": "passed" for number in range(per_run)})
        self.assertEqual(len(workers.executed), total, "no task was lost")
        self.assertEqual(len(fleet.snapshot().workers), 50)
        [(rows,)] = fleet.rows("SELECT count(*) FROM attempts WHERE is_final")
        self.assertEqual(rows, total)
        self.assertGreater(workers.beats, 50)


if __name__ == "__main__":
    raise SystemExit(run_file(__name__))
