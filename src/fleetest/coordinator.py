"""The coordinator: frames to events, commands to frames. All state that decides anything is in ``ClusterState``.

Everything runs on one event loop and nothing here waits for a peer: a message or a deadline becomes an event, the
event is applied, and the commands that come back are sent before the next message is looked at.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import math
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from fleetest.client_peers import ClientPeer, ClientPeers
from fleetest.core import commands, events
from fleetest.core.cluster_state import STALL_S
from fleetest.core.model import Capabilities, RunId, WorkerId
from fleetest.errors import LinkClosed, NotReady, RemoteProtocolError
from fleetest.live_run import RUN_MESSAGES, ClientLink, LiveRun
from fleetest.live_runs import LiveRuns
from fleetest.processes.identity import wait_dead
from fleetest.storage import records
from fleetest.storage.records import HistorySink
from fleetest.transport.link import Link
from fleetest.wire import messages as wire
from fleetest.wire.codec import VersionMismatch
from fleetest.wire.session import HANDSHAKE_TIMEOUT_S, Hello, check_hello
from fleetest.wire.translation import EVENT_OF, MESSAGE_OF
from fleetest.worker_peers import WorkerLink, WorkerPeer, WorkerPeers

if TYPE_CHECKING:
    from fleetest.core.cluster_state import ClusterState

Observer = Callable[[events.Event, Sequence[commands.Command]], None]

CLOSED_GOING_AWAY = 1001
CLOSED_PROTOCOL_ERROR = 1002
CLOSED_POLICY = 1008
CLOSED_INTERNAL_ERROR = 1011
CLOSED_TRY_AGAIN_LATER = 1013

_log = logging.getLogger("fleetest.coordinator")
CLIENT_GRACE_S = 1.0
"""A client whose link closed without goodbye keeps its runs for this long: its last words may still be on the way."""


class _SaidGoodbye(Exception):
    """The peer leaves by itself."""


class Coordinator:
    """Serves any number of workers and clients; see the module's text.

    ``history`` is used, never closed: its owner closes it after ``close``. ``clock`` must be monotonic, in seconds.
    """

    def __init__(
        self,
        state: ClusterState,
        *,
        history: HistorySink | None,
        clock: Callable[[], float] = time.monotonic,
        client_grace_s: float = CLIENT_GRACE_S,
    ) -> None:
        self.failed = asyncio.Event()
        """Set when the coordinator broke one of its own rules (see ``failure``): every link is closed then."""
        self.failure: Exception | None = None
        self.takes_no_runs = ""
        """Why it takes no new runs at the moment; empty if it does."""
        self.state = self._state = state
        self._history = history
        self._clock = clock
        self._is_closing = False
        self._links: set[Link[Any, Any]] = set()
        """All that are served, also those that have not said hello yet."""
        self._workers = WorkerPeers()
        self._clients = ClientPeers(self._workers)
        self._runs = LiveRuns(self, state, self._workers, history, client_grace_s)
        self._joining: WorkerId | None = None
        self._observers: list[Observer] = []
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._closings: set[asyncio.Task[None]] = set()
        self._background: set[asyncio.Task[None]] = set()
        self._on_command: dict[type, Callable[[Any], None]] = {
            commands.PublishOutcomes: lambda c: self._runs.by_id[c.run_id].publish_outcomes(c),
            commands.PublishStarted: lambda c: self._runs.by_id[c.run_id].publish_started(c),
            commands.PrepareRun: lambda c: self.tell_worker(c.worker_id, self._runs.by_id[c.run_id].prepare(c)),
            commands.DisconnectWorker: self._disconnect_worker,
            commands.ReportStrayResults: lambda c: None,  # For those who look on.
            commands.PublishNotice: lambda c: self._runs.by_id[c.run_id].publish_notice(c.text),
            commands.RunFinished: self._runs.finished,
            commands.RaiseAlert: self._raise_alert,
            commands.ClearAlert: self._clear_alert,
        }

    # Links ---------------------------------------------------------------------------------------------------

    async def serve_worker(self, link: WorkerLink) -> None:
        """Serve one worker until its link closes. Never raises for what the peer does."""
        peer: WorkerPeer | None = None
        self._links.add(link)
        reason, said_goodbye = "the coordinator stopped serving it", False
        mistake: RemoteProtocolError | None = None
        try:
            hello, batch = await self._first_message(link, wire.WorkerHello)
            peer = self._welcome_worker(link, hello)
            while True:
                for message in batch:
                    self._on_worker_message(peer, message)
                batch = list(await link.receive())
        except LinkClosed as closed:
            reason = closed.reason or "the link closed"
        except _SaidGoodbye as goodbye:
            reason, said_goodbye = str(goodbye), True
        except RemoteProtocolError as error:
            reason, mistake = str(error), error
        finally:
            # Before the link is closed, which may take its time: it gets no more work.
            self._links.discard(link)
            if peer is not None:
                self._worker_left(peer, reason, said_goodbye)
        await _close(link, mistake)

    async def serve_client(self, link: ClientLink) -> None:
        """Serve one client until its link closes. Its unfinished runs are then cancelled."""
        peer = ClientPeer(link)
        self._links.add(link)
        said_goodbye = False
        mistake: RemoteProtocolError | None = None
        try:
            _, batch = await self._first_message(link, wire.ClientHello)
            link.send(self._welcome(None))
            self._clients.add(peer)
            while True:
                for message in batch:
                    self._on_client_message(peer, message)
                batch = list(await link.receive())
        except LinkClosed:
            pass
        except _SaidGoodbye:
            said_goodbye = True
        except RemoteProtocolError as error:
            mistake = error
        except NotReady as error:
            link.send(wire.Refused(reason=str(error)))
        finally:
            self._links.discard(link)
            self._client_left(peer, said_goodbye)
        await _close(link, mistake)

    async def close(self) -> None:
        """Close every link; runs that are not finished are recorded as abandoned. ``history`` stays open."""
        self._is_closing = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._runs.abandon_all()
        for task in self._background:
            task.cancel()
        self._close_all_links("the coordinator is stopping", CLOSED_GOING_AWAY)
        while self._closings:
            await asyncio.wait(self._closings)

    # What people see and ask for -----------------------------------------------------------------------------

    @property
    def worker_facts(self) -> Mapping[WorkerId, WorkerPeer]:
        """Workers whose link is open."""
        return self._workers.by_id

    @property
    def run_facts(self) -> Mapping[RunId, LiveRun]:
        """Runs that are not finished."""
        return self._runs.by_id

    @property
    def client_count(self) -> int:
        return len(self._clients)

    def now(self) -> float:
        """The clock that decides."""
        return self._clock()

    def observe(self, observer: Observer) -> None:
        """``observer`` is called after each event, with what it commanded. One that raises is not called again."""
        self._observers.append(observer)

    def submit(self, submission: wire.SubmitRun, *, submitter: str) -> None:
        """Take in a run that no client follows: it goes on whoever leaves. Raises RemoteProtocolError, NotReady."""
        self._take_in(submission, None, submitter)

    def cancel(self, run_id: RunId, reason: str, *, kill: bool = False, quiet: bool = False) -> None:
        """End a run; nothing happens if it is over."""
        self._runs.cancel(run_id, reason, kill=kill, quiet=quiet)

    async def _first_message(self, link: Link[Any, Any], expected: type[Hello]) -> tuple[Hello, list[Any]]:
        if self._is_closing:
            await link.close("the coordinator is stopping", CLOSED_GOING_AWAY)
        try:
            first, *others = await asyncio.wait_for(link.receive(), HANDSHAKE_TIMEOUT_S)
        except asyncio.TimeoutError:
            raise RemoteProtocolError(f"no {expected.__name__} within {HANDSHAKE_TIMEOUT_S:.0f} s") from None
        return check_hello(first, expected), others

    def _welcome(self, worker_id: WorkerId | None) -> wire.Welcome:
        return wire.Welcome(
            version=wire.PROTOCOL_VERSION,
            epoch=self._state.cluster.epoch,
            heartbeat_interval_s=self._state.cluster.heartbeat_interval_s(),
            worker_id=worker_id,
        )

    def _close_all_links(self, reason: str, code: int) -> None:
        for link in self._links:
            self._close_soon(link, reason, code)

    def _close_soon(self, link: Link[Any, Any], reason: str, code: int) -> None:
        self._keep(self._closings, link.close(reason, code))

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        """Ends with the coordinator at the latest."""
        self._keep(self._background, work)

    @staticmethod
    def _keep(tasks: set[asyncio.Task[None]], work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    # Events and commands -------------------------------------------------------------------------------------

    def apply(self, event: events.Event) -> None:
        """Apply one event and do what it commands; for the shell's own parts."""
        if self._is_closing:
            return
        try:
            commanded = self._state.apply(event, self._clock())
            for command in commanded:
                kind = type(command)
                if kind in MESSAGE_OF:
                    self.tell_worker(command.worker_id, MESSAGE_OF[kind](command))  # type: ignore[union-attr]
                else:
                    self._on_command[kind](command)
            for observer in self._observers:
                self._tell_observer(observer, event, commanded)
            self._arm_timer()
        except Exception as error:
            self._fail(error)
            raise

    def _tell_observer(self, observer: Observer, event: events.Event, commanded: Sequence[commands.Command]) -> None:
        try:
            observer(event, commanded)
        except Exception:
            # Whoever only looks on must not end a run.
            _log.exception("an observer failed and is told no more")
            self._observers = [other for other in self._observers if other is not observer]

    def _fail(self, error: Exception) -> None:
        """Our own mistake: nobody may wait for an answer that will not come."""
        if self.failure is None:
            _log.error("the coordinator broke one of its own rules and stops", exc_info=error)
            self.failure = error
            self._is_closing = True
            self.failed.set()
            self._close_all_links(f"internal error of the coordinator: {error}", CLOSED_INTERNAL_ERROR)

    def _arm_timer(self) -> None:
        due = self._state.next_deadline()
        if due is None or math.isinf(due) or (self._timer is not None and self._timer_at <= due):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = due
        delay_s = max(0.0, due - self._clock())
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        due = self._state.next_deadline()
        now = self._clock()
        if due is not None and now - due > STALL_S:
            _log.warning("the coordinator did not run for %.1f s: this is not held against the workers", now - due)
        if due is not None and due <= now:
            self.apply(events.DeadlineReached())
        else:
            self._arm_timer()

    def record(self, *rows: records.Record) -> None:
        if self._history is not None:
            self._history.record(*rows)

    def known_capabilities(self) -> list[Capabilities]:
        """Of the workers that are linked now; for the shell's own parts."""
        return [peer.hello.capabilities for peer in self._workers.by_id.values()]

    def is_refused(self, run_id: RunId, suite: str) -> bool:
        """True if the suite of this run, which is not finished, ended without a plan; for the shell's own parts."""
        return self._state.cluster.runs[run_id].suites[suite].is_refused

    # Workers -------------------------------------------------------------------------------------------------

    def _welcome_worker(self, link: WorkerLink, hello: wire.WorkerHello) -> WorkerPeer:
        is_same_session = self._workers.is_known(hello.session)
        peer, older = self._workers.add(link, hello)
        worker_id = peer.worker_id
        if older is not None:
            self._close_soon(older.link, "replaced by a newer link of this worker", CLOSED_POLICY)
        link.send(self._welcome(worker_id))
        seen = records.WorkerSeen(worker_id, hello.host, hello.slots, hello.capabilities, time.time())
        self.record(seen)
        self._clients.fleet_changed()
        self._joining = worker_id
        try:
            self.apply(
                events.WorkerJoined(
                    worker_id,
                    hello.session,
                    hello.slots,
                    hello.capabilities,
                    hello.held_leases,
                    hello.has_probe,
                    address=hello.address or _host_of(link.peer),
                )
            )
        finally:
            self._joining = None
        for run_id in hello.runs:
            if run_id not in self._runs.by_id:  # It ended while this worker had no link, and nobody could say so.
                link.send(wire.EndRun(run_id=run_id))
        self._runs.worker_back(worker_id, is_same_session=is_same_session)
        return peer

    def _worker_left(self, peer: WorkerPeer, reason: str, said_goodbye: bool) -> None:
        if not self._workers.remove(peer, for_good=said_goodbye) or self._is_closing:
            return
        self.apply(events.WorkerDisconnected(peer.worker_id, reason, said_goodbye=said_goodbye))
        if peer.process and not said_goodbye:
            self._in_background(self._look_for_death(peer))
        self._runs.worker_gone(peer.worker_id)
        self._clients.fleet_changed()

    async def _look_for_death(self, peer: WorkerPeer) -> None:
        """A worker of this machine whose process has ended is not waited for."""
        is_dead = await wait_dead(peer.process, self._state.cluster.limits.reconnect_grace_s)
        worker = self._state.cluster.workers.get(peer.worker_id)
        if is_dead and worker is not None and worker.session == peer.hello.session:
            self.apply(events.WorkerDisconnected(peer.worker_id, "its process died", process_is_dead=True))

    def tell_worker(self, worker_id: WorkerId, message: wire.CoordinatorMessage) -> None:
        peer = self._workers.get(worker_id)
        if peer is not None:
            peer.link.send(message)

    def _on_worker_message(self, peer: WorkerPeer, message: wire.WorkerMessage) -> None:
        if isinstance(message, wire.Goodbye):
            raise _SaidGoodbye(message.reason or "the worker said goodbye")
        if isinstance(message, wire.Heartbeat):
            peer.load_average = message.load_average
            peer.memory_available_bytes = message.memory_available_bytes
        as_event = EVENT_OF.get(type(message))
        if as_event is not None:
            self.apply(as_event(peer.worker_id, message))
        elif isinstance(message, RUN_MESSAGES):
            run = self._runs.by_id.get(message.run_id)
            if run is not None:  # What a worker still says of a run that is over has no reader.
                run.take(peer.worker_id, message)
        else:
            raise RemoteProtocolError(f"an unexpected {type(message).__name__}")

    # Clients -------------------------------------------------------------------------------------------------

    def _on_client_message(self, peer: ClientPeer, message: wire.ClientMessage) -> None:
        if isinstance(message, wire.SubmitRun):
            self._submit(peer, message)
        elif isinstance(message, wire.CancelRun):
            self._cancel(peer, message)
        elif isinstance(message, wire.Heartbeat):
            peer.link.send(message)
        elif isinstance(message, wire.Goodbye):
            raise _SaidGoodbye(message.reason)
        else:
            raise RemoteProtocolError(f"an unexpected {type(message).__name__}")

    def _submit(self, peer: ClientPeer, submission: wire.SubmitRun) -> None:
        identity = getattr(peer.link, "identity", None)
        if identity is not None and not submission.owner:
            submission = msgspec.structs.replace(submission, owner=identity.name)
        submitter = identity.token_id if identity is not None else ""
        self._take_in(submission, peer.link, submitter)
        peer.run_ids.add(submission.run_id)

    def _take_in(self, submission: wire.SubmitRun, client: ClientLink | None, submitter: str) -> None:
        if self.takes_no_runs:
            raise NotReady(f"no new runs are taken now: {self.takes_no_runs}")
        self._runs.take_in(submission, client, submitter)

    def _cancel(self, peer: ClientPeer, message: wire.CancelRun) -> None:
        if message.run_id not in self._runs.by_id:
            return  # It ended while the message was on its way.
        if message.run_id not in peer.run_ids:
            raise RemoteProtocolError("only the client that submitted a run cancels it")
        self.cancel(message.run_id, message.reason, kill=message.kill, quiet=message.quiet)

    def _client_left(self, peer: ClientPeer, said_goodbye: bool) -> None:
        self._clients.discard(peer)
        if not self._is_closing:
            self._runs.client_left(peer.run_ids, said_goodbye=said_goodbye)

    # Commands ------------------------------------------------------------------------------------------------

    def _disconnect_worker(self, command: commands.DisconnectWorker) -> None:
        peer = self._workers.get(command.worker_id)
        if peer is not None and command.worker_id != self._joining:
            self._close_soon(peer.link, command.reason, CLOSED_POLICY)

    def _raise_alert(self, command: commands.RaiseAlert) -> None:
        who = command.worker_id or "coordinator"
        message = "alert %s: %s: %s: %s"
        fields = _fields_of(command, "alert_raised")
        _log.warning(message, command.alert_id, who, command.cause, command.message, extra=fields)

    def _clear_alert(self, command: commands.ClearAlert) -> None:
        who = command.worker_id or "coordinator"
        fields = _fields_of(command, "alert_cleared")
        _log.warning("alert %s is over: %s: %s", command.alert_id, who, command.cause, extra=fields)


def _fields_of(command: commands.RaiseAlert | commands.ClearAlert, event: str) -> dict[str, Any]:
    """For logs that programs read."""
    fields = {"event": event, "alert": command.alert_id, "worker": command.worker_id, "cause": str(command.cause)}
    return {"fields": fields}


async def _close(link: Link[Any, Any], mistake: RemoteProtocolError | None) -> None:
    """``mistake`` is why nothing that this peer sent is believed any more: it is told, then the link is closed."""
    if mistake is None:
        await link.close()
        return
    if isinstance(mistake, VersionMismatch):
        link.send(wire.Refused(reason=str(mistake)))
    _log.warning("%s: closed for breaking the protocol: %s", link.peer, mistake)
    await link.close(str(mistake)[:500], CLOSED_PROTOCOL_ERROR)


def _host_of(peer: str) -> str:
    """The address of a peer, with or without a port; empty for a link that is none of the network."""
    for host in (peer, peer.rpartition(":")[0].strip("[]")):
        try:
            return str(ipaddress.ip_address(host))
        except ValueError:
            pass
    return ""
