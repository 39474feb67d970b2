"""The coordinator's shell over links in memory: real state and policies, workers and clients that speak the protocol."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

import pytest
from msgspec.structs import replace as replaced

from fleetest import suite_collection
from fleetest.coordinator import Coordinator
from fleetest.core.cluster_state import ClusterState
from fleetest.core.model import AttemptResult, Capabilities, LeaseId, Limits, RunId, TaskId, TaskSpec, Verdict
from fleetest.core.suite_planning import fingerprint_of
from fleetest.errors import LinkClosed
from fleetest.health_monitor import HealthMonitor
from fleetest.load_balancer import LoadBalancer
from fleetest.storage import records
from fleetest.task_scheduler import TaskScheduler
from fleetest.testing.conformance import plan_of
from fleetest.transport.memory import memory_link_pair
from fleetest.wire import messages as wire

RUN = RunId("0123456789abcdef" * 2)
TIMEOUT_S = 10.0
"""Only a bound for a test that hangs."""


class RecordedHistory:
    """Implements HistorySink."""

    def __init__(
        self, expected: Mapping[str, float] | None = None, slowness: Mapping[str, float] | None = None
    ) -> None:
        self.rows: list[records.Record] = []
        self.expected = expected or {}
        self.slow = slowness or {}

    def record(self, *rows: records.Record) -> None:
        self.rows += rows

    def expected_durations(self, suite: str, wait_s: float) -> Mapping[str, float]:
        return self.expected

    def slowness(self) -> Mapping[str, float]:
        return self.slow

    def close(self) -> list[str]:
        return []

    def of(self, kind: type) -> list:
        return [row for row in self.rows if isinstance(row, kind)]


class Peer:
    """The far end of a link; what came and was not asked for yet waits in ``pending``."""

    def __init__(self, link) -> None:
        self.link = link
        self.pending: list = []

    def say(self, *messages) -> None:
        for message in messages:
            self.link.send(message)

    async def next(self, kind: type):
        """The next message of this kind; what came before it is passed over."""
        while True:
            while self.pending:
                message = self.pending.pop(0)
                if isinstance(message, kind):
                    return message
            self.pending += await self.link.receive()

    async def until_closed(self) -> LinkClosed:
        try:
            while True:
                self.pending += await self.link.receive()
        except LinkClosed as closed:
            return closed


class Fleet:
    def __init__(self, history: RecordedHistory | None = None, **settings) -> None:
        self.history = history or RecordedHistory()
        limits = Limits(heartbeat_interval_s=float("inf"))
        self.state = ClusterState(TaskScheduler(), LoadBalancer(), HealthMonitor(), limits=limits, epoch=3)
        self.coordinator = Coordinator(self.state, history=self.history, **settings)
        self.tasks: list[asyncio.Task[None]] = []

    async def worker(self, name: str = "w1", session: str = "", slots: int = 1, **attributes: str) -> Peer:
        far, near = memory_link_pair()
        self.tasks.append(asyncio.ensure_future(self.coordinator.serve_worker(near)))
        peer = Peer(far)
        capabilities = Capabilities({key: (value,) for key, value in attributes.items()})
        session = session or f"session of {name}"
        peer.say(hello(name=name, session=session, slots=slots, capabilities=capabilities))
        peer.welcome = await peer.next(wire.Welcome)
        return peer

    async def client(self) -> Peer:
        far, near = memory_link_pair()
        self.tasks.append(asyncio.ensure_future(self.coordinator.serve_client(near)))
        peer = Peer(far)
        peer.say(wire.ClientHello(version=wire.PROTOCOL_VERSION))
        await peer.next(wire.Welcome)
        return peer


def hello(**changes) -> wire.WorkerHello:
    fields = {
        "version": wire.PROTOCOL_VERSION,
        "name": "w1",
        "session": "s",
        "slots": 1,
        "capabilities": Capabilities(),
    }
    return wire.WorkerHello(**(fields | changes))


def submission(*suites: wire.Suite) -> wire.SubmitRun:
    return wire.SubmitRun(run_id=RUN, suites=suites or (wire.PytestSuite(directory="/suite"),), title="pytest")


def collection(count: int) -> tuple[wire.SuiteCollected, wire.SuitePlan]:
    plan = plan_of(count)
    fingerprint = fingerprint_of(task.task_id for task in plan.tasks)
    plan = wire.SuitePlan(run_id=RUN, suite="", fingerprint=fingerprint, tasks=plan.tasks, items=plan.items)
    return wire.SuiteCollected(run_id=RUN, suite="", fingerprint=fingerprint, count=count), plan


async def planned_by(worker: Peer, count: int) -> wire.SuitePlan:
    """So many tests are collected and planned by this worker."""
    collected, plan = collection(count)
    worker.say(collected)
    await worker.next(wire.SendPlan)
    worker.say(plan)
    return plan


def on_fleet(test: Callable[..., Awaitable[None]]) -> Callable[[], None]:
    """Run the test on a loop with a fleet; afterwards the coordinator is closed and must not have failed."""

    def run() -> None:
        async def main() -> None:
            fleet = Fleet()
            try:
                await asyncio.wait_for(test(fleet), TIMEOUT_S)
            finally:
                await fleet.coordinator.close()
                await asyncio.gather(*fleet.tasks)
            assert fleet.coordinator.failure is None

        asyncio.run(main())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


async def execute(worker: Peer, count: int, verdict: Verdict = Verdict.PASSED) -> list:
    """Answer leases as they come until ``count`` are done; returns them."""
    done: list = []
    while len(done) < count:
        granted = await worker.next(wire.GrantLeases)
        done += granted.leases
        worker.say(wire.AttemptsFinished(results=[AttemptResult(lease.lease_id, verdict) for lease in granted.leases]))
    return done


async def results_of(client: Peer) -> tuple[list, wire.RunFinished]:
    outcomes: list = []
    while True:
        message = await client.next(wire.TasksFinished | wire.RunFinished)
        if isinstance(message, wire.RunFinished):
            return outcomes, message
        outcomes += message.outcomes


@on_fleet
async def test_a_run_from_submission_to_the_last_verdict(fleet):
    worker, client = await fleet.worker(slots=2), await fleet.client()
    assert worker.welcome.worker_id == "w1"
    assert worker.welcome.epoch == 3
    client.say(submission())
    accepted = await client.next(wire.RunAccepted)
    assert (accepted.workers, accepted.slots) == (("w1",), 2)
    prepare = await worker.next(wire.PrepareRun)
    assert prepare.suites == submission().suites
    collected, plan = collection(20)
    worker.say(collected)
    assert await worker.next(wire.SendPlan) == wire.SendPlan(run_id=RUN, suite="")
    worker.say(plan)
    assert await client.next(wire.SuitePlan) == plan
    await execute(worker, 20)
    outcomes, finished = await results_of(client)
    assert sorted(outcome.task_id for outcome in outcomes) == sorted(task.task_id for task in plan.tasks)
    assert {(outcome.worker, outcome.is_final) for outcome in outcomes} == {("w1", True)}
    assert {outcome.runner for outcome in outcomes} <= {"gw0", "gw1"}
    assert finished.counts == {"passed": 20}
    assert await worker.next(wire.EndRun) == wire.EndRun(run_id=RUN)
    assert [row.title for row in fleet.history.of(records.RunStarted)] == ["pytest"]
    assert [len(row.tasks) for row in fleet.history.of(records.TasksPlanned)] == [20]
    assert len(fleet.history.of(records.AttemptRecorded)) == 20
    (ended,) = fleet.history.of(records.RunEnded)
    assert (ended.outcome, dict(ended.counts)) == ("finished", {"passed": 20})
    assert [row.worker for row in fleet.history.of(records.WorkerSeen)] == ["w1"]


@on_fleet
async def test_a_second_worker_with_the_same_collection_just_joins_in(fleet):
    first, client = await fleet.worker("w1"), await fleet.client()
    second = await fleet.worker("w2")
    client.say(submission())
    collected, plan = collection(40)
    prepared = [await first.next(wire.PrepareRun), await second.next(wire.PrepareRun)]
    assert sorted(message.first_runner for message in prepared) == [0, 1]
    first.say(collected)
    await first.next(wire.SendPlan)
    second.say(collected)
    first.say(plan)
    serving = [asyncio.ensure_future(execute(worker, 40)) for worker in (first, second)]
    outcomes, finished = await results_of(client)
    for task in serving:
        task.cancel()
    assert finished.counts == {"passed": 40}
    assert {(outcome.worker, outcome.runner) for outcome in outcomes} == {("w1", "gw0"), ("w2", "gw1")}


@on_fleet
async def test_what_another_collection_lacks_is_not_given_to_it(fleet):
    first, client = await fleet.worker("w1"), await fleet.client()
    second = await fleet.worker("w2")
    client.say(submission())
    plan = await planned_by(first, 2)
    await client.next(wire.SuitePlan)
    fewer = wire.SuitePlan(run_id=RUN, suite="", fingerprint="other", tasks=plan.tasks[:1], items=plan.items[:1])
    second.say(wire.SuiteCollected(run_id=RUN, suite="", fingerprint="other", count=1))
    await second.next(wire.SendPlan)
    first.say(wire.Goodbye())  # Only the second worker is left, without the second task.
    second.say(fewer)
    await execute(second, 1)
    outcomes, finished = await results_of(client)
    assert finished.counts == {"passed": 1, "not_run": 1}
    (lacking,) = [outcome for outcome in outcomes if outcome.verdict is Verdict.NOT_RUN]
    assert lacking.task_id == plan.tasks[1].task_id
    assert (lacking.worker, lacking.runner) == ("", "")


@on_fleet
async def test_if_the_asked_worker_dies_another_one_is_asked(fleet):
    first, client = await fleet.worker("w1"), await fleet.client()
    second = await fleet.worker("w2")
    client.say(submission())
    collected, plan = collection(3)
    first.say(collected)
    await first.next(wire.SendPlan)
    second.say(collected)
    await first.link.close("killed")
    await second.next(wire.SendPlan)
    second.say(plan)
    await execute(second, 3)
    _, finished = await results_of(client)
    assert finished.counts == {"passed": 3}


@on_fleet
async def test_only_the_planning_workers_reports_reach_the_client(fleet):
    first, client = await fleet.worker("w1"), await fleet.client()
    second = await fleet.worker("w2")
    client.say(submission())
    collected, plan = collection(1)
    second.say(wire.CollectionReports(run_id=RUN, suite="", reports=(b"of the second",)))
    first.say(wire.CollectionReports(run_id=RUN, suite="", reports=(b"of the first",)), collected)
    await first.next(wire.SendPlan)
    first.say(plan)
    told = await client.next(wire.CollectionReports | wire.SuitePlan)
    assert told == wire.CollectionReports(run_id=RUN, suite="", reports=(b"of the first",))
    assert isinstance(await client.next(wire.CollectionReports | wire.SuitePlan), wire.SuitePlan)
    second.say(wire.CollectionReports(run_id=RUN, suite="", reports=(b"late",)))
    first.say(wire.CollectionReports(run_id=RUN, suite="", warnings=(b"late",)))
    assert (await client.next(wire.CollectionReports)).warnings == (b"late",)


@on_fleet
async def test_a_failed_collection_is_told_once_and_ends_the_run(fleet):
    first, client = await fleet.worker("w1"), await fleet.client()
    second = await fleet.worker("w2")
    client.say(submission())
    failure = wire.SuiteFailed(run_id=RUN, suite="", kind="collection_errors", text="1 error", exit_status=2)
    for worker in (first, second):
        await worker.next(wire.PrepareRun)
        worker.say(wire.CollectionReports(run_id=RUN, suite="", reports=(b"error",)), failure)
    told = [await client.next(wire.CollectionReports | wire.SuiteFailed | wire.RunFinished) for _ in range(3)]
    assert told == [
        wire.CollectionReports(run_id=RUN, suite="", reports=(b"error",)),
        failure,
        wire.RunFinished(run_id=RUN, counts={}),
    ]


@on_fleet
async def test_a_suite_that_one_machine_does_not_see_runs_on_the_other(fleet):
    first, client = await fleet.worker("w1"), await fleet.client()
    second = await fleet.worker("w2")
    client.say(submission())
    first.say(wire.SuiteFailed(run_id=RUN, suite="", kind="unavailable", text="no such directory"))
    await planned_by(second, 1)
    told = await client.next(wire.RunNotice)
    assert told.text == "worker w1 cannot run it: no such directory (the others go on without it)"
    await execute(second, 1)
    _, finished = await results_of(client)
    assert finished.counts == {"passed": 1}


NOT_HERE = wire.SuiteFailed(
    run_id=RUN, suite="", kind="collection_errors", text="1 error", exit_status=2, import_error="ImportError: gpu"
)


@on_fleet
async def test_what_the_first_machine_cannot_import_runs_on_the_other(fleet):
    first, client = await fleet.worker("w1"), await fleet.client()
    second = await fleet.worker("w2")
    client.say(submission())
    first.say(wire.CollectionReports(run_id=RUN, suite="", reports=(b"error",)), NOT_HERE)
    await planned_by(second, 1)
    told = await client.next(wire.CollectionReports | wire.SuiteFailed | wire.RunNotice)
    assert told.text == "worker w1 cannot run it: ImportError: gpu (the others go on without it)"
    await execute(second, 1)
    _, finished = await results_of(client)
    assert finished.counts == {"passed": 1}


@on_fleet
async def test_what_no_machine_can_import_ends_the_suite_with_what_pytest_said_of_it(fleet):
    first, client = await fleet.worker("w1"), await fleet.client()
    second, third = await fleet.worker("w2"), await fleet.worker("w3")
    other = wire.PytestSuite(name="other", directory="/suite")
    client.say(submission(wire.PytestSuite(directory="/suite"), other))
    unavailable = wire.SuiteFailed(run_id=RUN, suite="", kind="unavailable", text="no such directory")
    first.say(unavailable)
    for worker in (second, third):
        await worker.next(wire.PrepareRun)
        worker.say(wire.CollectionReports(run_id=RUN, suite="", reports=(b"error",)), NOT_HERE)
    told = [await client.next(wire.CollectionReports | wire.SuiteFailed | wire.RunFinished) for _ in range(2)]
    assert told == [wire.CollectionReports(run_id=RUN, suite="", reports=(b"error",)), NOT_HERE], "at once"
    assert RUN in fleet.coordinator.run_facts, "the other suite goes on"


@on_fleet
async def test_of_what_no_machine_can_import_the_shortest_list_is_told(fleet):
    client = await fleet.client()
    workers = [await fleet.worker(f"w{number}") for number in range(5)]
    client.say(submission())
    unable = [("x", "y"), ("x",), ("y",), ()]
    failures = [replaced(NOT_HERE, text=f"of {number}", unimported=nodes) for number, nodes in enumerate(unable)]
    failures.insert(0, replaced(NOT_HERE, kind="unavailable", text="no such directory", import_error=""))
    for number, (worker, failure) in enumerate(zip(workers, failures, strict=True)):
        worker.say(wire.CollectionReports(run_id=RUN, suite="", reports=(b"%d" % number,)), failure)
        if number < 4:
            worker.say(wire.RunNotice(run_id=RUN, text=f"{number} has answered"))
            await client.next(wire.RunNotice)
    told = [await client.next(wire.CollectionReports | wire.SuiteFailed | wire.RunFinished) for _ in range(3)]
    assert told == [
        wire.CollectionReports(run_id=RUN, suite="", reports=(b"2",)),
        failures[2],
        wire.RunFinished(run_id=RUN, counts={}),
    ]


def error_of(node_id: str, worker: str) -> bytes:
    return json.dumps({"nodeid": node_id, "outcome": "failed", "longrepr": f"on {worker}"}).encode()


class Collection:
    """Of tests in modules, one each, without those that the worker cannot import."""

    def __init__(self, worker: str, modules: str, unimported: str = "") -> None:
        ids = [f"{module}.py::test" for module in modules]
        fingerprint = fingerprint_of(map(TaskId, ids))
        nodes = tuple(f"{module}.py" for module in unimported)
        self.answer = wire.SuiteCollected(
            run_id=RUN, suite="", fingerprint=fingerprint, count=len(ids), unimported=nodes
        )
        reports = tuple(error_of(node, worker) for node in nodes)
        self.reports = wire.CollectionReports(run_id=RUN, suite="", reports=reports, warnings=(worker.encode(),))
        self.plan = wire.SuitePlan(
            run_id=RUN,
            suite="",
            fingerprint=fingerprint,
            tasks=[TaskSpec(TaskId(test), group=test.partition("::")[0]) for test in ids],
            items=[wire.ItemInfo(test, test.partition("::")[0], 1, "test", ()) for test in ids],
            deselected=tuple(f"{module}.py::left_out" for module in modules),
        )


@on_fleet
async def test_one_machine_without_import_errors_decides_whoever_answers_first(fleet):
    first, client = await fleet.worker("w1"), await fleet.client()
    second = await fleet.worker("w2")
    client.say(submission())
    partial, whole = Collection("w1", "a", unimported="b"), Collection("w2", "ab")
    first.say(partial.answer)
    second.say(whole.answer)
    await second.next(wire.SendPlan)
    second.say(whole.reports, whole.plan)
    told = [await client.next(wire.CollectionReports | wire.SuitePlan) for _ in range(2)]
    assert told == [whole.reports, whole.plan]
    await first.next(wire.SendPlan)
    first.say(partial.reports, partial.plan)
    serving = [asyncio.ensure_future(execute(worker, 2)) for worker in (first, second)]
    _, finished = await results_of(client)
    for task in serving:
        task.cancel()
    assert finished.counts == {"passed": 2}


@on_fleet
async def test_what_each_machine_can_import_is_run_there_and_what_none_can_is_told_once(fleet):
    client = await fleet.client()
    collections = {
        "w1": Collection("w1", "a", unimported="bcd"),
        "w2": Collection("w2", "ab", unimported="cd"),
        "w3": Collection("w3", "ac", unimported="bd"),
    }
    workers = {name: await fleet.worker(name) for name in collections}
    client.say(submission())
    for name, worker in workers.items():
        worker.say(collections[name].answer)
    for name in ("w2", "w3"):
        await workers[name].next(wire.SendPlan)
        workers[name].say(collections[name].reports, collections[name].plan)
    reports = await client.next(wire.CollectionReports)
    assert reports.reports == (error_of("d.py", "w2"),)
    assert reports.warnings == (b"w2",)
    plan = await client.next(wire.CollectionReports | wire.SuitePlan)
    assert [item.node_id for item in plan.items] == ["a.py::test", "b.py::test", "c.py::test"]
    assert plan.deselected == ("a.py::left_out", "b.py::left_out", "c.py::left_out")
    serving = [asyncio.ensure_future(execute(workers[name], 3)) for name in ("w2", "w3")]
    outcomes, finished = await results_of(client)
    for task in serving:
        task.cancel()
    assert finished.counts == {"passed": 3}
    where = {outcome.task_id: outcome.worker for outcome in outcomes}
    assert (where["b.py::test"], where["c.py::test"]) == ("w2", "w3")


@on_fleet
async def test_what_is_told_of_a_plan_of_several_machines_is_not_told_again_when_one_comes_back(fleet):
    client = await fleet.client()
    collections = [Collection("w1", "a", unimported="bd"), Collection("w2", "b", unimported="ad")]
    workers = [await fleet.worker(name) for name in ("w1", "w2")]
    client.say(submission())
    for worker, each in zip(workers, collections, strict=True):
        worker.say(each.answer)
    for worker, each in zip(workers, collections, strict=True):
        await worker.next(wire.SendPlan)
        worker.say(each.reports, each.plan)
    await client.next(wire.SuitePlan)
    await execute(workers[0], 1)
    again = await fleet.worker("w1")
    again.say(collections[0].answer)
    await again.next(wire.SendPlan)
    again.say(collections[0].reports, collections[0].plan)
    await execute(workers[1], 1)
    last = await client.next(wire.CollectionReports | wire.RunFinished)
    assert last == wire.RunFinished(run_id=RUN, counts={"passed": 2})


@on_fleet
async def test_a_machine_that_is_lost_is_not_waited_for(fleet):
    first, client = await fleet.worker("w1"), await fleet.client()
    second = await fleet.worker("w2")
    client.say(submission())
    partial = Collection("w1", "a", unimported="b")
    first.say(partial.answer)
    await second.next(wire.PrepareRun)
    await second.link.close("killed")
    await first.next(wire.SendPlan)
    first.say(partial.reports, partial.plan)
    assert await client.next(wire.CollectionReports) == partial.reports
    await execute(first, 1)
    _, finished = await results_of(client)
    assert finished.counts == {"passed": 1}


def test_a_machine_that_does_not_answer_is_waited_for_within_bounds():
    @on_fleet
    async def run(fleet):
        first, client = await fleet.worker("w1"), await fleet.client()
        await fleet.worker("w2")
        client.say(submission())
        partial = Collection("w1", "a", unimported="b")
        first.say(partial.answer)
        await first.next(wire.SendPlan)
        first.say(partial.plan)
        await execute(first, 1)
        _, finished = await results_of(client)
        assert finished.counts == {"passed": 1}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suite_collection, "COLLECTION_WAIT_S", 0.0)
        run()


@on_fleet
async def test_who_comes_back_before_it_has_sent_its_plan_is_asked_once(fleet):
    first, client = await fleet.worker("w1"), await fleet.client()
    client.say(submission())
    collected, plan = collection(1)
    first.say(collected)
    await first.next(wire.SendPlan)
    again = await fleet.worker("w1")
    await again.next(wire.SendPlan)
    again.say(collected, plan)
    granted = await again.next(wire.SendPlan | wire.GrantLeases)
    again.say(wire.AttemptsFinished(results=[AttemptResult(granted.leases[0].lease_id, Verdict.PASSED)]))
    _, finished = await results_of(client)
    assert finished.counts == {"passed": 1}


@on_fleet
async def test_machines_that_take_no_part_are_named_once_and_not_without_end(fleet):
    first, client = await fleet.worker("w1"), await fleet.client()
    others = [await fleet.worker(f"x{number}") for number in range(7)]
    client.say(submission())
    await planned_by(first, 1)
    for number, other in enumerate(others):
        text = f"worker x{number} does not see /suite"
        failure = wire.SuiteFailed(run_id=RUN, suite="", kind="unavailable", text=text)
        other.say(failure, failure)
    told = [(await client.next(wire.RunNotice)).text for _ in range(5)]
    assert told[0] == "worker x0 does not see /suite (the others go on without it)"
    assert told[4].endswith("(the others go on without it, and further ones like it are not named)")
    await execute(first, 1)
    last = await client.next(wire.RunNotice | wire.RunFinished)
    assert last == wire.RunFinished(run_id=RUN, counts={"passed": 1})


@on_fleet
async def test_why_a_suite_has_nothing_to_run_is_said(fleet):
    worker, client = await fleet.worker(), await fleet.client()
    client.say(submission())
    collected, plan = collection(0)
    worker.say(collected)
    await worker.next(wire.SendPlan)
    run = fleet.coordinator.run_facts[RUN]
    worker.say(
        wire.SuitePlan(run_id=RUN, suite="", fingerprint=plan.fingerprint, tasks=[], items=[], deselected=("a",))
    )
    await client.next(wire.RunFinished)
    assert run.notices == ("the suite has no test to run (1 deselected)",)


@on_fleet
async def test_a_suite_that_no_machine_sees_ends_with_the_reason(fleet):
    first, client = await fleet.worker("w1"), await fleet.client()
    second = await fleet.worker("w2")
    client.say(submission())
    failure = wire.SuiteFailed(run_id=RUN, suite="", kind="unavailable", text="no such directory")
    first.say(failure)
    second.say(failure)
    assert await client.next(wire.SuiteFailed) == failure
    assert (await client.next(wire.RunFinished)).counts == {}


@on_fleet
async def test_a_plan_with_an_id_twice_ends_the_suite_and_not_the_coordinator(fleet):
    worker, client = await fleet.worker(), await fleet.client()
    client.say(submission())
    collected, plan = collection(1)
    worker.say(collected)
    await worker.next(wire.SendPlan)
    worker.say(wire.SuitePlan(run_id=RUN, suite="", fingerprint="f", tasks=plan.tasks * 2, items=plan.items * 2))
    failure = await client.next(wire.SuiteFailed)
    assert failure.kind == "internal_error"
    assert "an id occurs twice" in failure.text


@on_fleet
async def test_commands_are_planned_with_the_submission(fleet):
    worker, client = await fleet.worker(), await fleet.client()
    names = ("build", "check")
    suite = wire.CommandSuite(
        name="c",
        commands=tuple(wire.CommandSpec(name=name, argv=("true",), directory="/") for name in names),
        tasks=tuple(TaskSpec(TaskId(name), suite="c") for name in names),
    )
    client.say(submission(suite))
    await worker.next(wire.PrepareRun)
    worker.say(wire.SuiteCollected(run_id=RUN, suite="c", fingerprint=fingerprint_of(map(TaskId, names)), count=2))
    leases = await execute(worker, 2)
    assert [lease.task_id for lease in leases] == list(names)
    _, finished = await results_of(client)
    assert finished.counts == {"passed": 2}


@on_fleet
async def test_a_test_for_each_value_is_planned_once_per_value_and_known_by_one_id_to_workers(fleet):
    first, client = await fleet.worker("w1", rack="a"), await fleet.client()
    second = await fleet.worker("w2", rack="b")
    client.say(submission())
    collected, plan = collection(2)
    plan = wire.SuitePlan(
        run_id=RUN,
        suite="",
        fingerprint=plan.fingerprint,
        tasks=[replace(plan.tasks[0], each="rack"), plan.tasks[1]],
        items=plan.items,
    )
    ids = [task.task_id for task in plan.tasks]
    first.say(collected)
    await first.next(wire.SendPlan)
    first.say(plan)
    planned = await client.next(wire.SuitePlan)
    assert [task.task_id for task in planned.tasks] == [f"{ids[0]} @ rack=a", f"{ids[0]} @ rack=b", ids[1]]
    assert planned.items == [plan.items[0], plan.items[0], plan.items[1]]
    # The second worker did not collect the other test, but it has the one that is for its value.
    second.say(wire.SuiteCollected(run_id=RUN, suite="", fingerprint="other", count=1))
    await second.next(wire.SendPlan)
    second.say(wire.SuitePlan(run_id=RUN, suite="", fingerprint="o", tasks=plan.tasks[:1], items=plan.items[:1]))
    (lease,) = await execute(second, 1)
    assert (lease.task_id, lease.variant, lease.base_id) == (f"{ids[0]} @ rack=b", "rack=b", ids[0])
    assert {lease.base_id for lease in await execute(first, 2)} == set(ids)
    outcomes, finished = await results_of(client)
    assert finished.counts == {"passed": 3}
    assert {outcome.task_id: outcome.worker for outcome in outcomes} == {
        f"{ids[0]} @ rack=a": "w1",
        f"{ids[0]} @ rack=b": "w2",
        ids[1]: "w1",
    }
    (row,) = fleet.history.of(records.TasksPlanned)
    assert [task[0] for task in row.tasks] == [task.task_id for task in planned.tasks]


@on_fleet
async def test_what_a_worker_lacks_it_lacks_in_every_variant(fleet):
    first, client = await fleet.worker("w1", rack="a"), await fleet.client()
    second = await fleet.worker("w2", rack="b")
    client.say(submission())
    collected, plan = collection(2)
    tasks = [replace(plan.tasks[0], each="rack"), plan.tasks[1]]
    first.say(collected)
    await first.next(wire.SendPlan)
    fingerprint = plan.fingerprint
    first.say(wire.SuitePlan(run_id=RUN, suite="", fingerprint=fingerprint, tasks=tasks, items=plan.items))
    await client.next(wire.SuitePlan)
    second.say(wire.SuiteCollected(run_id=RUN, suite="", fingerprint="other", count=1))
    await second.next(wire.SendPlan)
    second.say(wire.SuitePlan(run_id=RUN, suite="", fingerprint="o", tasks=tasks[1:], items=plan.items[1:]))
    await execute(first, 2)
    first.say(wire.Goodbye())
    outcomes, finished = await results_of(client)
    assert finished.counts == {"passed": 2, "not_run": 1}
    (lacking,) = [outcome for outcome in outcomes if outcome.verdict is Verdict.NOT_RUN]
    assert (lacking.task_id, lacking.reason) == (f"{plan.tasks[0].task_id} @ rack=b", "not collectable")


@on_fleet
async def test_commands_for_each_value_are_planned_when_there_is_a_worker(fleet):
    client = await fleet.client()
    suite = wire.CommandSuite(
        name="c",
        commands=(wire.CommandSpec(name="check", argv=("true",), directory="/"),),
        tasks=(TaskSpec(TaskId("check"), suite="c", each="rack"),),
    )
    client.say(submission(suite))
    await client.next(wire.RunAccepted)
    worker = await fleet.worker("w1", rack="a")
    planned = await client.next(wire.SuitePlan)
    assert [task.task_id for task in planned.tasks] == ["check @ rack=a"]
    await worker.next(wire.PrepareRun)
    fingerprint = fingerprint_of([TaskId("check")])
    worker.say(wire.SuiteCollected(run_id=RUN, suite="c", fingerprint=fingerprint, count=1))
    (lease,) = await execute(worker, 1)
    assert (lease.task_id, lease.base_id) == ("check @ rack=a", "check")
    _, finished = await results_of(client)
    assert finished.counts == {"passed": 1}


@on_fleet
async def test_notices_are_told_once_and_output_as_often_as_it_comes(fleet):
    worker, client = await fleet.worker(), await fleet.client()
    client.say(submission())
    notice = wire.RunNotice(run_id=RUN, text="spawned, because")
    output = wire.RunOutput(run_id=RUN, stream="stdout", text="x")
    worker.say(notice, notice, output, output, wire.RunNotice(run_id=RUN, text="last"))
    told = [await client.next(wire.RunNotice | wire.RunOutput) for _ in range(4)]
    assert told == [notice, output, output, wire.RunNotice(run_id=RUN, text="last")]


@on_fleet
async def test_pytest_exit_is_told_and_nothing_more_starts(fleet):
    worker, client = await fleet.worker(), await fleet.client()
    client.say(submission())
    await planned_by(worker, 3)
    granted = await worker.next(wire.GrantLeases)
    request = wire.ExitRequested(run_id=RUN, kind="exit", reason="enough", exit_status=7)
    worker.say(request, request)
    worker.say(wire.LeasesReturned(lease_ids=tuple(lease.lease_id for lease in granted.leases)))
    assert await client.next(wire.ExitRequested) == request
    outcomes, finished = await results_of(client)
    assert finished.counts == {"not_run": 3}
    assert {outcome.reason for outcome in outcomes} == {"enough"}


@on_fleet
async def test_expected_durations_reach_the_plan(fleet):
    collected, plan = collection(2)
    fleet.history.expected = {plan.tasks[0].task_id: 2.5, "gone": 1.0}
    worker, client = await fleet.worker(), await fleet.client()
    client.say(submission())
    worker.say(collected)
    await worker.next(wire.SendPlan)
    worker.say(plan)
    await client.next(wire.SuitePlan)
    known = fleet.state.cluster.runs[RUN].tasks
    assert [known[task.task_id].spec.expected_s for task in plan.tasks] == [2.5, None]


@on_fleet
async def test_what_past_runs_say_of_machines_is_known_before_the_first_grant(fleet):
    fleet.history.expected, fleet.history.slow = {"t": 1.0}, {"slow": 2.0}
    client = await fleet.client()
    client.say(submission())
    await client.next(wire.RunAccepted)
    await fleet.worker("slow")
    await fleet.worker("other")
    cluster = fleet.state.cluster
    assert {name: cluster.balancing.speed(worker) for name, worker in cluster.workers.items()} == {
        "slow": pytest.approx(0.5),
        "other": 1.0,
    }


@on_fleet
async def test_what_past_runs_say_may_be_loaded_while_the_suite_is_collected(fleet):
    fleet.history.slow = {"w1": 2.0}
    worker, client = await fleet.worker(), await fleet.client()
    collected, plan = collection(1)
    client.say(submission())
    worker.say(collected)
    await worker.next(wire.SendPlan)
    worker.say(plan)
    await worker.next(wire.GrantLeases)
    (known,) = fleet.state.cluster.workers.values()
    assert fleet.state.cluster.balancing.speed(known) == pytest.approx(0.5)


@on_fleet
async def test_cancelling_ends_what_waits(fleet):
    client = await fleet.client()
    worker = await fleet.worker()
    client.say(submission())
    await planned_by(worker, 2)
    granted = await worker.next(wire.GrantLeases)
    client.say(wire.CancelRun(run_id=RUN, reason="Ctrl-C", kill=True))
    assert (await worker.next(wire.KillLeases)).reason == "Ctrl-C"
    worker.say(wire.AttemptsFinished(results=[AttemptResult(x.lease_id, Verdict.CANCELLED) for x in granted.leases]))
    _, finished = await results_of(client)
    assert finished.counts == {"cancelled": 2}
    assert fleet.history.of(records.RunEnded)[0].outcome == "cancelled"


@pytest.mark.parametrize("says_goodbye", [True, False])
def test_a_client_that_goes_away_ends_its_run_as_abandoned(says_goodbye):
    async def main() -> None:
        fleet = Fleet(client_grace_s=0.0)
        worker, client = await fleet.worker(), await fleet.client()
        client.say(submission())
        await planned_by(worker, 1)
        granted = await worker.next(wire.GrantLeases)
        if says_goodbye:
            client.say(wire.Goodbye())
        else:
            await client.link.close("terminal closed")
        killed = await worker.next(wire.KillLeases)
        assert killed.lease_ids == tuple(lease.lease_id for lease in granted.leases)
        worker.say(wire.AttemptsFinished(results=[AttemptResult(killed.lease_ids[0], Verdict.CANCELLED)]))
        await worker.next(wire.EndRun)
        (ended,) = fleet.history.of(records.RunEnded)
        assert (ended.outcome, dict(ended.counts)) == ("abandoned", {"cancelled": 1})
        await fleet.coordinator.close()
        await asyncio.gather(*fleet.tasks)

    asyncio.run(asyncio.wait_for(main(), TIMEOUT_S))


@on_fleet
async def test_two_live_workers_of_one_name_get_two_names(fleet):
    first, second = await fleet.worker("box", "s1"), await fleet.worker("box", "s2")
    assert (first.welcome.worker_id, second.welcome.worker_id) == ("box", "box-2")
    await first.link.close("rebooted")
    third = await fleet.worker("box", "s3")
    assert third.welcome.worker_id == "box"


@on_fleet
async def test_a_session_that_comes_back_goes_on_with_what_it_had(fleet):
    client = await fleet.client()
    worker = await fleet.worker("w1", "s1")
    client.say(submission())
    await planned_by(worker, 2)
    granted = await worker.next(wire.GrantLeases)
    leases = {lease.lease_id: lease for lease in granted.leases}
    # The newer link comes before anybody noticed that the older one is dead.
    far, near = memory_link_pair()
    fleet.tasks.append(asyncio.ensure_future(fleet.coordinator.serve_worker(near)))
    again = Peer(far)
    again.say(hello(name="w1", session="s1", held_leases=tuple(leases)))
    assert (await again.next(wire.Welcome)).worker_id == "w1"
    assert "replaced by a newer link" in (await worker.until_closed()).reason
    again.say(wire.AttemptsFinished(results=[AttemptResult(lease_id, Verdict.PASSED) for lease_id in leases]))
    if len(leases) < 2:
        await execute(again, 2 - len(leases))
    outcomes, finished = await results_of(client)
    assert finished.counts == {"passed": 2}
    assert {outcome.attempt for outcome in outcomes} == {1}


@on_fleet
async def test_a_session_that_comes_back_need_not_say_again_what_it_collected(fleet):
    client = await fleet.client()
    worker = await fleet.worker("w1", "s1")
    client.say(submission())
    collected, plan = collection(1)
    worker.say(collected)
    await worker.next(wire.SendPlan)
    await worker.link.close("network")
    again = await fleet.worker("w1", "s1")
    await again.next(wire.SendPlan)
    again.say(plan)
    await execute(again, 1)
    _, finished = await results_of(client)
    assert finished.counts == {"passed": 1}


@on_fleet
async def test_a_run_that_ended_while_a_worker_had_no_link_is_ended_there_when_it_comes_back(fleet):
    client = await fleet.client()
    worker = await fleet.worker("w1", "s1")
    client.say(submission())
    run = await worker.next(wire.PrepareRun)
    await worker.link.close("network")
    other = await fleet.worker("w2", "s2")
    await planned_by(other, 1)
    await execute(other, 1)
    await results_of(client)
    far, near = memory_link_pair()
    fleet.tasks.append(asyncio.ensure_future(fleet.coordinator.serve_worker(near)))
    again = Peer(far)
    again.say(hello(name="w1", session="s1", runs=(run.run_id,)))
    assert (await again.next(wire.EndRun)).run_id == run.run_id


@on_fleet
async def test_clients_hear_of_the_fleet(fleet):
    client = await fleet.client()
    assert (await client.next(wire.FleetChanged)).workers == ()
    worker = await fleet.worker("w1", slots=3)
    assert (await client.next(wire.FleetChanged)).workers == (("w1", 3),)
    worker.say(wire.Goodbye())
    assert (await client.next(wire.FleetChanged)).workers == ()
    client.say(wire.Heartbeat())
    await client.next(wire.Heartbeat)


@on_fleet
async def test_clients_hear_once_of_many_workers_that_are_lost_at_once(fleet):
    client = await fleet.client()
    workers = [await fleet.worker(f"w{number}") for number in range(30)]
    while len((await client.next(wire.FleetChanged)).workers) < len(workers):
        pass
    await asyncio.gather(*(worker.link.close() for worker in workers))
    told = 1
    while (await client.next(wire.FleetChanged)).workers:
        told += 1
    assert told <= 3


def nonsense() -> list:
    return [
        wire.SuiteCollected(run_id=RUN, suite="no such suite", fingerprint="f", count=0),
        collection(1)[1],
        hello(),
        wire.AttemptsFinished(results=[AttemptResult(LeaseId(1), Verdict.PASSED, duration_s=-1.0)]),
    ]


@pytest.mark.parametrize("number", range(len(nonsense())))
def test_nonsense_closes_the_workers_link_and_nothing_else(number):
    @on_fleet
    async def run(fleet):
        bad, client = await fleet.worker("bad"), await fleet.client()
        client.say(submission())
        await bad.next(wire.PrepareRun)
        bad.say(nonsense()[number])
        assert (await bad.until_closed()).code == 1002
        good = await fleet.worker("good")
        await planned_by(good, 1)
        await execute(good, 1)
        _, finished = await results_of(client)
        assert finished.counts == {"passed": 1}

    run()


@on_fleet
async def test_nonsense_closes_the_clients_link(fleet):
    await fleet.worker()
    owner = await fleet.client()
    owner.say(submission())
    await owner.next(wire.RunAccepted)
    for message in (submission(), wire.CancelRun(run_id=RUN, reason="not mine"), wire.SubmitRun(run_id="x", suites=())):
        stranger = await fleet.client()
        stranger.say(message)
        assert (await stranger.until_closed()).code == 1002
    assert RUN in fleet.state.cluster.runs


@on_fleet
async def test_another_version_is_refused_with_a_line(fleet):
    far, near = memory_link_pair()
    far.send(hello(version=99))
    await fleet.coordinator.serve_worker(near)
    (refused,) = await far.receive()
    assert "version 99" in refused.reason
    assert "install the same" in refused.reason


def test_closing_ends_every_link_and_records_what_was_left():
    async def main() -> None:
        fleet = Fleet()
        worker, client = await fleet.worker(), await fleet.client()
        client.say(submission())
        await worker.next(wire.PrepareRun)
        silent, near = memory_link_pair()
        fleet.tasks.append(asyncio.ensure_future(fleet.coordinator.serve_worker(near)))
        await asyncio.sleep(0)
        await fleet.coordinator.close()
        for peer in (worker, client, Peer(silent)):
            assert (await peer.until_closed()).reason == "the coordinator is stopping"
        await asyncio.gather(*fleet.tasks)
        assert [row.outcome for row in fleet.history.of(records.RunEnded)] == ["abandoned"]
        late, near = memory_link_pair()
        late.send(hello())
        await fleet.coordinator.serve_worker(near)
        assert (await Peer(late).until_closed()).reason == "the coordinator is stopping"

    asyncio.run(asyncio.wait_for(main(), TIMEOUT_S))


@pytest.mark.replaces_core
def test_our_own_mistake_is_told_to_everybody(monkeypatch, caplog):
    async def main() -> None:
        fleet = Fleet()
        worker, client = await fleet.worker(), await fleet.client()

        def broken(event: object, now: float) -> list:
            raise AssertionError("the state is wrong")

        monkeypatch.setattr(fleet.state, "apply", broken)
        client.say(submission())
        for peer in (worker, client):
            closed = await peer.until_closed()
            assert (closed.reason, closed.code) == ("internal error of the coordinator: the state is wrong", 1011)
        await fleet.coordinator.failed.wait()
        await asyncio.gather(*fleet.tasks, return_exceptions=True)
        await fleet.coordinator.close()
        assert isinstance(fleet.coordinator.failure, AssertionError)

    asyncio.run(asyncio.wait_for(main(), TIMEOUT_S))
    assert "broke one of its own rules" in caplog.text
