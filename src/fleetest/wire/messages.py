"""Every message of the worker link and the client link, as typed structs.

One WebSocket frame carries an array of messages (msgpack); an in-process link passes the same objects unencoded.
Unknown tags and unknown fields are refused. Bump ``PROTOCOL_VERSION`` whenever a message changes.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from fleetest.core.model import AttemptResult, Capabilities, Lease, LeaseId, RunId, TaskId, TaskSpec, Verdict, WorkerId

PROTOCOL_VERSION = 1


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag=True, kw_only=True):
    """Base of all messages; the tag is the class name."""


# What is to be run ---------------------------------------------------------------------------------------------


class PytestSuite(Message):
    """pytest arguments, executed in ``directory`` by ``python`` (None: the worker's own ``--python``)."""

    name: str = ""
    args: tuple[str, ...] = ()
    directory: str = ""
    """Absolute path that the worker must see too; the invocation directory of pytest."""
    python: str | None = None
    environment: dict[str, str] = {}
    """Set on top of the worker's own environment (its own secrets removed)."""
    path_entries: tuple[str, ...] | None = None
    """``sys.path`` of the client for an embedded run with the same interpreter; None: the interpreter's own."""
    start_method: str = "auto"
    """auto, fork or spawn."""
    timeout_s: float | None = None
    """Default for tests without a timeout of their own."""
    retries: int = 0
    priority: int = 0


class CommandSpec(Message):
    """One command line that is a test."""

    name: str
    argv: tuple[str, ...]
    directory: str
    environment: dict[str, str] = {}
    timeout_s: float | None = None
    expected_exit_status: int = 0
    artifacts: tuple[str, ...] = ()
    """Glob patterns relative to ``directory``; matches are copied to the run's artifact directory."""


class CommandSuite(Message):
    """Commands; their tasks come with the submission, nothing is collected."""

    name: str = ""
    commands: tuple[CommandSpec, ...] = ()
    tasks: tuple[TaskSpec, ...] = ()
    """Same order and length as ``commands``."""
    artifact_directory: str | None = None


Suite: TypeAlias = PytestSuite | CommandSuite


class ItemInfo(msgspec.Struct, frozen=True, array_like=True):
    """What pytest's reporters need of one collected item. Parallel to the plan's tasks."""

    node_id: str
    path: str
    line: int | None
    """0-based, as in pytest's ``location``."""
    domain: str
    keywords: tuple[str, ...]


# Worker -> coordinator -----------------------------------------------------------------------------------------


class WorkerHello(Message):
    version: int
    name: str
    session: str
    """Random, new for every worker process: the same session may come back and keep its leases."""
    slots: int
    capabilities: Capabilities
    host: str = ""
    held_leases: tuple[LeaseId, ...] = ()


class SuiteCollected(Message):
    """``fingerprint`` is a hash over the ordered ids. Tasks and items are sent only when asked for by SendPlan."""

    run_id: RunId
    suite: str
    fingerprint: str
    count: int


class SuitePlan(Message):
    """Answer to SendPlan: the whole collection."""

    run_id: RunId
    suite: str
    fingerprint: str
    tasks: list[TaskSpec]
    items: list[ItemInfo]
    deselected: tuple[str, ...] = ()
    report_lines: tuple[str, ...] = ()
    """What pytest_report_collectionfinish hooks returned where it was collected."""


class CollectionReports(Message):
    """Failed and skipped collect reports and warnings from collection, serialised by pytest; opaque until the client."""

    run_id: RunId
    suite: str
    reports: tuple[bytes, ...] = ()
    warnings: tuple[bytes, ...] = ()


class SuiteFailed(Message):
    """Collection ended without a plan.

    ``kind``: ``usage_error`` | ``exit`` | ``interrupted`` | ``internal_error`` | ``collection_errors`` |
    ``unavailable`` (only this machine cannot: no such directory, interpreter without pytest).
    """

    run_id: RunId
    suite: str
    kind: str
    text: str = ""
    exit_status: int | None = None


class AttemptsStarted(Message):
    leases: tuple[tuple[LeaseId, float], ...]
    """(lease, wall time of the start)."""


class AttemptsFinished(Message):
    results: list[AttemptResult]


class LeasesReturned(Message):
    lease_ids: tuple[LeaseId, ...]
    not_collectable: bool = False


class InfrastructureFailed(Message):
    lease_ids: tuple[LeaseId, ...]
    reason: str


class RunWarnings(Message):
    """pytest warnings from tests, serialised; opaque until the client."""

    run_id: RunId
    warnings: tuple[bytes, ...]


class RunOutput(Message):
    """What user code wrote past pytest's capture (``-s``, conftest at import): to be shown as it is."""

    run_id: RunId
    stream: str
    text: str


class RunNotice(Message):
    """One line for the user, said once per run: why runners are spawned instead of forked, and the like."""

    run_id: RunId
    text: str


class ExitRequested(Message):
    """A test called pytest.exit (``kind`` exit), raised KeyboardInterrupt (interrupted) or broke pytest (internal_error)."""

    run_id: RunId
    kind: str
    reason: str
    exit_status: int | None = None


class Heartbeat(Message):
    """Full state of the worker: level-triggered, so that a lost message costs one interval."""

    held_leases: tuple[LeaseId, ...] = ()
    load_average: float = 0.0
    memory_available_bytes: int = 0


class Draining(Message):
    pass


class Goodbye(Message):
    reason: str = ""


WorkerMessage: TypeAlias = (
    WorkerHello
    | SuiteCollected
    | SuitePlan
    | CollectionReports
    | SuiteFailed
    | AttemptsStarted
    | AttemptsFinished
    | LeasesReturned
    | InfrastructureFailed
    | RunWarnings
    | RunOutput
    | RunNotice
    | ExitRequested
    | Heartbeat
    | Draining
    | Goodbye
)

# Coordinator -> worker -----------------------------------------------------------------------------------------


class Welcome(Message):
    version: int
    epoch: int
    heartbeat_interval_s: float
    worker_id: WorkerId | None = None
    """The name under which the coordinator lists this worker; None on a client link."""


class PrepareRun(Message):
    run_id: RunId
    suites: tuple[Suite, ...]
    first_runner: int
    runner_count: int


class SendPlan(Message):
    run_id: RunId
    suite: str


class GrantLeases(Message):
    slot: int
    leases: tuple[Lease, ...]


class SlotIdle(Message):
    slot: int


class RevokeLeases(Message):
    lease_ids: tuple[LeaseId, ...]


class KillLeases(Message):
    lease_ids: tuple[LeaseId, ...]
    reason: str


class EndRun(Message):
    run_id: RunId


class Refused(Message):
    """The coordinator will close the link: wrong version, replaced by a newer session, draining."""

    reason: str


CoordinatorMessage: TypeAlias = (
    Welcome | PrepareRun | SendPlan | GrantLeases | SlotIdle | RevokeLeases | KillLeases | EndRun | Refused
)

# Client -> coordinator -----------------------------------------------------------------------------------------


class ClientHello(Message):
    version: int


class SubmitRun(Message):
    run_id: RunId
    """32 hex digits chosen by the client; also pytest-xdist's test run uid."""
    suites: tuple[Suite, ...]
    owner: str = ""
    priority: int = 0
    title: str = ""
    """The command line as the user typed it, for history."""


class CancelRun(Message):
    run_id: RunId
    reason: str
    kill: bool = False
    quiet: bool = False


ClientMessage: TypeAlias = ClientHello | SubmitRun | CancelRun | Heartbeat | Goodbye

# Coordinator -> client -----------------------------------------------------------------------------------------


class RunAccepted(Message):
    run_id: RunId
    workers: tuple[str, ...] = ()
    slots: int = 0


class FleetChanged(Message):
    """Workers (name, slots) now serving; sent when it changes."""

    workers: tuple[tuple[str, int], ...]


class TasksStarted(Message):
    run_id: RunId
    tasks: tuple[tuple[TaskId, int, str, str], ...]
    """(task, attempt, worker, runner id such as ``gw3``)."""


class Outcome(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One attempt's outcome as published by the core (see ``core.commands.TaskOutcome``)."""

    task_id: TaskId
    attempt: int
    verdict: Verdict
    is_final: bool
    worker: str = ""
    runner: str = ""
    """``gwN``; empty if nothing was executed."""
    result: AttemptResult | None = None
    reason: str = ""


class TasksFinished(Message):
    run_id: RunId
    outcomes: list[Outcome]


class RunFinished(Message):
    run_id: RunId
    counts: dict[str, int]


CoordinatorToClient: TypeAlias = (
    Welcome
    | Refused
    | RunAccepted
    | FleetChanged
    | SuitePlan
    | CollectionReports
    | SuiteFailed
    | TasksStarted
    | TasksFinished
    | RunWarnings
    | RunOutput
    | RunNotice
    | ExitRequested
    | RunFinished
    | Heartbeat
)
