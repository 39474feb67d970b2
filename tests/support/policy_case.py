"""A test case around one cluster that is driven event by event, with the time given by the test."""

from __future__ import annotations

import math
import unittest

from fleetest.core import events
from fleetest.core.entities import Task, Worker
from fleetest.core.model import Capabilities, Limits, RunId, TaskId, TaskSpec
from fleetest.testing.scripted_cluster import RUN, ScriptedCluster

SILENCE_IS_NO_SIGN = Limits(heartbeat_interval_s=math.inf)


class PolicyCase(unittest.TestCase):
    """The real core with the real policies: no sockets, no processes, no clock. Every invariant is checked on the way."""

    limits = SILENCE_IS_NO_SIGN

    def setUp(self) -> None:
        """A coordinator's state without workers, at time 0."""
        self.cluster = ScriptedCluster(self.limits)

    def tearDown(self) -> None:
        """Nothing outlives a test: there is nothing but memory."""
        del self.cluster

    # What the tests do -----------------------------------------------------------------------------------------

    def join(self, workers: dict[str, Capabilities], slots: int = 1) -> None:
        for name, capabilities in workers.items():
            self.cluster.join(name, slots, capabilities)

    def submit_prepared(self, *tasks: TaskSpec, run: str = RUN) -> None:
        """A run that every worker was ready for before its tasks were planned."""
        self.cluster.apply(events.RunSubmitted(RunId(run)))
        for worker in self.workers():
            self.cluster.ready(worker.worker_id, run=run)
        self.cluster.plan(*tasks, run=run)

    def join_and_prepare(self, name: str, capabilities: Capabilities | None = None, *, run: str = RUN) -> None:
        """A worker that comes while the run is under way."""
        self.cluster.join(name, capabilities=capabilities)
        self.cluster.ready(name, run=run)

    def start_running(self) -> None:
        """The first lease of every slot begins."""
        for worker in self.workers():
            for slot in worker.slots:
                head = slot.head()
                if head is not None and not head.is_started:
                    self.cluster.start(head.task.task_id)

    def work_off(self, duration_s: float = 1.0) -> list[tuple[str, str]]:
        """Let everything that is leased run and pass, one after the other; (worker, task) in the order of starting."""
        order: list[tuple[str, str]] = []
        while True:
            heads = [
                (worker.worker_id, head.task.task_id)
                for worker in self.workers()
                for head in [slot.head() for slot in worker.slots]
                if head is not None
            ]
            if not heads:
                return order
            self.cluster.now += duration_s
            for worker_id, name in heads:
                order.append((worker_id, name))
                self.assertLess(len(order), 10_000, "this never ends")
                self.cluster.finish(name, duration_s=duration_s)

    # What the tests look at ------------------------------------------------------------------------------------

    def workers(self) -> list[Worker]:
        return list(self.cluster.state.cluster.workers.values())

    def worker(self, name: str) -> Worker:
        return next(worker for worker in self.workers() if worker.worker_id == name)

    def task(self, name: str, run: str = RUN) -> Task:
        runs = self.cluster.state.cluster
        found = runs.runs.get(RunId(run)) or runs.finished_runs[RunId(run)]
        return found.tasks[TaskId(name)]

    def running(self) -> dict[str, str]:
        """Task at the head of each worker's slots: ``{"gpu-1": "w2"}``."""
        return {
            running.task_id: worker.worker_id
            for worker in self.cluster.state.snapshot().workers
            for running in worker.running
        }

    def who_can_run(self, spec: TaskSpec, workers: dict[str, Capabilities]) -> set[str]:
        """Names of those that get the task when they are alone with it."""
        found = set()
        for name, capabilities in workers.items():
            cluster = ScriptedCluster(self.limits)
            cluster.join(name, capabilities=capabilities)
            cluster.submit(spec)
            if spec.task_id in cluster.leases:
                found.add(name)
        return found
