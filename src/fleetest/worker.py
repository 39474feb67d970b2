"""The worker: a link to the coordinator on one side, the execution on the other. Runs no user code."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import random
import signal
import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fleetest.core.model import Capabilities
from fleetest.errors import ExitStatus, LinkClosed, RemoteProtocolError, UserError
from fleetest.processes.execution import Execution
from fleetest.processes.identity import own_identity
from fleetest.processes.launch import PrestartedTemplate
from fleetest.processes.probe import Probe, ProbeResult, ProbeSettings
from fleetest.processes.reporting import ExecutionLimits
from fleetest.transport.link import Link
from fleetest.wire import messages as wire
from fleetest.wire.session import HANDSHAKE_TIMEOUT_S

WorkerLink = Link[wire.CoordinatorMessage, wire.WorkerMessage]

_log = logging.getLogger("fleetest.worker")
_JITTER = 0.1
_BACKOFF_MIN_S = 0.1
_BACKOFF_MAX_S = 5.0
_CLOSED_PROTOCOL_ERROR = 1002
_UNWELCOME_MAX = 5
"""Links without a welcome before the first one: a coordinator that is just restarting closes one or two."""


@dataclass(frozen=True)
class WorkerSettings:
    """What the operator decides about a worker."""

    name: str
    slots: int
    python: str | None = None
    """Interpreter for suites that name none; None: the worker's own."""
    scratch: Path | None = None
    """Directory for stack dumps and the like; None: a temporary one, removed at the end."""
    term_grace_s: float = 5.0
    """Between SIGTERM and SIGKILL of a test that is overdue."""
    output_limit_bytes: int = 1024 * 1024
    """Captured output kept per attempt."""
    heartbeat: bool = True
    drain_timeout_s: float = 60.0
    probe: ProbeSettings | None = None
    """A command that must succeed before this machine gets work, and from time to time after that."""
    is_embedded: bool = False
    """In the coordinator's process: no heartbeats, and the link never breaks."""
    address: str = ""
    """Under which other machines reach this one; empty: where its link comes from."""
    keeps_spare: bool = False
    """An interpreter with pytest imported waits while there is no run, so that the next one starts sooner."""


class Worker:
    """Belongs to one event loop. ``serve`` may be called again with a new link: the same session goes on.

    ``adopt`` is a template that was started already; it becomes this worker's.
    """

    def __init__(
        self, settings: WorkerSettings, *, capabilities: Capabilities, adopt: PrestartedTemplate | None = None
    ) -> None:
        self.settings = settings
        self.is_over = False
        """Drained or closed: nothing more is to be served."""
        self.welcomes = 0
        """How often a coordinator has accepted this worker."""
        self._capabilities = capabilities
        self._session = uuid.uuid4().hex
        self._name = settings.name
        """The one that it was given, from its first welcome on: after a restart of the coordinator it is the same."""
        self._adopt = adopt
        self._execution: Execution | None = None
        self._epoch: int | None = None
        self._link: WorkerLink | None = None
        self._is_draining = False
        self._interval_s = 0.0
        """Between heartbeats, as the coordinator said last."""
        self._beat_soon = asyncio.Event()
        self._probe = Probe(settings.probe, self._probed) if settings.probe is not None else None
        self._probe_failed = False
        self._probing: asyncio.Task[None] | None = None

    @property
    def _work(self) -> Execution:
        # Made late: it belongs to the running loop, the worker itself may be made before there is one.
        if self._execution is None:
            settings = self.settings
            self._execution = Execution(
                worker_name=settings.name,
                slots=settings.slots,
                python=settings.python,
                scratch=settings.scratch,
                limits=ExecutionLimits(settings.term_grace_s, settings.output_limit_bytes),
                is_embedded=settings.is_embedded,
                adopt=self._adopt,
                keeps_spare=settings.keeps_spare,
            )
            self._adopt = None
        return self._execution

    # The link -----------------------------------------------------------------------------------------------------

    async def serve(self, link: WorkerLink, on_welcome: Callable[[], None] = lambda: None) -> None:
        """Say hello, then execute what comes until the link closes or the worker is drained or closed.

        ``on_welcome`` is called when the coordinator has accepted this worker. Raises LinkClosed if the link broke
        (tests go on; serve another link), UserError if the coordinator refuses this worker, RemoteProtocolError if it
        sent nonsense.
        """
        work = self._work
        self._link = link
        heartbeats: list[asyncio.Task[None]] = []
        try:
            link.send(self._hello())
            if self._probe is not None and self._probing is None:
                self._probing = asyncio.get_running_loop().create_task(self._probe.run())
            is_welcome = False
            while not self.is_over:
                for message in await _receive(link, None if is_welcome else HANDSHAKE_TIMEOUT_S):
                    if isinstance(message, wire.Welcome):
                        self._take_welcome(link, message)
                        is_welcome = True
                        on_welcome()
                        heartbeats += self._start_heartbeat(link)
                    elif is_welcome or isinstance(message, wire.Refused):
                        self._take(message)
                    else:
                        raise RemoteProtocolError(f"a {type(message).__name__} before its welcome")
        except LinkClosed:
            if not self.is_over:
                raise
        except (RemoteProtocolError, UserError) as error:
            await link.close(str(error), _CLOSED_PROTOCOL_ERROR)
            raise
        finally:
            work.outbox.detach()
            self._link = None
            for heartbeat in heartbeats:
                heartbeat.cancel()

    def _hello(self) -> wire.WorkerHello:
        settings = self.settings
        return wire.WorkerHello(
            version=wire.PROTOCOL_VERSION,
            name=self._name,
            session=self._session,
            slots=settings.slots,
            capabilities=self._capabilities,
            host=platform.node(),
            address=settings.address,
            held_leases=(*self._work.held(), *self._work.outbox.unconfirmed()),
            runs=self._work.run_ids,
            process="" if settings.is_embedded else own_identity(),
            has_probe=self._probe is not None,
        )

    @property
    def name(self) -> str:
        """As the coordinator calls it: with a number if another one had that name."""
        return self._name

    def _take_welcome(self, link: WorkerLink, welcome: wire.Welcome) -> None:
        if welcome.version != wire.PROTOCOL_VERSION:
            raise UserError(
                f"the coordinator speaks version {welcome.version} of the protocol and this worker"
                f" {wire.PROTOCOL_VERSION}: install the same fleetest on both",
                ExitStatus.UNREACHABLE,
            )
        if self._epoch is not None and welcome.epoch != self._epoch:
            # Leases of another epoch mean nothing here, and their numbers may be given out again.
            self._work.forget_everything()
        self._epoch = welcome.epoch
        self._name = welcome.worker_id or self._name
        self.welcomes += 1
        self._interval_s = welcome.heartbeat_interval_s
        if self._probe is not None and self._probe.result is not None:
            link.send(_as_message(self._probe.result))
        self._work.outbox.attach(link.send)
        self._work.get_ready()
        if self._is_draining:
            link.send(wire.Draining())

    def _take(self, message: wire.CoordinatorMessage) -> None:
        work = self._work
        if isinstance(message, wire.GrantLeases):
            work.grant(message.slot, message.leases)
        elif isinstance(message, wire.SlotIdle):
            work.nothing_follows(message.slot)
        elif isinstance(message, wire.RevokeLeases):
            work.revoke(set(message.lease_ids))
        elif isinstance(message, wire.KillLeases):
            work.kill(set(message.lease_ids), message.reason)
        elif isinstance(message, wire.PrepareRun):
            work.prepare_run(message)
        elif isinstance(message, wire.SendPlan):
            work.send_plan(message.run_id, message.suite)
        elif isinstance(message, wire.SetHeartbeat):
            self._interval_s = message.interval_s
            self._beat_soon.set()
        elif isinstance(message, wire.EndRun):
            work.end_run(message.run_id)
        elif isinstance(message, wire.Refused):
            raise UserError(f"the coordinator refused this worker: {message.reason}", ExitStatus.UNREACHABLE)
        else:
            raise RemoteProtocolError(f"a worker is not sent {type(message).__name__}")

    def _probed(self, result: ProbeResult) -> None:
        # Whoever sits at this machine is the one who can mend it.
        if not result.is_ok:
            _log.warning("the probe failed: %s: no new tests until it passes", result.detail)
        elif self._probe_failed:
            _log.warning("the probe passes again")
        self._probe_failed = not result.is_ok
        if self._link is not None and self._epoch is not None:
            self._link.send(_as_message(result))

    def _start_heartbeat(self, link: WorkerLink) -> list[asyncio.Task[None]]:
        if not self.settings.heartbeat or self.settings.is_embedded:
            return []
        return [asyncio.get_running_loop().create_task(self._heartbeat(link))]

    async def _heartbeat(self, link: WorkerLink) -> None:
        # Only here: an embedded worker sends none, and is not to pay for the import.
        import psutil

        while True:
            # Jitter, so that a fleet that came at once does not beat at once; never later than expected.
            with suppress(asyncio.TimeoutError):
                pause_s = self._interval_s * random.uniform(1 - _JITTER, 1)
                await asyncio.wait_for(self._beat_soon.wait(), pause_s)
            self._beat_soon.clear()
            # So that an old out-of-memory kill is not taken for the cause of a later death.
            self._work.oom_watch.rose()
            # What has just ended is no longer held: its result must arrive before this says so.
            self._work.outbox.flush()
            link.send(
                wire.Heartbeat(
                    held_leases=tuple(self._work.held()),
                    load_average=os.getloadavg()[0],
                    memory_available_bytes=psutil.virtual_memory().available,
                )
            )

    # The end ------------------------------------------------------------------------------------------------------

    async def drain(self) -> None:
        """Give back what has not started, finish what runs within ``drain_timeout_s``, say goodbye, close."""
        if self._is_draining or self.is_over:
            return
        self._is_draining = True
        if self._link is not None:
            self._link.send(wire.Draining())
        await self._work.drain(self.settings.drain_timeout_s)
        if self._link is not None:
            self._link.send(wire.Goodbye(reason="drained"))
        await self.close()

    async def close(self) -> None:
        """End everything: runs that are over finish in good order within bounds, the rest is killed."""
        self.is_over = True
        link = self._link
        if link is not None:
            await link.close("the worker is closing")
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.gather(self._probing, return_exceptions=True)
        await self._work.close()


def _as_message(result: ProbeResult) -> wire.Probed:
    return wire.Probed(is_ok=result.is_ok, detail=result.detail)


async def _receive(link: WorkerLink, timeout_s: float | None) -> Sequence[wire.CoordinatorMessage]:
    try:
        return await asyncio.wait_for(link.receive(), timeout_s)
    except asyncio.TimeoutError:
        raise RemoteProtocolError(f"it said nothing within {timeout_s:.0f} s") from None


async def run_worker(
    worker: Worker,
    connect: Callable[[], Awaitable[WorkerLink]],
    *,
    on_notice: Callable[[str], None] = lambda text: None,
    handle_signals: bool = True,
) -> None:
    """Serve over and over, with full-jitter backoff between links, until the worker is drained, closed or refused.

    SIGTERM and SIGINT drain it; a second one kills. ``on_notice`` gets one line for each change of the connection.
    Raises UserError if the coordinator refuses it, or if ``connect`` raises one before the first welcome. Whatever
    happens, the worker is closed at the end.
    """
    loop = asyncio.get_running_loop()
    endings: list[asyncio.Task[None]] = []

    def stop() -> None:
        endings.append(loop.create_task(worker.close() if endings else worker.drain()))
        endings[-1].add_done_callback(lambda _task: serving.cancel())

    serving = loop.create_task(_serve_for_ever(worker, connect, on_notice))
    stop_signals = (signal.SIGTERM, signal.SIGINT) if handle_signals else ()
    for number in stop_signals:
        loop.add_signal_handler(number, stop)
    try:
        await serving
    except asyncio.CancelledError:
        if not endings:
            serving.cancel()
            raise
    finally:
        for number in stop_signals:
            loop.remove_signal_handler(number)
        for ending in endings[:-1]:
            ending.cancel()
        await asyncio.gather(*endings, return_exceptions=True)
        await worker.close()


async def _serve_for_ever(
    worker: Worker, connect: Callable[[], Awaitable[WorkerLink]], on_notice: Callable[[str], None]
) -> None:
    failures = 0
    while not worker.is_over:
        try:
            link = await connect()
            notice = f"connected to {link.peer}"
            welcomes = worker.welcomes
            try:
                await worker.serve(link, partial(on_notice, notice))
            finally:
                if worker.welcomes > welcomes:
                    failures = 0
            return
        except UserError as error:
            if not worker.welcomes or error.exit_status is not ExitStatus.UNREACHABLE:
                raise
            reason = str(error)
        except (LinkClosed, RemoteProtocolError, OSError) as error:
            reason = str(error) or type(error).__name__
            is_hopeless = (
                isinstance(error, RemoteProtocolError) or getattr(error, "code", None) == _CLOSED_PROTOCOL_ERROR
            )
            if not worker.welcomes and (is_hopeless or failures >= _UNWELCOME_MAX):
                text = f"no welcome from the coordinator ({reason}): see its log; install the same Fleetest on both"
                raise UserError(text, ExitStatus.UNREACHABLE) from error
        if not failures:
            on_notice(f"no link to the coordinator ({reason}): tests go on, connecting again")
        failures += 1
        await asyncio.sleep(random.uniform(0, min(_BACKOFF_MAX_S, _BACKOFF_MIN_S * 2**failures)))
