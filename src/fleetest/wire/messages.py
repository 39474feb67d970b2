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


class PytestSuite(Message, frozen=True):
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
    hedge: bool = True
    """A second attempt of a test may be started on another worker while the first runs."""
    backoff_s: float = 0.0
    each: str = ""
    """Name of a capability: tests that say nothing themselves run once on every distinct value of it."""


class CommandSpec(Message, frozen=True):
    """One command line that is a test."""

    name: str
    argv: tuple[str, ...]
    directory: str
    environment: dict[str, str] = {}
    timeout_s: float | None = None
    expected_exit_status: int = 0
    artifacts: tuple[str, ...] = ()
    """Glob patterns relative to ``directory``; matches are copied to the run's artifact directory."""


class CommandSuite(Message, frozen=True):
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


class WorkerHello(Message, frozen=True):
    version: int
    name: str
    session: str
    """Random, new for every worker process: the same session may come back and keep its leases."""
    slots: int
    capabilities: Capabilities
    host: str = ""
    address: str = ""
    """Under which other machines reach this one; empty: where the link comes from."""
    held_leases: tuple[LeaseId, ...] = ()
    runs: tuple[RunId, ...] = ()
    """What it has processes for; some of it may have ended while it had no link."""
    process: str = ""
    """Which process it is (see ``processes.identity``): a coordinator on the same machine notices its death at once."""
    has_probe: bool = False
    """It runs a probe and says ``Probed`` when that is done."""


class SuiteCollected(Message, frozen=True):
    """``fingerprint`` is a hash over the ordered ids. Tasks and items are sent only when asked for by SendPlan."""

    run_id: RunId
    suite: str
    fingerprint: str
    count: int
    unimported: tuple[str, ...] = ()
    """Node ids of modules and folders that could not be imported here and so are left out. Others may have them."""


class SuitePlan(Message, frozen=True):
    """Answer to SendPlan: the whole collection."""

    run_id: RunId
    suite: str
    fingerprint: str
    tasks: list[TaskSpec]
    items: list[ItemInfo]
    deselected: tuple[str, ...] = ()
    report_lines: tuple[str, ...] = ()
    """What pytest_report_collectionfinish hooks returned where it was collected."""


class CollectionReports(Message, frozen=True):
    """Failed and skipped collect reports and warnings from collection, serialised by pytest; opaque on the way."""

    run_id: RunId
    suite: str
    reports: tuple[bytes, ...] = ()
    warnings: tuple[bytes, ...] = ()


class SuiteFailed(Message, frozen=True):
    """Collection ended without a plan.

    ``kind``: ``usage_error`` | ``exit`` | ``interrupted`` | ``internal_error`` | ``collection_errors`` |
    ``unavailable`` (only this machine cannot: no such directory, interpreter without pytest).
    """

    run_id: RunId
    suite: str
    kind: str
    text: str = ""
    exit_status: int | None = None
    collected: int = 0
    """Items that were collected before or beside the errors."""
    import_error: str = ""
    """If that is all that was wrong: what could not be imported. Other machines may have it."""
    unimported: tuple[str, ...] = ()
    """Node ids of the modules and folders that could not be imported."""


class AttemptsStarted(Message, frozen=True):
    leases: tuple[tuple[LeaseId, float], ...]
    """(lease, wall time of the start)."""


class AttemptsFinished(Message, frozen=True):
    results: list[AttemptResult]


class LeasesReturned(Message, frozen=True):
    lease_ids: tuple[LeaseId, ...]
    not_collectable: bool = False


class InfrastructureFailed(Message, frozen=True):
    lease_ids: tuple[LeaseId, ...]
    reason: str
    has_started: bool = False
    """These tests were running, whether or not AttemptsStarted said so."""


class RunWarnings(Message, frozen=True):
    """pytest warnings from tests, serialised; opaque until the client."""

    run_id: RunId
    warnings: tuple[bytes, ...]


class RunOutput(Message, frozen=True):
    """What user code wrote past pytest's capture (``-s``, conftest at import): to be shown as it is."""

    run_id: RunId
    stream: str
    text: str


class RunNotice(Message, frozen=True):
    """One line for the user, said once per run: why runners are spawned instead of forked, and the like."""

    run_id: RunId
    text: str
    is_urgent: bool = False
    """To be read now, not at the end: somebody waits."""


class ExitRequested(Message, frozen=True):
    """A test called pytest.exit (``kind`` exit), raised KeyboardInterrupt (interrupted) or broke pytest."""

    run_id: RunId
    kind: str
    reason: str
    exit_status: int | None = None


class Heartbeat(Message, frozen=True):
    """Full state of the worker: level-triggered, so that a lost message costs one interval."""

    held_leases: tuple[LeaseId, ...] = ()
    load_average: float = 0.0
    memory_available_bytes: int = 0


class Probed(Message, frozen=True):
    """The worker's probe has a new result; repeated on every new link."""

    is_ok: bool
    detail: str = ""


class Draining(Message, frozen=True):
    pass


class Goodbye(Message, frozen=True):
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
    | Probed
    | Draining
    | Goodbye
)

# Coordinator -> worker -----------------------------------------------------------------------------------------


class Welcome(Message, frozen=True):
    version: int
    epoch: int
    heartbeat_interval_s: float
    worker_id: WorkerId | None = None
    """The name under which the coordinator lists this worker; None on a client link."""


class PrepareRun(Message, frozen=True):
    run_id: RunId
    suites: tuple[Suite, ...]
    first_runner: int
    runner_count: int


class SendPlan(Message, frozen=True):
    run_id: RunId
    suite: str


class GrantLeases(Message, frozen=True):
    slot: int
    leases: tuple[Lease, ...]


class SlotIdle(Message, frozen=True):
    slot: int


class RevokeLeases(Message, frozen=True):
    lease_ids: tuple[LeaseId, ...]


class KillLeases(Message, frozen=True):
    lease_ids: tuple[LeaseId, ...]
    reason: str


class SetHeartbeat(Message, frozen=True):
    """Beat at this interval from now on."""

    interval_s: float


class EndRun(Message, frozen=True):
    run_id: RunId


class Refused(Message, frozen=True):
    """The coordinator will close the link: wrong version, or (a client's) no new runs are taken at the moment."""

    reason: str


CoordinatorMessage: TypeAlias = (
    Welcome
    | PrepareRun
    | SendPlan
    | GrantLeases
    | SlotIdle
    | RevokeLeases
    | KillLeases
    | EndRun
    | SetHeartbeat
    | Refused
)

# Client -> coordinator -----------------------------------------------------------------------------------------


class ClientHello(Message, frozen=True):
    version: int


class SubmitRun(Message, frozen=True):
    run_id: RunId
    """32 hex digits chosen by the client; also pytest-xdist's test run uid."""
    suites: tuple[Suite, ...]
    owner: str = ""
    priority: int = 0
    weight: float = 1.0
    """Fair share: a run of weight 3 gets three times the slots of one of weight 1."""
    title: str = ""
    """The command line as the user typed it, for history."""
    wait_for_workers_s: float | None = None
    """How long work that no known worker can do waits for one that can, seconds; None: for ever."""
    only: tuple[TaskId, ...] = ()
    """Of what its suites hold, these alone are run; empty: everything."""


class CancelRun(Message, frozen=True):
    run_id: RunId
    reason: str
    kill: bool = False
    quiet: bool = False


ClientMessage: TypeAlias = ClientHello | SubmitRun | CancelRun | Heartbeat | Goodbye

# Coordinator -> client -----------------------------------------------------------------------------------------


class RunAccepted(Message, frozen=True):
    run_id: RunId
    workers: tuple[str, ...] = ()
    slots: int = 0


class FleetChanged(Message, frozen=True):
    """Workers (name, slots) now serving; sent after Welcome and when it changes."""

    workers: tuple[tuple[str, int], ...]


class TasksStarted(Message, frozen=True):
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
    members: tuple[Outcome, ...] = ()
    """Of a gang: what each member said, in order of rank."""


class TasksFinished(Message, frozen=True):
    run_id: RunId
    outcomes: list[Outcome]


class RunFinished(Message, frozen=True):
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
