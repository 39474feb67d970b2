"""What the API answers, as types. Times are UTC; ids are opaque text; what is not known is null.

These shapes are a promise: fields are added, never renamed or given another meaning.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Annotated, Generic, Literal, TypeVar

import msgspec

Item = TypeVar("Item")
Time = Annotated[datetime, msgspec.Meta(tz=True)]


class Answer(msgspec.Struct, kw_only=True):
    """Base of all answers."""


class Page(Answer, Generic[Item], kw_only=True):
    """A part of a list. ``next_cursor`` null: this was the last one. ``total`` null: nobody counted."""

    items: list[Item]
    next_cursor: str | None = None
    total: int | None = None


class Version(Answer, kw_only=True):
    version: str
    python: str
    protocol: int
    api: int = 1


class Ready(Answer, kw_only=True):
    """``checks``: by name, ``ok`` or what is wrong; empty for whoever showed no token."""

    is_ready: bool
    checks: dict[str, str] = {}


class Ok(Answer, kw_only=True):
    """It was done, or is under way."""

    is_ok: bool = True


# The fleet ------------------------------------------------------------------------------------------------------


class SlotCounts(Answer, kw_only=True):
    total: int
    used: int
    free: int
    """Of workers that take new work."""


class TaskCounts(Answer, kw_only=True):
    """Of all live runs."""

    waiting: int
    leased: int
    running: int
    finished: int


class AlertCounts(Answer, kw_only=True):
    open: int
    acknowledged: int


class HistoryState(Answer, kw_only=True):
    is_usable: bool
    trouble: str = ""


class Me(Answer, kw_only=True):
    """Whose token is used."""

    name: str
    role: str
    may: list[str]


class FleetNumbers(Answer, kw_only=True):
    now: Time
    started_at: Time
    uptime_s: float
    version: str
    epoch: int
    workers: dict[str, int]
    """By state; every state is there."""
    workers_total: int
    """Workers that are there (connected, or expected back)."""
    slots: SlotCounts
    runs: int
    """Runs that are not finished."""
    tasks: TaskCounts
    verdicts: dict[str, int]
    """Verdicts given since the coordinator started."""
    finished_per_s: float
    """Mean of the last minute."""
    remaining_s: float | None
    """Predicted time until all live runs end; null if nothing runs or nobody can say."""
    alerts: AlertCounts
    clients: int
    """Connections that submit and follow runs."""
    listeners: int
    """Screens that follow live events."""
    history: HistoryState


class FleetStatus(FleetNumbers, kw_only=True):
    me: Me


class Series(Answer, kw_only=True):
    """Samples at regular times; all lists have the length of ``at``."""

    interval_s: float
    at: list[Time]
    values: dict[str, list[float | None]]


# Workers --------------------------------------------------------------------------------------------------------


class RunningTask(Answer, kw_only=True):
    """The first lease of a slot: running, or about to."""

    run_id: str
    task_id: str
    attempt: int
    worker_id: str
    slot: int
    is_started: bool
    since: Time
    running_s: float


class WorkerSummary(Answer, kw_only=True):
    worker_id: str
    state: str
    """healthy, suspect, draining, quarantined, probation, disconnected."""
    reason: str
    """Why it is in this state, if there is a reason."""
    can_release: bool
    """Releasing it would mean something: not if its probe alone holds it back."""
    host: str
    address: str
    """Empty while its link is down."""
    slots: int
    slots_used: int
    waiting: int
    """Leases that wait behind the running ones."""
    waiting_s: float
    """Predicted work of all its leases."""
    running: list[RunningTask]
    attributes: dict[str, list[str]]
    resources: dict[str, float]
    """Totals of what is countable."""
    free: dict[str, float]
    """What of it nothing holds."""
    load_average: float | None
    memory_available_bytes: int | None
    joined_at: Time | None
    last_seen_at: Time
    alerts: list[str]
    """Causes of its alerts that last."""
    speed: float
    """1: as fast as the typical worker of the fleet; 2: twice as fast."""
    reliability: float
    """In (0, 1]; 1: no infrastructure failure lately."""
    load_s: float
    """Expected remaining seconds per slot."""


class LostWorker(Answer, kw_only=True):
    worker_id: str
    state: str
    """lost."""
    since: Time
    reason: str
    """Why it was given up."""


class WorkerDetail(WorkerSummary, kw_only=True):
    prefetch_s: float
    """Predicted work that may wait in one of its slots."""
    story: list[str]
    """What happened to it, newest last: a time (UTC), a space, and what."""


class StateSpan(Answer, kw_only=True):
    state: str
    """healthy, suspect, draining, quarantined, probation, disconnected, lost or left."""
    since: Time
    until: Time | None
    """null: it lasts."""
    reason: str


class StateHistory(Answer, kw_only=True):
    """Of one worker since the coordinator started, over all its sessions; of very many changes the latest."""

    is_here: bool
    """False: it is lost or left, and only its past is known."""
    spans: list[StateSpan]
    """Oldest first, without gaps."""


# Runs -----------------------------------------------------------------------------------------------------------


class SuiteState(Answer, kw_only=True):
    name: str
    kind: str
    """pytest, commands, or unknown for a run of the past."""
    state: str
    """collecting, planned or refused."""


class RunSummary(Answer, kw_only=True):
    run_id: str
    title: str
    owner: str
    directory: str
    priority: int
    state: str
    """collecting, running, cancelling, finished."""
    outcome: str | None
    """null while it is live; then finished, cancelled, abandoned or unfinished (its end was not recorded)."""
    is_live: bool
    is_success: bool | None
    """Every verdict is passed, skipped, xfailed or xpassed; null while it is live."""
    submitted_at: Time | None
    ended_at: Time | None
    duration_s: float | None
    tasks: int
    """Planned so far."""
    states: TaskCounts
    counts: dict[str, int]
    """Final verdicts; every verdict is there."""
    cancel_reason: str | None
    remaining_s: float | None
    """Predicted time to its end, if it had the whole fleet; null if nobody can say."""


class RunDetail(RunSummary, kw_only=True):
    suites: list[SuiteState]
    notices: list[str]
    """What its suites said: why one was not collected or is empty, who takes no part, why runners were spawned."""
    can_rerun: bool
    """Its submission is kept, so it can be run again."""


class Submitted(Answer, kw_only=True):
    run_id: str
    url: str


# Tasks ----------------------------------------------------------------------------------------------------------


class TaskRow(Answer, kw_only=True):
    task_id: str
    suite: str
    group: str
    position: int
    """In the order of the plan."""
    state: str
    """pending, queued, leased, running, finished."""
    verdict: str | None
    attempts: int
    duration_s: float | None
    """Of the attempt that decided; of a running one: so far."""
    expected_s: float | None
    worker: str | None
    started_at: Time | None
    reason: str


class NeedCondition(Answer, kw_only=True):
    """About a capability of a worker, as in the mark: ``cuda>=12``."""

    name: str
    operator: Literal["=", "!=", ">=", ">", "<=", "<", "==="]
    """===: the very same text, without case."""
    value: str


class Needs(Answer, kw_only=True):
    """What a worker must have and give to execute a test."""

    resources: dict[str, float]
    requires: list[list[NeedCondition]]
    """All of them; of each any one."""
    prefers: list[list[NeedCondition]]
    locks: list[str]
    alone: bool
    workers: int
    """That execute it together."""


class WorkloadTest(Answer, kw_only=True):
    """One test of a run, as a simulation of the run plays it."""

    task_id: str
    suite: str
    group: str
    keep_together: bool
    """The group is a user's mark and is never split."""
    priority: int
    duration_s: float | None
    """Of the attempt that decided; null: there was none yet."""
    expected_s: float | None
    """From the history: the median of its last passed attempts, each as on a typical worker; null: none passed."""
    worker: str | None
    needs: Needs | None
    """null: not known any more; it is of runs that are live or have just ended."""


class Attempt(Answer, kw_only=True):
    """One execution, or a verdict without one (``worker`` null)."""

    attempt: int
    verdict: str
    is_final: bool
    is_superseded: bool
    """It came under a lease that no longer counted: evidence, never the verdict."""
    worker: str | None
    runner: str | None
    slot: int | None
    started_at: Time | None
    duration_s: float | None
    setup_s: float | None
    call_s: float | None
    teardown_s: float | None
    cpu_s: float | None
    peak_memory_bytes: int | None
    output: str
    traceback: str
    """Failing reports, then evidence: signal, exit status, stack dump."""
    reason: str
    artifacts: list[str]


class Score(Answer, kw_only=True):
    """How good a place a worker is for a task, part by part; each in (0, 1], ``total`` is their product."""

    worker_id: str
    total: float
    fit: float
    free: float
    speed: float
    reliability: float
    locality: float
    preference: float


class TaskDetail(TaskRow, kw_only=True):
    run_id: str
    why: str
    """One sentence: why it is where it is."""
    requirements: str
    timeout_s: float | None
    retries: int
    priority: int
    depends_on: list[str]
    story: list[str]
    """What happened to it, newest last: a time (UTC), a space, and what; empty for a run of the past."""
    scores: list[Score]
    """While it is queued: workers that could run it, the best ten."""
    attempt_list: Annotated[list[Attempt], msgspec.Meta(description="All attempts, first one first.")]
    reproduce: str
    """A command line that runs this test alone."""


class FailureGroup(Answer, kw_only=True):
    """Failures whose tracebacks are alike."""

    signature: str
    headline: str
    count: int
    task_ids: list[str]
    """At most 100 of them."""
    example: Attempt
    example_task_id: str
    reproduce: str
    first_at: Time | None = None
    last_at: Time | None = None
    runs: int = 1


class Timeline(Answer, kw_only=True):
    """Attempts as columns: the n-th entries of all lists belong together. Ask again with ``after=next``."""

    origin: Time
    """``start_s`` counts from here."""
    lanes: list[str]
    """``worker/slot``; ``lane`` indexes this."""
    verdicts: list[str]
    """``verdict`` indexes this."""
    task_id: list[str]
    attempt: list[int]
    lane: list[int]
    start_s: list[float]
    duration_s: list[float]
    verdict: list[int]
    running: list[RunningTask]
    """What runs now; not among the columns."""
    next: str
    is_complete: bool
    """Nothing is left to ask for at the moment."""


# Queue and alerts -----------------------------------------------------------------------------------------------


class TaskRef(Answer, kw_only=True):
    run_id: str
    task_id: str


class WaitingGroup(Answer, kw_only=True):
    """Tasks that wait for the same reason."""

    reason: str
    count: int
    runs: list[str]
    examples: list[TaskRef]


class Queue(Answer, kw_only=True):
    waiting: int
    groups: list[WaitingGroup]


class Alert(Answer, kw_only=True):
    alert_id: str
    worker_id: str
    cause: str
    message: str
    state: str
    """open, acknowledged, cleared."""
    raised_at: Time
    acknowledged_by: str | None
    acknowledged_at: Time | None
    cleared_at: Time | None


# The past -------------------------------------------------------------------------------------------------------


class SlowTest(Answer, kw_only=True):
    task_id: str
    attempts: int
    median_s: float
    p95_s: float
    max_s: float
    total_s: float


class FlakyTest(Answer, kw_only=True):
    """``score``: share of attempts whose verdict differs from the one before.

    ``same_code``: runs in which it both failed and passed: the same code, different verdicts.
    """

    task_id: str
    score: float
    attempts: int
    passed: int
    failed: int
    runs: int
    same_code: int
    last_failed_at: Time | None
    verdicts: list[str]
    """The last ones, newest last."""


class TestAttempt(Answer, kw_only=True):
    run_id: str
    attempt: int
    verdict: str
    worker: str | None
    started_at: Time | None
    duration_s: float | None
    reason: str


class TestHistory(Answer, kw_only=True):
    """One test over time, newest attempt last."""

    task_id: str
    attempts: int
    passed: int
    failed: int
    median_s: float | None
    p95_s: float | None
    mad_s: float | None
    """Median distance from the median: the spread."""
    by_worker: list[MatrixCell]
    recent: list[TestAttempt]


class MatrixCell(Answer, kw_only=True):
    """``column`` is a worker, or a value of the capability that was asked for."""

    row: str
    column: str
    passed: int
    failed: int
    other: int
    median_s: float | None
    last_verdict: str


class Matrix(Answer, kw_only=True):
    by: str
    rows: list[str]
    columns: list[str]
    cells: list[MatrixCell]
    """Only those that are not empty."""


class TestName(Answer, kw_only=True):
    task_id: str
    attempts: int
    failed: int
    last_run_at: Time | None
    last_verdict: str


class LoginAnswer(Answer, kw_only=True):
    name: str
    role: str


class LoginCode(Answer, kw_only=True):
    """Good for one login within ``valid_s``; belongs after ``/login#code=``."""

    code: str
    valid_s: float


def utc(time_s: float | None) -> datetime | None:
    """Seconds since the epoch as a time; None for none and for what no calendar has."""
    if time_s is None:
        return None
    try:
        return datetime.fromtimestamp(round(time_s, 3), timezone.utc)
    except (OverflowError, OSError, ValueError):
        return None


def as_utc(naive: datetime | None) -> datetime | None:
    """A time of the history (naive, UTC)."""
    return naive.replace(tzinfo=timezone.utc) if naive is not None else None
