"""What a death says about the test that was running, and what is told of memory."""

from __future__ import annotations

import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from fleetest.core.model import Lease, LeaseId, RunId, TaskId, Verdict
from fleetest.processes import out_of_memory
from fleetest.processes.command_process import describe_start_failure, judge
from fleetest.processes.frames import Passed, Reported
from fleetest.processes.output_forwarding import OutputForwarder
from fleetest.processes.process_groups import describe_returncode, describe_status
from fleetest.processes.reporting import HeldLease
from fleetest.processes.runner_end import result_of_row, verdict_of_death
from fleetest.wire.messages import CommandSpec, RunOutput

KILLED = int(signal.SIGKILL)


def dead(status: int, stacks: str = "", note: str = "") -> Any:
    return SimpleNamespace(status=status, note=note, read_stacks=lambda: stacks)


@pytest.mark.parametrize(
    ("status", "words"),
    [(0, "exit status 0"), (3 << 8, "exit status 3"), (int(signal.SIGSEGV), "killed by SIGSEGV"), (63, "signal 63")],
)
def test_words_for_a_status(status: int, words: str) -> None:
    assert words in describe_status(status)


def test_words_for_a_return_code() -> None:
    assert describe_returncode(-9) == "was killed by SIGKILL"
    assert describe_returncode(2) == "ended with exit status 2"
    assert describe_returncode(None) == "ended"


def test_only_a_kill_with_the_kernels_counter_is_out_of_memory() -> None:
    assert verdict_of_death(dead(KILLED), oom_kills_rose=True)[0] is Verdict.OOM
    assert verdict_of_death(dead(KILLED), oom_kills_rose=False)[0] is Verdict.CRASHED
    assert verdict_of_death(dead(int(signal.SIGSEGV)), oom_kills_rose=True)[0] is Verdict.CRASHED


def test_the_evidence_has_the_stacks_and_what_was_noted() -> None:
    _, evidence = verdict_of_death(dead(int(signal.SIGSEGV), stacks="Thread 1"), oom_kills_rose=False)
    assert evidence.endswith("\n\nThread 1")
    _, evidence = verdict_of_death(dead(KILLED, note="it sent junk"), oom_kills_rose=False)
    assert evidence.endswith(": it sent junk")


def test_counters_are_summed_over_control_groups_and_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    events = tmp_path / "memory.events"
    events.write_text("oom 5\noom_kill 2\noom_group_kill 0\n")
    monkeypatch.setattr(out_of_memory, "_own_memory_events", lambda: [events, tmp_path / "absent"])
    watch = out_of_memory.OomWatch()
    assert not watch.rose()
    events.write_text("oom 6\noom_kill 3\noom_group_kill 0\n")
    assert watch.rose()
    assert not watch.rose()


def test_rows_become_results() -> None:
    held = HeldLease(Lease(LeaseId(4), RunId("r"), TaskId("t"), "", 1))
    result = result_of_row(held, Passed(0, 10.0, 1.0, 2.0, 3.0, 0.5, 100))
    assert (result.lease_id, result.verdict, result.duration_s, result.reports) == (4, Verdict.PASSED, 6.0, None)
    assert (result.cpu_s, result.peak_memory_bytes) == (0.5, 102_400)
    result = result_of_row(held, Reported(0, "xfailed", 10.0, 1.0, 2.0, 3.0, 0.5, 100, msgspec.Raw(b"[1]")))
    assert (result.verdict, result.reports) == (Verdict.XFAILED, b"[1]")


# Commands -----------------------------------------------------------------------------------------------------------


def test_commands_are_judged_by_their_status(tmp_path: Path) -> None:
    spec = CommandSpec(name="c", argv=("x",), directory=str(tmp_path), expected_exit_status=2)
    assert judge(spec, 2 << 8, oom_kills_rose=False) == (Verdict.PASSED, "")
    assert judge(spec, 0, oom_kills_rose=False)[0] is Verdict.FAILED
    assert judge(spec, KILLED, oom_kills_rose=True)[0] is Verdict.OOM
    assert judge(spec, KILLED, oom_kills_rose=False)[0] is Verdict.CRASHED


def test_what_cannot_be_started_says_what_to_do(tmp_path: Path) -> None:
    spec = CommandSpec(name="c", argv=("x",), directory=str(tmp_path))
    assert "install it" in describe_start_failure(spec, FileNotFoundError(2, "no"))
    spec = CommandSpec(name="c", argv=("x",), directory=str(tmp_path / "nowhere"))
    assert "mend `cwd`" in describe_start_failure(spec, FileNotFoundError(2, "no"))


# Output past capture ------------------------------------------------------------------------------------------------


class OutputReporter:
    def __init__(self) -> None:
        self.texts: list[str] = []

    def tell(self, message: RunOutput) -> None:
        self.texts.append(message.text)

    def wake(self) -> None:
        pass


def test_characters_cut_by_a_read_come_out_whole() -> None:
    reporter = OutputReporter()
    forwarder = OutputForwarder(RunId("r"), reporter)  # type: ignore[arg-type]
    forwarder.write("stdout", "ä".encode()[:1])
    forwarder.write("stderr", b"x")
    forwarder.write("stdout", "ä".encode()[1:])
    assert reporter.texts == ["x", "ä"]


def test_a_flood_is_dropped_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("fleetest.processes.output_forwarding.time.monotonic", lambda: now)
    reporter = OutputReporter()
    forwarder = OutputForwarder(RunId("r"), reporter)  # type: ignore[arg-type]
    chunk = b"x" * 65536
    for _ in range(1000):
        forwarder.write("stdout", chunk)
    assert sum(map(len, reporter.texts)) == 4 * 1024 * 1024
    now = 10.0
    forwarder.write("stdout", b"after")
    dropped = (1000 - 64) * 65536
    assert reporter.texts[-2:] == [f"\n... {dropped} bytes of output dropped ...\n", "after"]
