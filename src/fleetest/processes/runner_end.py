"""How attempts end: by a result of the runner, or with the runner, and what that says about the test."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass

from fleetest.core.model import AttemptResult, Verdict
from fleetest.processes.frames import Passed, Reported
from fleetest.processes.process_groups import describe_status, was_killed
from fleetest.processes.reporting import HeldLease
from fleetest.processes.runner import Runner

_KILLED_EXIT_S = 10.0
_KILL_GRACE_MAX_S = 1.0
_VERDICTS = {verdict.value: verdict for verdict in Verdict}


def result_of_row(held: HeldLease, row: Passed | Reported) -> AttemptResult:
    """What the runner says of an attempt that it finished."""
    if isinstance(row, Passed):
        verdict, reports = Verdict.PASSED, None
    else:
        verdict, reports = _VERDICTS[row.verdict], bytes(row.reports)
    return AttemptResult(
        held.lease.lease_id,
        verdict,
        row.started_at,
        row.setup_s + row.call_s + row.teardown_s,
        row.setup_s,
        row.call_s,
        row.teardown_s,
        row.cpu_s,
        row.peak_memory_kb * 1024,
        reports,
    )


@dataclass(slots=True)
class Ending:
    """We decided to end the runner because of one test, whose verdict is decided with it."""

    held: HeldLease
    verdict: Verdict
    evidence: str
    with_stacks: bool = False


async def end_runner(runner: Runner, ending: Ending, term_grace_s: float) -> None:
    """Stacks first (into the evidence), then TERM, then KILL of everything in its session."""
    if ending.with_stacks:
        stacks = await runner.dump_stacks()
        ending.evidence += f"\n\nStacks of all threads:\n{stacks}" if stacks else "\n\n(no stacks: it did not answer)"
    else:
        # Nobody wants its result: it gets no more than a moment for its own cleaning up.
        term_grace_s = min(term_grace_s, _KILL_GRACE_MAX_S)
    runner.terminate()
    if await runner.wait_exited(term_grace_s):
        return
    runner.kill()
    if not await runner.wait_exited(_KILLED_EXIT_S):
        runner.has_exited(signal.SIGKILL, trouble=f"runner {runner.runner_id} does not die even of SIGKILL")


def verdict_of_death(runner: Runner, oom_kills_rose: bool) -> tuple[Verdict, str]:
    """Verdict and evidence for the test that was running when the runner died by itself."""
    status = runner.status
    assert status is not None
    how = describe_status(status)
    if was_killed(status) and oom_kills_rose:
        return Verdict.OOM, f"its process {how} while the kernel was short of memory (its oom_kill counter rose)"
    evidence = f"its process {how} while it ran"
    if runner.note:
        evidence += f": {runner.note}"
    elif os.WIFEXITED(status):
        evidence += " (something called os._exit, or exited without pytest noticing)"
    stacks = runner.read_stacks()
    return Verdict.CRASHED, f"{evidence}\n\n{stacks}" if stacks else evidence
