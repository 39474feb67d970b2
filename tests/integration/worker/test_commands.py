"""Commands that a worker executes, and their artifacts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from support.conductor import conducted, drive, until_gone

from fleetest.core.model import AttemptResult, TaskId, TaskSpec, Verdict
from fleetest.wire import messages as wire


def command_suite(tmp_path: Path, **commands: dict[str, Any]) -> wire.CommandSuite:
    specs = tuple(
        wire.CommandSpec(**{"name": name, "directory": str(tmp_path), **fields}) for name, fields in commands.items()
    )
    tasks = tuple(TaskSpec(TaskId(spec.name), timeout_s=spec.timeout_s) for spec in specs)
    return wire.CommandSuite(commands=specs, tasks=tasks, artifact_directory=str(tmp_path / "artifacts"))


async def run_commands(suite: wire.CommandSuite) -> dict[str, AttemptResult]:
    async with conducted(output_limit_bytes=10_000, term_grace_s=0.2) as conductor:
        conductor.prepare(suite)
        collected = await conductor.expect(wire.SuiteCollected)
        assert collected.count == len(suite.commands)
        leases = [conductor.lease(task.task_id, timeout_s=task.timeout_s) for task in suite.tasks]
        conductor.grant(leases)
        await conductor.until(lambda: len(conductor.results) == len(leases))
        return {lease.task_id: conductor.results[lease.lease_id] for lease in leases}


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


def test_commands_and_their_verdicts(tmp_path: Path) -> None:
    suite = command_suite(
        tmp_path,
        ok={"argv": ("sh", "-c", "echo out; echo err >&2; echo $MINE"), "environment": {"MINE": "mine"}},
        fails={"argv": ("sh", "-c", "exit 3")},
        expected={"argv": ("sh", "-c", "exit 3"), "expected_exit_status": 3},
        signalled={"argv": ("sh", "-c", "kill -SEGV $$")},
        missing={"argv": ("no-such-program",)},
        lost={"argv": ("true",), "directory": str(tmp_path / "nowhere")},
        hangs={"argv": ("sh", "-c", "trap '' TERM; echo waiting; sleep 1000 & wait; wait"), "timeout_s": 0.5},
        loud={"argv": python("print('a' * 1_000_000 + 'z')")},
    )
    results: dict[str, AttemptResult] = {}

    async def scenario() -> None:
        results.update(await run_commands(suite))

    drive(scenario)
    assert {name: result.verdict.value for name, result in results.items()} == {
        "ok": "passed",
        "fails": "failed",
        "expected": "passed",
        "signalled": "crashed",
        "missing": "error",
        "lost": "error",
        "hangs": "timeout",
        "loud": "passed",
    }
    assert results["ok"].output == "out\nerr\nmine\n"
    assert results["ok"].peak_memory_bytes > 0
    assert results["fails"].evidence == "the command ended with exit status 3, expected 0"
    assert "SIGSEGV" in results["signalled"].evidence
    assert "cannot run 'no-such-program'" in results["missing"].evidence
    assert "cannot enter its directory" in results["lost"].evidence
    assert results["hangs"].output == "waiting\n"
    assert "bytes cut" in results["loud"].output
    assert results["loud"].output.endswith("z\n")
    assert len(results["loud"].output) < 11_000


def test_a_daemon_that_holds_the_pipe_does_not_hold_the_command(tmp_path: Path) -> None:
    suite = command_suite(tmp_path, daemon={"argv": ("sh", "-c", "sleep 1000 & echo $!")})
    results: dict[str, AttemptResult] = {}

    async def scenario() -> None:
        results.update(await run_commands(suite))
        await until_gone(int(results["daemon"].output))

    drive(scenario)
    assert results["daemon"].verdict is Verdict.PASSED


def test_artifacts_are_kept_and_stay_inside_the_directory(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (tmp_path / "outside.txt").write_text("secret")
    suite = command_suite(
        tmp_path,
        makes={
            "argv": ("sh", "-c", "mkdir -p logs; echo 1 > logs/a.log; echo 2 > b.txt; ln -s ../outside.txt c.txt"),
            "directory": str(work),
            "artifacts": ("logs/*.log", "*.txt", "../*.txt"),
        },
    )
    results: dict[str, AttemptResult] = {}

    async def scenario() -> None:
        results.update(await run_commands(suite))

    drive(scenario)
    target = tmp_path / "artifacts" / "makes" / "attempt-1"
    assert [Path(path) for path in results["makes"].artifacts] == [target / "logs/a.log", target / "b.txt"]
    assert (target / "b.txt").read_text() == "2\n"
