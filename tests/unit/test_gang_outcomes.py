"""What the members of a gang said, on its way to the history and to the client."""

from __future__ import annotations

import os

import pytest

from fleetest.client.failure_text import explanation, member_texts
from fleetest.coordinator import _host_of
from fleetest.core import commands
from fleetest.core.model import AttemptResult, GangPlace, LeaseId, RunId, TaskId, Verdict, WorkerId
from fleetest.live_run import LiveRun
from fleetest.processes.gang_place import environment_of, write_place
from fleetest.runner.gang import Gang, GangPlugin
from fleetest.wire import messages as wire

PLACE = GangPlace("1-7", 1, 2, ("10.0.0.1", "10.0.0.2"), (WorkerId("a"), WorkerId("b")))
RUN = RunId("0" * 32)


class Shell:
    def __init__(self) -> None:
        self.rows: list[object] = []

    def record(self, *rows: object) -> None:
        self.rows += rows


class Client:
    def __init__(self) -> None:
        self.told: list[wire.CoordinatorToClient] = []

    def send(self, message: wire.CoordinatorToClient) -> None:
        self.told.append(message)


def member(worker: str, verdict: Verdict, evidence: str = "") -> commands.TaskOutcome:
    result = AttemptResult(LeaseId(1), verdict, evidence=evidence, output=f"printed by {worker}")
    return commands.TaskOutcome(TaskId("t"), 1, verdict, False, WorkerId(worker), 0, result)


def test_history_has_every_member_and_the_client_one_outcome() -> None:
    shell, client = Shell(), Client()
    submission = wire.SubmitRun(run_id=RUN, suites=(wire.PytestSuite(directory="/suite"),))
    run = LiveRun(shell, submission, client, None, 100)  # type: ignore[arg-type]
    members = (member("a", Verdict.PASSED), member("b", Verdict.FAILED, "exit status 1"))
    verdict = commands.TaskOutcome(
        TaskId("t"), 1, Verdict.FAILED, True, WorkerId("b"), 0, members[1].result, members=members
    )
    run.publish_outcomes(commands.PublishOutcomes(RUN, [verdict]))
    assert [(row.worker, row.verdict, row.is_final, row.reason) for row in shell.rows] == [  # type: ignore[attr-defined]
        ("a", Verdict.PASSED, False, "rank 0 of a gang of 2"),
        ("b", Verdict.FAILED, False, "rank 1 of a gang of 2"),
        ("b", Verdict.FAILED, True, ""),
    ]
    [finished] = client.told
    assert isinstance(finished, wire.TasksFinished)
    [outcome] = finished.outcomes
    assert [one.worker for one in outcome.members] == ["a", "b"]
    assert member_texts(outcome) == [
        ("rank 0 on a: passed", "printed by a"),
        ("rank 1 on b: failed", "exit status 1\nprinted by b"),
    ]
    assert "rank 1 on b: failed" in explanation(outcome)


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("192.0.2.7:40312", "192.0.2.7"),
        ("::1", "::1"),
        ("[2001:db8::1]:9", "2001:db8::1"),
        ("embedded", ""),
        ("unknown address", ""),
    ],
)
def test_the_address_of_a_worker_is_where_its_link_comes_from(peer: str, host: str) -> None:
    assert _host_of(peer) == host


def test_a_runner_and_a_command_are_told_the_same(tmp_path, monkeypatch) -> None:
    path = tmp_path / "gw0.gang"
    write_place(path, PLACE)
    plugin = GangPlugin()
    for name in environment_of(PLACE):
        monkeypatch.delenv(name, raising=False)
    plugin.enter(str(path))
    assert isinstance(plugin.current, Gang)
    assert plugin.current.environment == environment_of(PLACE)
    assert (plugin.current.rank, plugin.current.size, plugin.current.hosts) == (1, 2, PLACE.hosts)
    assert os.environ["FLEETEST_GANG_HOSTS"] == "10.0.0.1,10.0.0.2"
    plugin.leave()
    assert plugin.current is None
    assert "FLEETEST_GANG_HOSTS" not in os.environ
