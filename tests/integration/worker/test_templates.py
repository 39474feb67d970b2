"""The process that collects a suite and starts its runners: how it comes, dies, is replaced, and what it tells of the suite."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support.conductor import conducted, drive, is_gone

from fleetest.core.model import RunId, TaskId, TaskSpec
from fleetest.core.requirements import parse_options
from fleetest.processes.launch import start_frame, start_template_early
from fleetest.wire import messages as wire


def test_spawned_runners_collect_for_themselves(suite_at: Callable[..., wire.PytestSuite]) -> None:
    suite = suite_at(
        """
        import threading
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        def test_a(worker_id): assert worker_id == "gw0"
        def test_dies(): os._exit(1)
        def test_b(): pass
        """
    )

    async def scenario() -> None:
        async with conducted() as conductor:
            results = await conductor.run(suite)
            notice = await conductor.expect(wire.RunNotice)
        assert [result.verdict.value for result in results.values()] == ["passed", "crashed", "passed"]
        assert "afresh" in notice.text
        assert "thread" in notice.text

    drive(scenario)


def test_a_killed_template_is_replaced_and_no_test_is_blamed(
    suite_at: Callable[..., wire.PytestSuite], tmp_path: Path
) -> None:
    marker = tmp_path / "was-here"
    suite = suite_at(
        f"""
        def test_kills_its_parent():
            if not os.path.exists({str(marker)!r}):
                open({str(marker)!r}, "w").close()
                os.kill(os.getppid(), signal.SIGKILL)
                signal.pause()
        def test_b(): pass
        """
    )

    async def scenario() -> None:
        async with conducted() as conductor:
            plan = await conductor.plan(suite)
            conductor.grant([conductor.lease(task.task_id) for task in plan.tasks])
            failed = await conductor.expect(wire.InfrastructureFailed)
            assert failed.lease_ids == (1,)
            conductor.grant([conductor.lease(plan.tasks[0].task_id)])
            await conductor.until(lambda: len(conductor.results) == 2)
            assert {n: r.verdict.value for n, r in conductor.results.items()} == {2: "passed", 3: "passed"}

    drive(scenario)


def test_runners_that_never_come_up_are_no_fault_of_a_test(suite_at: Callable[..., wire.PytestSuite]) -> None:
    suite = suite_at("os.register_at_fork(after_in_child=lambda: os._exit(5))\ndef test_a(): pass", start_method="fork")

    async def scenario() -> None:
        async with conducted() as conductor:
            plan = await conductor.plan(suite)
            conductor.grant([conductor.lease(plan.tasks[0].task_id)])
            failed = await conductor.expect(wire.InfrastructureFailed)
        assert failed.lease_ids == (1,)
        assert "before its first test; the last one ended with exit status 5" in failed.reason

    drive(scenario)


def test_a_machine_that_cannot_fork_gives_its_leases_back(suite_at: Callable[..., wire.PytestSuite]) -> None:
    suite = suite_at(
        """
        def fork():
            raise BlockingIOError(11, "Resource temporarily unavailable")
        sys.modules["_fleetest_runner.template"]._fork = fork
        def test_a(): pass
        """,
        start_method="fork",
    )

    async def scenario() -> None:
        async with conducted() as conductor:
            plan = await conductor.plan(suite)
            conductor.grant([conductor.lease(plan.tasks[0].task_id)])
            failed = await conductor.expect(wire.InfrastructureFailed)
        assert failed.lease_ids == (1,)
        assert failed.reason.startswith("worker box: cannot fork: ")
        assert "temporarily unavailable" in failed.reason
        assert "\n" not in failed.reason

    drive(scenario)


@pytest.mark.parametrize("is_told", [True, False])
def test_a_template_that_was_started_early_is_taken_over(
    is_told: bool, suite_at: Callable[..., wire.PytestSuite], tmp_path: Path
) -> None:
    suite = suite_at("def test_a(): open('parent', 'w').write(str(os.getppid()))")
    run_id = RunId("c" * 32)
    scratch = tmp_path / "early"
    scratch.mkdir()
    start = start_frame(
        args=suite.args, directory=suite.directory, run_uid=run_id, runner_count=1, scratch=str(scratch)
    )
    early = start_template_early(start=start if is_told else None)

    async def scenario() -> None:
        async with conducted(adopt=early) as conductor:
            conductor.run_id = run_id
            await conductor.run(suite)
            assert Path(suite.directory, "parent").read_text() == str(early.process.pid)
        assert is_gone(early.process.pid)
        assert scratch.exists() is not is_told

    drive(scenario)


def test_a_template_that_does_not_fit_is_not_used_and_not_left(
    suite_at: Callable[..., wire.PytestSuite], tmp_path: Path
) -> None:
    suite = suite_at("def test_a(): open('parent', 'w').write(str(os.getppid()))")
    start = start_frame(
        args=("-k", "other"), directory=suite.directory, run_uid="d" * 32, runner_count=1, scratch=str(tmp_path / "s")
    )
    early = start_template_early(start=start)

    async def scenario() -> None:
        async with conducted(adopt=early) as conductor:
            await conductor.run(suite)
            assert Path(suite.directory, "parent").read_text() != str(early.process.pid)
        assert is_gone(early.process.pid)

    drive(scenario)


def test_errors_in_marks_are_collection_errors_that_pytest_can_show(
    suite_at: Callable[..., wire.PytestSuite],
) -> None:
    suite = suite_at("@pytest.mark.fleet(gpu=1)\ndef test_a(): pass\ndef test_b(): pass")

    async def scenario() -> None:
        async with conducted() as conductor:
            conductor.prepare(suite)
            failed = await conductor.expect(wire.SuiteFailed)
            (reports,) = conductor.all_of(wire.CollectionReports)
        assert failed.kind == "collection_errors"
        assert failed.text.startswith("test_it.py:3: fleet mark: unknown key 'gpu'; did you mean 'gpus'?")
        (report,) = reports.reports
        restored = pytest.CollectReport._from_json(json.loads(report))
        assert restored.failed
        assert restored.longreprtext.strip() == failed.text

    drive(scenario)


def test_marks_and_defaults_become_the_plan(suite_at: Callable[..., wire.PytestSuite]) -> None:
    suite = suite_at(
        """
        @pytest.mark.fleet(gpus=1, requires="cuda>=12", timeout=5)
        class TestGpu:
            @pytest.mark.fleet(gpus=2, requires="os=linux", retries=0, group="g")
            def test_a(self): pass
        @pytest.mark.xdist_group("together")
        def test_b(): pass
        def test_c(): pass
        """,
        name="gpu",
        timeout_s=60.0,
        retries=2,
        priority=3,
    )

    async def scenario() -> None:
        async with conducted() as conductor:
            plan = await conductor.plan(suite)
        first, second, third = plan.tasks
        wanted = parse_options({"gpus": 2, "requires": "os=linux, cuda>=12"})
        assert first == TaskSpec(
            TaskId("gpu::test_it.py::TestGpu::test_a"), "gpu", "g", True, wanted.requirements, 3, 5.0, 0
        )
        assert (second.group, second.keep_together, second.timeout_s, second.retries) == ("together", True, 60.0, 2)
        assert (third.group, third.keep_together) == ("test_it.py", False)
        assert [item.node_id for item in plan.items] == [
            "test_it.py::TestGpu::test_a",
            "test_it.py::test_b",
            "test_it.py::test_c",
        ]
        assert {"test_a", "TestGpu", "test_it.py"} <= set(plan.items[0].keywords)

    drive(scenario)


@pytest.mark.parametrize("case", ["no directory", "no interpreter", "no pytest"])
def test_what_this_machine_lacks_is_said_in_one_line(
    case: str, suite_at: Callable[..., wire.PytestSuite], tmp_path: Path
) -> None:
    bare = tmp_path / "bare-python"
    bare.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -S "$@"\n')
    bare.chmod(0o755)
    fields, wanted = {
        "no directory": ({"directory": str(tmp_path / "nowhere")}, "box does not see"),
        "no interpreter": ({"python": "/nowhere/python"}, "no interpreter /nowhere/python"),
        "no pytest": ({"python": str(bare)}, "pip install pytest"),
    }[case]
    suite = suite_at("def test_a(): pass", **fields)

    async def scenario() -> None:
        async with conducted() as conductor:
            conductor.prepare(suite)
            failed = await conductor.expect(wire.SuiteFailed)
        assert failed.kind == "unavailable"
        assert wanted in failed.text
        assert "\n" not in failed.text

    drive(scenario)


def test_a_conftest_that_kills_the_process_is_told_with_its_last_words(
    suite_at: Callable[..., wire.PytestSuite],
) -> None:
    suite = suite_at("sys.__stderr__.write('no licence\\n'); sys.__stderr__.flush(); os._exit(9)", args=("-s",))

    async def scenario() -> None:
        async with conducted() as conductor:
            conductor.prepare(suite)
            failed = await conductor.expect(wire.SuiteFailed)
        assert failed.kind == "internal_error"
        assert "exit status 9" in failed.text
        assert "no licence" in failed.text

    drive(scenario)


def test_output_past_capture_is_forwarded_and_secrets_are_not(
    suite_at: Callable[..., wire.PytestSuite], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEETEST_TOKEN_FILE", "/secret")
    suite = suite_at(
        "def test_a(): print('token', os.environ.get('FLEETEST_TOKEN_FILE'), os.environ['MINE'])",
        args=("-s",),
        environment={"MINE": "yes"},
    )

    async def scenario() -> None:
        async with conducted() as conductor:
            await conductor.run(suite)
            await conductor.until(lambda: "token None yes" in "".join(m.text for m in conductor.all_of(wire.RunOutput)))

    drive(scenario)
