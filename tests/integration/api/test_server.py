"""The API over a real socket: runs, tasks, workers, live events, metrics, and a fleet of a worker in this process."""

import asyncio
import json
import threading
from contextlib import asynccontextmanager
from functools import partialmethod
from types import SimpleNamespace

import aiohttp
import pytest

from fleetest.api import frames
from fleetest.api.events import PAUSE_MAX_S, EventHub
from fleetest.api.worker_states import CHANGES_MAX
from fleetest.core import events
from fleetest.core.model import AttemptResult, Capabilities, Verdict
from fleetest.core.suite_planning import fingerprint_of
from fleetest.storage.slow_disk import DiskQuestion
from fleetest.transport.identity import Role
from fleetest.transport.token_store import TokenStore
from fleetest.transport.websocket import connect_worker
from fleetest.wire import messages as wire

TIMEOUT_S = 60.0


def run(main) -> None:
    asyncio.run(asyncio.wait_for(main(), TIMEOUT_S))


def commands(*names: str, **more) -> dict:
    return {"suites": [{"kind": "commands", "commands": [{"name": name, "argv": ["true"], **more} for name in names]}]}


class ScriptedWorker:
    """Speaks the protocol; executes nothing and answers as the test says."""

    def __init__(self, link) -> None:
        self.link = link
        self.leases: list = []

    async def granted(self, count: int) -> list:
        """Leases that it holds and has not answered, once there are that many."""
        while len(self.leases) < count:
            for message in await self.link.receive():
                if isinstance(message, wire.GrantLeases):
                    self.leases += message.leases
                elif isinstance(message, wire.PrepareRun):
                    for suite in message.suites:
                        ids = [task.task_id for task in suite.tasks]
                        collected = wire.SuiteCollected(
                            run_id=message.run_id, suite=suite.name, fingerprint=fingerprint_of(ids), count=len(ids)
                        )
                        self.link.send(collected)
        return self.leases

    def finish(self, lease, verdict=Verdict.PASSED, **more) -> None:
        self.leases.remove(lease)
        result = AttemptResult(lease.lease_id, verdict, duration_s=0.5, started_at=1_700_000_000.0, **more)
        self.link.send(wire.AttemptsFinished(results=[result]))

    def start(self, lease) -> None:
        self.link.send(wire.AttemptsStarted(leases=((lease.lease_id, 1_700_000_000.0),)))


@asynccontextmanager
async def worker(served, name="w1", slots=1, **capabilities):
    link = await connect_worker(served.ws_url, served.tokens[Role.WORKER])
    hello = wire.WorkerHello(
        version=wire.PROTOCOL_VERSION, name=name, session=name, slots=slots, host=f"host of {name}",
        capabilities=Capabilities(attributes={"os": ("linux",)}, resources={"cpus": 2.0}, **capabilities),
    )  # fmt: skip
    link.send(hello)
    await link.receive()
    try:
        yield ScriptedWorker(link)
    finally:
        await link.close()


@asynccontextmanager
async def listening(served, query="", role=Role.VIEW):
    headers = {"Authorization": f"Bearer {served.tokens[role]}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        socket = await session.ws_connect(f"{served.url}/api/v1/events{query}")
        try:
            yield socket
        finally:
            await socket.close()


async def frame(socket, kind: str, wanted=lambda frame: True) -> dict:
    while True:
        found = json.loads((await socket.receive()).data)
        if found["type"] == kind and wanted(found):
            return found


async def is_over(served, run_id: str) -> dict:
    """The run, once it has ended; told by live events."""
    async with listening(served) as socket:
        snapshot = await frame(socket, "snapshot")
        found = [each for each in snapshot["runs"] if each["run_id"] == run_id and not each["is_live"]]
        while not found:
            delta = await frame(socket, "delta")
            found = [each for each in delta["runs"] if each["run_id"] == run_id and not each["is_live"]]
        return found[0]


def test_a_run_from_submission_to_history(serve):
    async def main():
        async with serve(history=True) as served, worker(served) as w1:
            body = commands("a", "b") | {"title": "nightly", "owner": "ann"}
            submitted = await served.ask("POST", "/api/v1/runs", Role.SUBMIT, body)
            assert submitted.status == 201
            url = submitted.value["url"]
            first = (await w1.granted(1))[0]
            w1.start(first)
            live = (await served.ask("GET", url, Role.VIEW)).value
            assert (live["title"], live["owner"], live["is_live"], live["tasks"]) == ("nightly", "ann", True, 2)
            w1.finish(first, Verdict.FAILED, evidence="E   assert 1 == 2", output="hello")
            w1.finish((await w1.granted(1))[0])
            over = await is_over(served, submitted.value["run_id"])
            assert (over["outcome"], over["is_success"]) == ("finished", False)
            assert (over["counts"]["passed"], over["counts"]["failed"]) == (1, 1)
            one = (await served.ask("GET", f"{url}/tasks/{first.task_id}", Role.VIEW)).value
            assert (one["verdict"], one["worker"], one["state"]) == ("failed", "w1", "finished")
            [attempt] = one["attempt_list"]
            assert (attempt["traceback"], attempt["output"]) == ("E   assert 1 == 2", "hello")
            assert one["reproduce"] == "cd / && true"
            for _ in range(2):  # The state remembers two finished runs: after two more it is history's.
                again = await served.ask("POST", "/api/v1/runs", body=commands("c"))
                w1.finish((await w1.granted(1))[0])
                await is_over(served, again.value["run_id"])
            past = (await served.ask("GET", url, Role.VIEW)).value
            assert {name: past[name] for name in ("title", "owner", "counts", "tasks", "is_success")} == {
                name: over[name] for name in ("title", "owner", "counts", "tasks", "is_success")
            }
            assert past["can_rerun"]
            past_one = (await served.ask("GET", f"{url}/tasks/{first.task_id}", Role.VIEW)).value
            assert past_one["attempt_list"] == one["attempt_list"]
            [group] = (await served.ask("GET", f"{url}/failures", Role.VIEW)).value["items"]
            assert (group["count"], group["task_ids"], group["reproduce"]) == (1, [first.task_id], "cd / && true")
            timeline = (await served.ask("GET", f"{url}/timeline", Role.VIEW)).value
            assert (timeline["lanes"], sorted(timeline["task_id"]), timeline["is_complete"]) == (
                ["w1/0"],
                ["a", "b"],
                True,
            )
            listed = (await served.ask("GET", "/api/v1/runs?text=nightly", Role.VIEW)).value["items"]
            assert [each["run_id"] for each in listed] == [submitted.value["run_id"]]

    run(main)


def test_the_workload_of_a_run_while_it_lives_and_when_it_is_history(serve):
    """The same tests in the same order, in pages; what they need only as long as the state knows it."""

    async def main():
        async with serve(history=True) as served, worker(served, slots=1) as w1:
            mark = {"requires": "os=linux | os=darwin", "cpus": 1, "lock": "db", "prefer": "cuda>=12"}
            submitted = await served.ask("POST", "/api/v1/runs", body=commands("a", "b", "c", needs=mark))
            url = f"{submitted.value['url']}/workload"
            w1.finish((await w1.granted(1))[0])
            await w1.granted(1)

            async def pages(limit):
                found, cursor = [], ""
                while cursor is not None:
                    page = (await served.ask("GET", f"{url}?limit={limit}&cursor={cursor}", Role.VIEW)).value
                    assert len(page["items"]) <= limit
                    found += page["items"]
                    cursor = page["next_cursor"]
                return found

            live = await pages(2)
            assert live == await pages(3)
            assert sorted(each["task_id"] for each in live) == ["a", "b", "c"]
            [done] = [each for each in live if each["duration_s"] is not None]
            assert (done["duration_s"], done["worker"], done["expected_s"]) == (0.5, "w1", None)
            assert done["needs"] == {
                "resources": {"cpus": 1.0},
                "requires": [[{"name": "os", "operator": "=", "value": name} for name in ("linux", "darwin")]],
                "prefers": [[{"name": "cuda", "operator": ">=", "value": "12"}]],
                "locks": ["db"],
                "alone": False,
                "workers": 1,
            }
            for _ in range(2):
                w1.finish((await w1.granted(1))[0])
            await is_over(served, submitted.value["run_id"])
            for _ in range(2):  # The state remembers two finished runs: after two more it is history's.
                again = await served.ask("POST", "/api/v1/runs", body=commands("d"))
                w1.finish((await w1.granted(1))[0])
                await is_over(served, again.value["run_id"])
            past = await pages(2)
            assert [each["task_id"] for each in past] == [each["task_id"] for each in live]
            assert [(each["duration_s"], each["expected_s"], each["needs"]) for each in past] == [(0.5, 0.5, None)] * 3
            unknown = await served.ask("GET", "/api/v1/runs/none/workload", Role.VIEW)
            assert (unknown.status, unknown.value["code"]) == (404, "unknown_run")

    run(main)


def test_only_what_failed_runs_again_with_what_it_depends_on(serve):
    async def main():
        async with serve(history=True) as served, worker(served, slots=3) as w1:
            suite = {"kind": "commands", "commands": [
                {"name": "base", "argv": ["true"]},
                {"name": "bad", "argv": ["false"], "depends_on": ["base"]},
                {"name": "good", "argv": ["true"]},
            ]}  # fmt: skip
            submitted = await served.ask("POST", "/api/v1/runs", body={"suites": [suite]})
            run_id = submitted.value["run_id"]
            early = await served.ask("POST", f"/api/v1/runs/{run_id}/rerun")
            assert (early.status, early.value["code"]) == (409, "run_not_over")
            for _ in range(3):
                lease = (await w1.granted(1))[0]
                w1.finish(lease, Verdict.FAILED if lease.task_id == "bad" else Verdict.PASSED)
            await is_over(served, run_id)
            again = await served.ask("POST", f"/api/v1/runs/{run_id}/rerun")
            assert again.status == 201
            for _ in range(2):
                w1.finish((await w1.granted(1))[0])
            over = await is_over(served, again.value["run_id"])
            assert (over["counts"]["passed"], over["tasks"], over["is_success"]) == (2, 2, True)
            nothing = await served.ask("POST", f"/api/v1/runs/{again.value['run_id']}/rerun")
            assert (nothing.status, nothing.value["code"]) == (409, "nothing_failed")

    run(main)


def test_only_its_submitter_or_an_admin_cancels_a_run(serve):
    async def main():
        async with serve() as served:
            other = TokenStore(served.data).create("other", Role.SUBMIT)
            served.api.context.credentials.refresh()
            run_id = (await served.ask("POST", "/api/v1/runs", Role.SUBMIT, commands("a"))).value["run_id"]
            served.tokens[Role.WORKER] = other
            refused = await served.ask("POST", f"/api/v1/runs/{run_id}/cancel", Role.WORKER)
            assert (refused.status, refused.value["code"]) == (403, "not_your_run")
            assert (await served.ask("POST", f"/api/v1/runs/{run_id}/cancel", Role.SUBMIT)).status == 202
            shown = (await served.ask("GET", f"/api/v1/runs/{run_id}")).value
            assert (shown["outcome"], shown["counts"]["cancelled"]) == ("cancelled", 1)
            over = await served.ask("POST", f"/api/v1/runs/{run_id}/cancel")
            assert (over.status, over.value["code"]) in {(409, "run_is_over"), (404, "unknown_run")}

    run(main)


def test_the_same_key_submits_once(serve):
    async def main():
        async with serve() as served:
            key = (("Idempotency-Key", "nightly-1"),)
            first, second = await asyncio.gather(
                *(served.ask("POST", "/api/v1/runs", body=commands("a"), headers=key) for _ in range(2))
            )
            assert first.value == second.value
            assert sorted([first.headers.get("idempotency-replayed"), second.headers.get("idempotency-replayed")], key=str) == [
                None, "true"]  # fmt: skip
            assert len(served.shell.state.snapshot().runs) == 1
            other = await served.ask("POST", "/api/v1/runs", body=commands("b"), headers=key)
            assert (other.status, other.value["code"]) == (422, "idempotency_key_reused")
            foreign = await served.ask("POST", "/api/v1/runs", Role.SUBMIT, commands("b"), headers=key)
            assert foreign.status == 201
            bad = await served.ask("POST", "/api/v1/runs", body={"suites": []}, headers=(("Idempotency-Key", "k"),))
            assert bad.status == 400
            assert (
                await served.ask("POST", "/api/v1/runs", body=commands("c"), headers=(("Idempotency-Key", "k"),))
            ).status == 201

    run(main)


@pytest.mark.parametrize(
    ("suite", "says"),
    [
        ({"kind": "commands", "commands": [{"name": "a", "argv": ["x"], "depends_on": ["b"]}]}, "no command 'b'"),
        ({"kind": "commands", "commands": [{"name": "a", "argv": ["x"], "depends_on": ["a"]}]}, "wait for each other"),
        ({"kind": "commands", "commands": [{"name": "a", "argv": ["x"]}] * 2}, "occurs twice"),
        ({"kind": "commands", "commands": [{"name": "a::b", "argv": ["x"]}]}, "'::'"),
        ({"kind": "commands", "commands": [{"name": "a", "argv": ["x"], "needs": {"gpuz": 1}}]}, "did you mean 'gpus'"),
        ({"kind": "commands", "commands": [{"name": "a", "argv": ["x"], "environment": {"A=B": ""}}]}, "cannot be a variable"),
        ({"kind": "pytest", "directory": "/x", "args": ["a\0"]}, "NUL"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_said(serve, suite, says):
    async def main():
        async with serve() as served:
            answer = await served.ask("POST", "/api/v1/runs", body={"suites": [suite]})
            assert (answer.status, answer.value["code"]) == (422, "bad_submission")
            assert says in answer.value["detail"]
            assert served.shell.state.snapshot().runs == ()

    run(main)


def test_pages_hold_everything_once_in_every_order(serve):
    async def main():
        async with serve(history=True) as served, worker(served, slots=2) as w1:
            names = [f"t{number:02}" for number in range(25)]
            run_id = (await served.ask("POST", "/api/v1/runs", body=commands(*names))).value["run_id"]

            async def pages(query):
                seen, cursor = [], ""
                while cursor is not None:
                    page = await served.ask("GET", f"/api/v1/runs/{run_id}/tasks?limit=7&{query}&cursor={cursor}")
                    seen += [row["task_id"] for row in page.value["items"]]
                    cursor = page.value["next_cursor"]
                return seen

            async def check():
                assert await pages("") == names
                assert await pages("sort=-position") == names[::-1]
                assert await pages("sort=task_id") == names
                assert await pages("sort=-task_id") == names[::-1]
                assert sorted(await pages("sort=duration")) == sorted(await pages("sort=-duration")) == names
                assert await pages("text=T1") == names[10:20]

            await check()
            for number in range(25):
                lease = (await w1.granted(1))[0]
                w1.finish(lease, Verdict.FAILED if number % 2 else Verdict.PASSED)
            await is_over(served, run_id)
            await check()
            failed = await pages("verdict=failed")
            assert len(failed) == 12
            for number in range(2):
                other = (await served.ask("POST", "/api/v1/runs", body=commands(f"o{number}"))).value["run_id"]
                w1.finish((await w1.granted(1))[0])
                await is_over(served, other)
            await check()
            assert sorted(await pages("verdict=failed")) == sorted(failed)

    run(main)


def test_the_states_of_a_worker_are_known_after_it_left(serve):
    """Also those that lasted no longer than an instant, over several sessions."""

    async def main():
        async with serve() as served:

            async def states(name="w1"):
                return (await served.ask("GET", f"/api/v1/workers/{name}/states", Role.VIEW)).value

            async with worker(served):
                for action in ("drain", "resume", "quarantine", "release"):
                    await served.ask("POST", f"/api/v1/workers/w1/{action}", body={})
                told = await states()
                assert told["is_here"] is True
                assert [span["state"] for span in told["spans"]] == [
                    "healthy", "draining", "healthy", "quarantined", "healthy"]  # fmt: skip
                assert told["spans"][1]["reason"] == "drained by the operator"
                for span, following in zip(told["spans"], told["spans"][1:], strict=False):
                    assert span["since"] <= span["until"] == following["since"]
                assert told["spans"][-1]["until"] is None
                served.shell.apply(events.WorkerDisconnected("w1", "gone for good", said_goodbye=True))
            told = await states()
            assert told["is_here"] is False
            assert [span["state"] for span in told["spans"]][-2:] == ["healthy", "left"]
            assert (await served.ask("GET", "/api/v1/workers/w1", Role.VIEW)).status == 404
            async with worker(served):
                told = await states()
                assert told["is_here"] is True
                assert [span["state"] for span in told["spans"]][-2:] == ["left", "healthy"]
            assert (await states("nobody"))["code"] == "unknown_worker"

    run(main)


def test_lost_workers_are_listed_until_they_are_back_and_those_that_left_are_not(serve):
    async def main():
        async with serve() as served:

            async def lost(count: int) -> list[dict]:
                """As soon as there are so many: answers are shared for moments."""
                while (
                    len(found := (await served.ask("GET", "/api/v1/lost-workers", Role.VIEW)).value["items"]) != count
                ):
                    await asyncio.sleep(0.005)
                return found

            async with worker(served):
                await lost(0)
                served.shell.apply(events.WorkerDisconnected("w1", "", said_goodbye=False, process_is_dead=True))
            (told,) = await lost(1)
            assert (told["worker_id"], told["state"], told["reason"]) == ("w1", "lost", "its process died")
            async with worker(served):
                await lost(0)
                served.shell.apply(events.WorkerDisconnected("w1", "gone for good", said_goodbye=True))
            assert (await served.ask("GET", "/api/v1/workers/w1/states", Role.VIEW)).value["spans"][-1][
                "state"
            ] == "left"
            await lost(0)

    run(main)


def test_a_worker_with_very_many_states_keeps_the_latest(serve):
    async def main():
        async with serve() as served, worker(served):
            for _ in range(CHANGES_MAX):
                served.shell.apply(events.WorkerDrainRequested("w1"))
                served.shell.apply(events.WorkerResumed("w1"))
                await served.ask("GET", "/api/v1/workers/w1/states", Role.VIEW)
            spans = (await served.ask("GET", "/api/v1/workers/w1/states", Role.VIEW)).value["spans"]
            assert len(spans) == CHANGES_MAX
            assert (spans[0]["state"], spans[-1]["state"]) == ("draining", "healthy")

    run(main)


def test_the_operators_quarantine_outlasts_one_that_would_end_by_itself(serve):
    """A probe that fails keeps the worker out already; when it passes, the operator's word still holds."""

    async def main():
        async with serve() as served, worker(served):

            async def asked(action: str, **body: str) -> dict:
                assert (await served.ask("POST", f"/api/v1/workers/w1/{action}", body=body)).status == 202
                return (await served.ask("GET", "/api/v1/workers/w1", Role.VIEW)).value

            served.shell.apply(events.WorkerProbed("w1", is_ok=False, detail="no disk"))
            assert (await asked("quarantine", reason="bad fan"))["reason"] == "by the operator: bad fan"
            served.shell.apply(events.WorkerProbed("w1", is_ok=True, detail=""))
            shown = await asked("quarantine", reason="bad disk")
            assert (shown["state"], shown["reason"]) == ("quarantined", "by the operator: bad disk")
            assert (await asked("release"))["state"] == "healthy"

    run(main)


def test_nobody_releases_a_worker_that_its_probe_alone_holds_back(serve):
    async def main():
        async with serve() as served, worker(served):

            async def shown() -> tuple[str, bool]:
                found = (await served.ask("GET", "/api/v1/workers/w1", Role.VIEW)).value
                return found["state"], found["can_release"]

            served.shell.apply(events.WorkerProbed("w1", is_ok=False, detail="no disk"))
            assert await shown() == ("quarantined", False)
            refused = await served.ask("POST", "/api/v1/workers/w1/release")
            assert (refused.status, refused.value["code"]) == (409, "held_by_probe")
            assert refused.value["detail"].startswith("its probe failed: no disk: it gets work as soon as")
            await served.ask("POST", "/api/v1/workers/w1/quarantine")
            assert await shown() == ("quarantined", True)
            assert (await served.ask("POST", "/api/v1/workers/w1/release")).status == 202
            assert await shown() == ("quarantined", False)
            served.shell.apply(events.WorkerProbed("w1", is_ok=True, detail=""))
            assert (await served.ask("POST", "/api/v1/workers/w1/release")).status == 202
            assert await shown() == ("healthy", False)

    run(main)


def test_a_lost_worker_that_was_drained_is_resumed(serve):
    async def main():
        async with serve() as served:
            async with worker(served):
                assert (await served.ask("POST", "/api/v1/workers/w1/drain")).status == 202
                served.shell.apply(events.WorkerDisconnected("w1", "its machine fell", process_is_dead=True))
            assert (await served.ask("GET", "/api/v1/workers/w1", Role.VIEW)).status == 404
            assert (await served.ask("POST", "/api/v1/workers/w1/resume")).status == 202
            assert (await served.ask("POST", "/api/v1/workers/w1/resume")).status == 404
            async with worker(served):
                assert (await served.ask("GET", "/api/v1/workers/w1", Role.VIEW)).value["state"] == "healthy"

    run(main)


def test_an_operator_drains_and_quarantines(serve):
    async def main():
        async with serve() as served, worker(served):

            async def state() -> str:
                return (await served.ask("GET", "/api/v1/workers/w1", Role.VIEW)).value["state"]

            shown = (await served.ask("GET", "/api/v1/workers/w1", Role.VIEW)).value
            assert (shown["host"], shown["slots"], shown["attributes"]["os"]) == ("host of w1", 1, ["linux"])
            seen = []
            for action in ("drain", "resume", "quarantine", "quarantine", "release"):
                assert (await served.ask("POST", f"/api/v1/workers/w1/{action}")).status == 202
                seen.append(await state())
            assert seen == ["draining", "healthy", "quarantined", "quarantined", "healthy"]
            [alert] = (await served.ask("GET", "/api/v1/alerts", Role.VIEW)).value["items"]
            assert (alert["worker_id"], alert["cause"], alert["state"]) == ("w1", "quarantined", "cleared")
            noted = await served.ask("POST", f"/api/v1/alerts/{alert['alert_id']}/acknowledge")
            assert noted.value["acknowledged_by"] == "admin"
            assert (await served.ask("POST", "/api/v1/alerts/none/acknowledge")).status == 404

    run(main)


def test_what_an_operator_says_is_kept_before_it_is_acknowledged_or_the_answer_says_so(serve):
    class Keeper:
        trouble = ""
        kept = 0

        async def keep(self):
            self.kept += 1
            return self.trouble

    async def main():
        async with serve() as served, worker(served):
            keeper = served.api.context.keeper = Keeper()
            answer = await served.ask("POST", "/api/v1/workers/w1/quarantine", Role.ADMIN)
            assert (answer.status, keeper.kept) == (202, 1)
            (alert,) = (await served.ask("GET", "/api/v1/alerts")).value["items"]
            keeper.trouble = "no space left"
            for path in (
                "workers/w1/drain",
                "workers/w1/resume",
                "workers/w1/release",
                "workers/w1/quarantine",
                f"alerts/{alert['alert_id']}/acknowledge",
            ):
                answer = await served.ask("POST", f"/api/v1/{path}", Role.ADMIN)
                assert (answer.status, answer.value["code"]) == (503, "not_kept"), path
                assert answer.value["detail"] == "done, but a restart of the coordinator would undo it: no space left"
            told = (await served.ask("GET", "/api/v1/workers/w1")).value
            assert told["state"] == "quarantined", "it is in force all the same"
            keeper.trouble = ""
            again = await served.ask("POST", "/api/v1/workers/w1/quarantine", Role.ADMIN)
            assert (again.status, keeper.kept) == (202, 7), "what is so already is not taken for kept"

    run(main)


def test_the_queue_says_why(serve):
    async def main():
        async with serve() as served, worker(served) as w1:
            first = await served.ask("POST", "/api/v1/runs", body=commands("plain"))
            await w1.granted(1)
            await served.ask("POST", "/api/v1/runs", body=commands("a", "b", needs={"gpus": 1}))
            queue = (await served.ask("GET", "/api/v1/queue", Role.VIEW)).value
            assert queue["waiting"] == 2
            [group] = queue["groups"]
            assert (group["count"], [each["task_id"] for each in group["examples"]]) == (2, ["a", "b"])
            assert "gpus 1" in group["reason"]
            status = (await served.ask("GET", "/api/v1/status", Role.VIEW)).value
            assert (status["runs"], status["tasks"]["waiting"], status["slots"]["total"]) == (2, 2, 1)
            assert first.status == 201

    run(main)


def test_live_events_tell_what_changes(serve):
    async def main():
        async with serve() as served, worker(served) as w1:
            run_id = (await served.ask("POST", "/api/v1/runs", body=commands("a"))).value["run_id"]
            lease = (await w1.granted(1))[0]
            async with listening(served, f"?run={run_id}") as socket, listening(served) as other:
                snapshot = await frame(socket, "snapshot")
                assert snapshot["workers"][0][:3] == ["w1", "healthy", 1]
                assert snapshot["runs"][0]["run_id"] == run_id
                w1.start(lease)
                started = await frame(socket, "tasks")
                assert (started["run_id"], started["rows"][0][:2]) == (run_id, ["a", "running"])
                w1.finish(lease)
                ended = await frame(socket, "tasks")
                assert ended["rows"][0][:3] == ["a", "finished", "passed"]
                delta = await frame(other, "delta", lambda found: any(not each["is_live"] for each in found["runs"]))
                assert delta["runs"][0]["counts"]["passed"] == 1
                await served.ask("POST", "/api/v1/workers/w1/drain")
                changed = await frame(other, "delta", lambda found: found["workers"])
                assert changed["workers"][0][:2] == ["w1", "draining"]
                await other.send_str("{}")
                while (message := await other.receive()).type is aiohttp.WSMsgType.TEXT:
                    pass
                assert (message.type, other.close_code) == (aiohttp.WSMsgType.CLOSE, 1008)

    run(main)


def test_what_a_worker_has_not_told_yet_is_not_shown_as_nothing(serve):
    """A screen and a question must agree, and no machine has no memory at all."""

    async def main():
        async with serve() as served, worker(served) as w1:
            asked = [(await served.ask("GET", "/api/v1/workers/w1")).value]
            async with listening(served) as socket:
                told = [(await frame(socket, "snapshot"))["workers"][0]]
                w1.link.send(wire.Heartbeat(load_average=0.5, memory_available_bytes=2**30))
                told.append((await frame(socket, "delta", lambda found: found["workers"]))["workers"][0])
            asked.append((await served.ask("GET", "/api/v1/workers/w1")).value)
            shown = [(each["load_average"], each["memory_available_bytes"]) for each in asked]
            assert shown == [(None, None), (0.5, 2**30)]
            assert [tuple(row[5:7]) for row in told] == shown

    run(main)


def test_one_dear_look_does_not_keep_screens_waiting_for_long(serve, monkeypatch):
    async def main():
        pauses_s = []
        second = asyncio.Event()

        async def pause(hub, pause_s):
            pauses_s.append(pause_s)
            if len(pauses_s) == 2:
                second.set()
                await asyncio.Event().wait()

        monkeypatch.setattr(EventHub, "_pause", pause)
        spent = iter([0.0, 3.0])
        monkeypatch.setattr("fleetest.api.events.time", SimpleNamespace(thread_time=lambda: next(spent)))
        async with serve() as served, listening(served):
            await second.wait()
            assert pauses_s[1] == PAUSE_MAX_S

    run(main)


def test_nothing_is_done_while_nobody_looks(serve):
    async def main():
        async with serve() as served:
            hub = served.api.hub
            for _ in range(2):
                async with listening(served) as socket:
                    await frame(socket, "snapshot")
                    await frame(socket, "delta")
                    ticking = hub._ticking
                await asyncio.wait_for(ticking, 10)

    run(main)


def test_who_comes_at_the_same_time_gets_one_snapshot(serve, monkeypatch):
    made = []
    encode = frames.encode

    def counted(given):
        made.append(type(given))
        return encode(given)

    monkeypatch.setattr(frames, "encode", counted)

    async def main():
        async with serve() as served, worker(served), listening(served) as first:
            await frame(first, "snapshot")
            served.api.hub._ticking.cancel()
            made.clear()
            served.api.hub._ticks = 0
            served.api.hub.tick()
            async with listening(served) as second, listening(served) as third:
                told = [await frame(each, "snapshot") for each in (second, third)]
            assert told[0] == told[1]
            assert [row[0] for row in told[0]["workers"]] == ["w1"]
            assert made == [frames.Delta, frames.Snapshot]

    run(main)


def test_a_slow_screen_gets_a_snapshot_and_nobody_waits_for_it(serve, monkeypatch):
    monkeypatch.setattr("fleetest.api.events.QUEUE_MAX", 4)

    async def main():
        async with serve() as served, listening(served) as socket:
            await frame(socket, "snapshot")
            hub = served.api.hub
            [client] = hub._clients
            # The loop does not run meanwhile, so nothing is written: the queue would grow with every tick.
            for _ in range(40):
                hub._ticks = 0
                hub.tick()
            assert len(client.queue) <= 4
            assert hub.dropped_total > 0
            again = await frame(socket, "snapshot")
            assert again["seq"] > 0

    run(main)


def test_a_screen_that_never_reads_is_cut_off(serve, monkeypatch):
    monkeypatch.setattr("fleetest.api.events.STALLED_S", 0.0)

    async def main():
        async with serve() as served, listening(served) as socket:
            await frame(socket, "snapshot")
            hub = served.api.hub
            [client] = hub._clients
            client.sending_since = served.shell.now() - 1.0
            while (message := await socket.receive()).type is aiohttp.WSMsgType.TEXT:
                client.sending_since = served.shell.now() - 1.0
            assert socket.close_code == 1013, message
            assert hub.client_count == 0

    run(main)


def test_a_mistake_while_screens_are_looked_after_ends_no_live_events(serve, monkeypatch, caplog):
    async def main():
        async with serve() as served, listening(served) as socket:
            await frame(socket, "snapshot")
            mistakes = []

            def look_after(self):
                mistakes.append(1)
                raise RuntimeError("a mistake")

            monkeypatch.setattr("fleetest.api.events.EventHub._look_after_clients", look_after)
            while not mistakes:
                await frame(socket, "delta")
            await asyncio.wait_for(frame(socket, "delta"), 60)
            assert "a mistake" in caplog.text

    run(main)


def test_no_more_screens_listen_than_may_however_close_they_come(serve, monkeypatch):
    """All ask before the first handshake is over."""
    monkeypatch.setattr("fleetest.api.events.CLIENTS_MAX", 2)
    prepare, go = aiohttp.web.WebSocketResponse.prepare, asyncio.Event()

    async def slowly(self, request):
        await go.wait()
        return await prepare(self, request)

    async def main():
        monkeypatch.setattr(aiohttp.web.WebSocketResponse, "prepare", slowly)
        async with serve() as served:
            headers = {"Authorization": f"Bearer {served.tokens[Role.VIEW]}"}
            async with aiohttp.ClientSession(headers=headers) as session:
                asked = [asyncio.ensure_future(session.ws_connect(f"{served.url}/api/v1/events")) for _ in range(4)]
                refused, _ = await asyncio.wait(asked, timeout=60, return_when=asyncio.FIRST_EXCEPTION)
                while sum(each.done() for each in asked) < 2:
                    await asyncio.sleep(0)
                go.set()
                answers = await asyncio.gather(*asked, return_exceptions=True)
                assert sorted(getattr(each, "status", 101) for each in answers) == [101, 101, 503, 503], refused
                for each in answers:
                    if isinstance(each, aiohttp.ClientWebSocketResponse):
                        await each.close()

    run(main)


def test_a_browser_logs_in_with_a_one_use_code(serve):
    async def main():
        async with serve() as served:
            made = await served.ask("POST", "/api/v1/login-codes", Role.VIEW)
            own = ("Origin", served.url)
            opened = await served.ask("POST", "/login", None, {"code": made.value["code"]}, headers=(own,))
            assert (opened.status, opened.value) == (200, {"name": "view", "role": "view"})
            cookie = opened.headers["set-cookie"]
            assert "HttpOnly" in cookie
            assert "SameSite=Strict" in cookie
            value = ("Cookie", cookie.partition(";")[0])
            page = await served.ask("GET", "/", None, headers=(value,))
            assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
            assert (await served.ask("GET", "/api/v1/status", None, headers=(value,))).status == 200
            twice = await served.ask("POST", "/login", None, {"code": made.value["code"]}, headers=(own,))
            assert (twice.status, twice.value["code"]) == (401, "wrong_code")
            assert (await served.ask("POST", "/logout", None, headers=(value, own))).status == 200
            assert (await served.ask("GET", "/api/v1/status", None, headers=(value,))).status == 401
            worker_token = {"token": served.tokens[Role.WORKER]}
            assert (await served.ask("POST", "/login", None, worker_token, headers=(own,))).status == 403
            asked = (("Accept", "text/html"),)
            form = await served.ask("GET", "/api/v1/runs", None, headers=asked)
            assert form.status == 401
            assert b"<form" in form.body
            assert form.body == (await served.ask("GET", "/nothing", None, headers=asked)).body

    run(main)


def test_a_history_that_cannot_be_used_hides_no_run_that_is_known(serve, tmp_path):
    (tmp_path / "data").mkdir(mode=0o700)
    (tmp_path / "data" / "history.duckdb").write_text("no database")

    async def main():
        async with serve(history=True) as served, worker(served) as w1:
            nothing = await served.ask("GET", "/api/v1/runs", Role.VIEW)
            assert (nothing.status, nothing.value["code"]) == (503, "history_unusable")
            assert nothing.value["detail"].endswith("/spool until that is mended")
            url = (await served.ask("POST", "/api/v1/runs", Role.SUBMIT, commands("a"))).value["url"]
            lease = (await w1.granted(1))[0]
            [live] = (await served.ask("GET", "/api/v1/runs", Role.VIEW)).value["items"]
            assert live["is_live"]
            w1.finish(lease)
            await is_over(served, live["run_id"])
            [over] = (await served.ask("GET", "/api/v1/runs?limit=1", Role.VIEW)).value["items"]
            assert (over["run_id"], over["is_live"], over["is_success"]) == (live["run_id"], False, True)
            assert (await served.ask("GET", url, Role.VIEW)).value["notices"] == []
            cancelled = await served.ask("GET", "/api/v1/runs?outcome=cancelled", Role.VIEW)
            assert cancelled.status == 503

    run(main)


def test_ready_only_if_it_can_write(serve, monkeypatch):
    async def main():
        async with serve(history=True) as served:
            await asyncio.to_thread(served.api.context.past._history.flush, 10.0)
            assert (await served.ask("GET", "/healthz", None)).body == b"ok\n"
            ready = await served.ask("GET", "/readyz", Role.VIEW)
            assert (ready.status, set(ready.value["checks"].values())) == (200, {"ok"})
            assert (await served.ask("GET", "/readyz", None)).value == {"is_ready": True, "checks": {}}

            def refuse(descriptor):
                raise OSError(28, "No space left on device")

            monkeypatch.setattr("fleetest.storage.disk_room.os.fsync", refuse)
            full = await served.ask("GET", "/readyz", Role.VIEW)
            assert (full.status, full.value["is_ready"]) == (503, False)
            assert "No space left" in full.value["checks"]["write"]
            assert (await served.ask("GET", "/readyz", None)).value == {"is_ready": False, "checks": {}}
            assert not list(served.data.glob(".probe-*"))

    run(main)


def test_a_disk_that_hangs_is_said_and_keeps_nobody_waiting(serve, monkeypatch):
    """However often it is asked for: neither the event loop nor more than one thread is lost to it."""
    gate = threading.Event()

    def hang(path):
        gate.wait(TIMEOUT_S)
        raise OSError(5, "Input/output error")

    async def main():
        async with serve() as served:
            monkeypatch.setattr("shutil.disk_usage", hang)
            monkeypatch.setattr(
                "fleetest.storage.slow_disk.DiskQuestion.ask", partialmethod(DiskQuestion.ask, timeout_s=0.2)
            )
            try:
                for _ in range(3):
                    ready = await served.ask("GET", "/readyz", Role.VIEW)
                    assert (ready.status, ready.value["checks"]["disk"]) == (503, "writing took more than 5 s")
                    told = await served.ask("GET", "/metrics", Role.VIEW)
                    assert told.status == 200
                    assert b"fleetest_disk_free_bytes" not in told.body
                held = [thread for thread in threading.enumerate() if thread.name == "fleetest-disk"]
                assert len(held) == 2, "one of each that asks"
            finally:
                gate.set()

    run(main)


def test_metrics_are_there_from_the_start_and_name_nobody(serve):
    from prometheus_client.parser import text_string_to_metric_families

    async def main():
        async with serve() as served:

            def parsed(answer):
                return {
                    (sample.name, *sorted(sample.labels.items())): sample.value
                    for family in text_string_to_metric_families(answer.body.decode())
                    for sample in family.samples
                }

            before = parsed(await served.ask("GET", "/metrics", Role.VIEW))
            assert before["fleetest_test_results_total", ("status", "passed")] == 0
            assert before["fleetest_workers", ("state", "healthy")] == 0
            async with worker(served, name="secret-worker") as w1:
                await served.ask("POST", "/api/v1/runs", body=commands("secret-test"))
                lease = (await w1.granted(1))[0]
                w1.start(lease)
                w1.finish(lease)
                await is_over(served, lease.run_id)
                answer = await served.ask("GET", "/metrics", Role.VIEW)
                after = parsed(answer)
            assert set(before) <= set(after)
            assert after["fleetest_test_results_total", ("status", "passed")] == 1
            assert after["fleetest_attempts_total", ("reason", "first")] == 1
            assert after["fleetest_workers", ("state", "healthy")] == 1
            assert after["fleetest_test_duration_seconds_sum",] == 0.5
            assert after["fleetest_test_duration_seconds_bucket", ("le", "0.5")] == 1
            assert after["fleetest_queue_wait_seconds_count",] == 1
            assert b"secret" not in answer.body
            assert lease.run_id.encode() not in answer.body
            await served.ask("GET", "/metrics", None, headers=(("Authorization", "Bearer wrong"),))
            await served.ask("POST", "/api/v1/workers/x/drain", Role.VIEW)
            refused = parsed(await served.ask("GET", "/metrics", Role.VIEW))
            assert refused["fleetest_auth_failures_total", ("reason", "wrong_token")] == 1
            assert refused["fleetest_authz_denied_total", ("role", "view")] == 1

    run(main)
