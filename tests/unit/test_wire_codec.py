"""Frames: what is refused, how messages share and split them."""

import msgspec
import pytest

from fleetest.core.model import (
    AnyOf,
    AttemptResult,
    Constraint,
    LeaseId,
    Limits,
    Operator,
    Requirements,
    RunId,
    TaskId,
    TaskSpec,
    Verdict,
)
from fleetest.errors import RemoteProtocolError
from fleetest.testing.conformance import plan_of, worker_messages
from fleetest.wire import messages as wire
from fleetest.wire.checks import check_plan, check_results, check_submission
from fleetest.wire.codec import (
    FRAME_BYTES_TARGET,
    Codec,
    VersionMismatch,
    client_codec,
    coordinator_client_codec,
    coordinator_worker_codec,
    worker_codec,
)

RUN = RunId("0123456789abcdef" * 2)


def passing(lease: int, reports: bytes | None = None) -> AttemptResult:
    return AttemptResult(LeaseId(lease), Verdict.PASSED, reports=reports)


def test_messages_sent_together_share_one_frame():
    sent = list(worker_messages())
    (frame,) = worker_codec().encode(sent)
    assert coordinator_worker_codec().decode(frame) == sent


def test_requirements_arrive_as_they_were_sent():
    cuda, rocm = Constraint("cuda", Operator.GE, "12"), Constraint("rocm", Operator.GE, "6")
    requirements = Requirements(constraints=(cuda, AnyOf((cuda, rocm))), prefers=(AnyOf((rocm, cuda)), rocm), workers=2)
    task = TaskSpec(TaskId("t"), requirements=requirements, each="gpu.model", variant="gpu.model=H100")
    suite = wire.CommandSuite(commands=(), tasks=(task,))
    sent = wire.SubmitRun(run_id=RUN, suites=(suite,), wait_for_workers_s=1.5)
    (frame,) = client_codec().encode([sent])
    (received,) = coordinator_client_codec().decode(frame)
    assert received == sent
    assert isinstance(received.suites[0].tasks[0].requirements.constraints[1], AnyOf)


@pytest.mark.parametrize("wait_s", [-1.0, float("inf"), float("nan")])
def test_a_wait_for_workers_is_a_time(wait_s):
    with pytest.raises(RemoteProtocolError, match="waits"):
        check_submission(wire.SubmitRun(run_id=RUN, suites=(wire.PytestSuite(),), wait_for_workers_s=wait_s), 10)


def test_a_task_needs_at_least_one_worker():
    suite = wire.CommandSuite(
        commands=(wire.CommandSpec(name="t", argv=("true",), directory="/"),),
        tasks=(TaskSpec(TaskId("t"), requirements=Requirements(workers=0)),),
    )
    with pytest.raises(RemoteProtocolError, match="workers"):
        check_submission(wire.SubmitRun(run_id=RUN, suites=(suite,)), 10)


@pytest.mark.parametrize("count", [1, 15, 16, 70_000])
def test_any_number_of_messages_fits_the_array_header(count):
    decoder = coordinator_worker_codec()
    frames = worker_codec().encode([wire.Draining()] * count)
    assert sum(len(decoder.decode(frame)) for frame in frames) == count


def test_frames_do_not_grow_with_the_backlog():
    messages = [wire.RunOutput(run_id=RUN, stream="stdout", text="x" * 100_000) for _ in range(50)]
    frames = worker_codec().encode(messages)
    assert len(frames) > 4
    assert all(len(frame) <= FRAME_BYTES_TARGET + 10 for frame in frames)
    decoder = coordinator_worker_codec()
    assert [message for frame in frames for message in decoder.decode(frame)] == messages


def test_a_large_batch_of_results_is_split_in_order():
    results = [passing(number, b"r" * 10_000) for number in range(500)]
    frames = worker_codec().encode([wire.AttemptsFinished(results=results)])
    decoder = coordinator_worker_codec()
    received = [message for frame in frames for message in decoder.decode(frame)]
    assert len(frames) > 1
    assert [result for message in received for result in message.results] == results


def test_a_result_over_the_limit_keeps_its_verdict_and_says_what_was_dropped():
    codec = Codec(wire.CoordinatorMessage, frame_bytes_max=2 * FRAME_BYTES_TARGET)
    huge = AttemptResult(LeaseId(1), Verdict.FAILED, reports=b"r" * (3 * FRAME_BYTES_TARGET), evidence="signal 9")
    (frame,) = codec.encode([wire.AttemptsFinished(results=[huge])])
    (message,) = coordinator_worker_codec().decode(frame)
    (result,) = message.results
    assert (result.lease_id, result.verdict, result.reports) == (1, Verdict.FAILED, None)
    assert result.evidence.startswith("signal 9\nreports and output were dropped: 3 MiB")


def test_lone_surrogates_arrive_written_out_and_the_rest_unharmed():
    result = AttemptResult(
        LeaseId(1), Verdict.FAILED, reports=b"\xff\x00", output="before \udcff after", artifacts=("a",)
    )
    (frame,) = worker_codec().encode([wire.AttemptsFinished(results=[result]), wire.Draining()])
    finished, draining = coordinator_worker_codec().decode(frame)
    (received,) = finished.results
    assert received.output == "before \\udcff after"
    assert (received.reports, received.artifacts) == (b"\xff\x00", ("a",))
    assert draining == wire.Draining()


def test_a_plan_over_the_limit_becomes_a_failure_that_says_so():
    codec = Codec(wire.CoordinatorMessage, frame_bytes_max=FRAME_BYTES_TARGET)
    (frame,) = codec.encode([plan_of(10_000)])
    (message,) = coordinator_worker_codec().decode(frame)
    assert isinstance(message, wire.SuiteFailed)
    assert message.kind == "usage_error"
    assert "10000 tests" in message.text


def test_a_submission_over_the_limit_is_an_error_of_the_sender():
    codec = Codec(wire.CoordinatorToClient, frame_bytes_max=FRAME_BYTES_TARGET)
    suite = wire.PytestSuite(args=("x" * 2 * FRAME_BYTES_TARGET,))
    with pytest.raises(RemoteProtocolError, match="SubmitRun of 2 MiB"):
        codec.encode([wire.SubmitRun(run_id=RUN, suites=(suite,))])


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\xc1",
        b"\x90",
        b"[]",
        msgspec.msgpack.encode({"type": "Draining"}),
        msgspec.msgpack.encode([{"type": "Draining", "surprise": 1}]),
        msgspec.msgpack.encode([{"type": "SlotIdle", "slot": 1}]),
        msgspec.msgpack.encode([{"type": "AttemptsFinished", "results": [{"lease_id": "1", "verdict": "passed"}]}]),
        msgspec.msgpack.encode([{"type": "AttemptsFinished", "results": [{"lease_id": 1, "verdict": "good"}]}]),
        msgspec.msgpack.encode([{"type": "Draining"}])[:-1],
        b"\x91" * 100_000,
    ],
    ids=["empty", "reserved", "no messages", "json", "not an array", "unknown field", "other direction", "wrong type",
         "unknown verdict", "cut", "deep"],
)  # fmt: skip
def test_what_is_not_a_message_of_this_direction_is_refused(frame):
    with pytest.raises(RemoteProtocolError) as caught:
        coordinator_worker_codec().decode(frame)
    assert not isinstance(caught.value, VersionMismatch)


def test_a_frame_over_the_limit_is_refused_unread():
    codec = Codec(wire.WorkerMessage, frame_bytes_max=10)
    with pytest.raises(RemoteProtocolError, match="at most 10"):
        codec.decode(msgspec.msgpack.encode([{"type": "Draining"}]))


@pytest.mark.parametrize(
    ("codec", "word"),
    [
        (coordinator_worker_codec(), {"type": "WorkerHello", "version": 99, "new_field": True}),
        (coordinator_client_codec(), {"type": "ClientHello", "version": 99, "new_field": True}),
        (client_codec(), {"type": "Welcome", "version": 99}),
    ],
)
def test_the_first_word_of_another_version_is_recognised_although_it_cannot_be_decoded(codec, word):
    with pytest.raises(VersionMismatch, match=r"version 99 .* this side version 1: install the same"):
        codec.decode(msgspec.msgpack.encode([word]))


def commands(*names: str, suite: str = "c") -> wire.CommandSuite:
    return wire.CommandSuite(
        name=suite,
        commands=tuple(wire.CommandSpec(name=name, argv=("true",), directory="/") for name in names),
        tasks=tuple(TaskSpec(TaskId(name), suite=suite) for name in names),
    )


def submission(*suites: wire.Suite, run_id: str = RUN) -> wire.SubmitRun:
    return wire.SubmitRun(run_id=RunId(run_id), suites=suites)


@pytest.mark.parametrize(
    ("run", "complaint"),
    [
        (submission(commands("a"), run_id="../../etc"), "32 lower-case hex"),
        (submission(commands("a"), run_id=RUN + "\n"), "32 lower-case hex"),
        (submission(), "0 suites"),
        (submission(commands("a"), commands("b")), "same name"),
        (submission(commands("a", "a")), "occurs twice"),
        (submission(commands("a"), commands("a", suite="d")), "occurs twice"),
        (submission(commands("a", "b", "c", "d")), "over 3 tasks"),
        (submission(wire.CommandSuite(name="c", tasks=(TaskSpec(TaskId("a"), suite="c"),))), "1 tasks for 0 commands"),
        (submission(msgspec.structs.replace(commands("a"), name="other")), "names another suite"),
    ],
)
def test_a_submission_that_cannot_be_meant_is_refused(run, complaint):
    with pytest.raises(RemoteProtocolError, match=complaint):
        check_submission(run, tasks_max=3)


def test_a_submission_that_can_be_meant_passes():
    check_submission(submission(commands("a", "b"), wire.PytestSuite(name="p")), Limits().tasks_per_run)


def test_a_plan_that_contradicts_itself_or_the_run_is_refused():
    plan = plan_of(3)
    check_plan(plan, (), 3)
    with pytest.raises(RemoteProtocolError, match="occurs twice in the run"):
        check_plan(plan, {plan.tasks[1].task_id}, 10)
    with pytest.raises(RemoteProtocolError, match="over 2 tasks"):
        check_plan(plan, (), 2)
    with pytest.raises(RemoteProtocolError, match="2 items for 3 tasks"):
        check_plan(msgspec.structs.replace(plan, items=plan.items[:2]), (), 10)


@pytest.mark.parametrize("duration_s", [-1.0, float("nan"), float("inf")])
def test_a_duration_that_is_none_is_refused(duration_s):
    check_results([passing(1)])
    with pytest.raises(RemoteProtocolError, match="lease 2"):
        check_results([passing(1), AttemptResult(LeaseId(2), Verdict.PASSED, duration_s=duration_s)])
