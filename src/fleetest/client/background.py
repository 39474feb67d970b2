"""A fleet whose client link lives on an event loop in a background thread."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager

from fleetest.core.model import RunId
from fleetest.errors import ExitStatus, LinkClosed, NotReady, RemoteProtocolError, UserError
from fleetest.transport.link import Link
from fleetest.wire.codec import VersionMismatch
from fleetest.wire.messages import (
    PROTOCOL_VERSION,
    CancelRun,
    ClientHello,
    ClientMessage,
    CoordinatorToClient,
    Goodbye,
    Heartbeat,
    Refused,
    RunFinished,
    SubmitRun,
    Welcome,
)
from fleetest.wire.session import HANDSHAKE_TIMEOUT_S

ClientLink = Link[CoordinatorToClient, ClientMessage]
LinkOpener = Callable[[list[str]], AbstractAsyncContextManager[ClientLink]]
"""Opens the link on the loop's thread; what it has to tell the user on closing is appended to the list."""

_CLOSE_TIMEOUT_S = 60.0
_CANCEL_WAIT_S = 2.0
"""A coordinator that does not answer for so long is not waited for: the user wants out."""


class BackgroundFleet:
    """Implements :class:`fleetest.client.fleet.Fleet` over any client link.

    The loop's thread only moves messages; decoding reports and calling reporters stays on the caller's thread.
    """

    def __init__(self, open_link: LinkOpener, announcements: list[str] | None = None) -> None:
        """``announcements``: filled by ``open_link``, see ``Fleet``."""
        self.announcements = announcements if announcements is not None else []
        self._open_link = open_link
        self._inbox: queue.SimpleQueue[Sequence[CoordinatorToClient] | Exception] = queue.SimpleQueue()
        self._connected: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
        self._outbox: queue.SimpleQueue[ClientMessage] = queue.SimpleQueue()
        self._notices: list[str] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._failure: Exception | None = None
        self._run_id: RunId | None = None
        self._link: ClientLink | None = None
        self._echoed = threading.Event()
        """The coordinator has answered what was sent with the last cancellation."""
        self._is_over = False
        self._thread = threading.Thread(target=self._run_loop, name="fleetest", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            message = f"this machine cannot start a thread ({error}): allow this user more processes, see `ulimit -u`"
            raise UserError(message, ExitStatus.WORKER_UNFIT) from error

    def wait_connected(self) -> None:
        """Wait for the coordinator's welcome. Raises UserError if there is none to be had."""
        error = self._connected.get()
        if error is not None:
            self._thread.join(_CLOSE_TIMEOUT_S)
            raise error

    def submit(self, run: SubmitRun) -> None:
        self._run_id = run.run_id
        self._send(run)

    def receive(self, timeout_s: float | None = None) -> Sequence[CoordinatorToClient]:
        if self._failure is not None:
            raise self._failure
        try:
            batch = self._inbox.get(timeout=timeout_s)
        except queue.Empty:
            return ()
        if isinstance(batch, Exception):
            self._failure = batch
            raise batch
        return batch

    def cancel(self, reason: str, *, kill: bool = False, quiet: bool = False) -> None:
        if self._run_id is not None:
            self._echoed.clear()
            if self._is_over:
                return
            self._send(CancelRun(run_id=self._run_id, reason=reason, kill=kill, quiet=quiet))
            # The coordinator answers in order: once this comes back it hands out nothing more.
            self._send(Heartbeat())
            self._echoed.wait(_CANCEL_WAIT_S)

    def close(self) -> list[str]:
        if self._loop is not None and self._thread.is_alive():
            self._call_on_loop(self._request_stop)
            self._thread.join(_CLOSE_TIMEOUT_S)
        return self._notices

    def _send(self, message: ClientMessage) -> None:
        self._outbox.put(message)
        self._call_on_loop(self._flush_outbox)

    def _call_on_loop(self, function: Callable[[], None]) -> None:
        if self._loop is None:
            return
        try:
            self._loop.call_soon_threadsafe(function)
        except RuntimeError:
            # The loop has ended; whoever receives next learns why.
            return

    def _flush_outbox(self) -> None:
        while self._link is not None and not self._outbox.empty():
            self._link.send(self._outbox.get_nowait())

    def _request_stop(self) -> None:
        if self._stop is not None:
            self._stop.set()

    def _run_loop(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception as error:
            # Nothing may end this thread unseen: the reporting thread is waiting for either of the two queues.
            self._connected.put(_of_this_machine(error))
            self._inbox.put(error)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        async with self._open_link(self._notices) as link:
            link.send(ClientHello(version=PROTOCOL_VERSION))
            early = await _await_welcome(link)
            if early:
                self._inbox.put(early)
            self._link = link
            self._connected.put(None)
            self._flush_outbox()
            receiving = asyncio.ensure_future(self._pump(link))
            stopping = asyncio.ensure_future(self._stop.wait())
            await asyncio.wait({receiving, stopping}, return_when=asyncio.FIRST_COMPLETED)
            receiving.cancel()
            stopping.cancel()
            await asyncio.gather(receiving, stopping, return_exceptions=True)
            self._link = None
            link.send(Goodbye())
            await link.close()

    async def _pump(self, link: ClientLink) -> None:
        """Pass on what comes until the run is over; the link is closed while the client still writes its summary."""
        try:
            while not self._is_over:
                batch = await link.receive()
                if any(isinstance(message, Heartbeat) for message in batch):
                    self._echoed.set()
                    batch = [message for message in batch if not isinstance(message, Heartbeat)]
                for message in batch:
                    if isinstance(message, Refused):
                        raise NotReady(f"the coordinator refuses the run: {message.reason}")
                if batch:
                    self._inbox.put(batch)
                    self._is_over = any(isinstance(message, RunFinished) for message in batch)
        except Exception as error:
            # Also our own mistakes: whoever waits for messages must not wait for ever.
            self._inbox.put(error)
            self._echoed.set()
            assert self._stop is not None
            await self._stop.wait()
        # Nobody answers a cancellation any more.
        self._echoed.set()


async def _await_welcome(link: ClientLink) -> Sequence[CoordinatorToClient]:
    """Messages that arrived together with the welcome, or UserError if the coordinator refuses."""
    try:
        first, *others = await asyncio.wait_for(link.receive(), HANDSHAKE_TIMEOUT_S)
    except LinkClosed as closed:
        raise UserError(f"the coordinator closed the link: {closed.reason}", ExitStatus.UNREACHABLE) from closed
    except asyncio.TimeoutError as error:
        message = f"the coordinator said nothing within {HANDSHAKE_TIMEOUT_S:.0f} s: look at what runs there"
        raise UserError(message, ExitStatus.UNREACHABLE) from error
    except RemoteProtocolError as error:
        if isinstance(error, UserError):
            raise  # Another version: it says what to do.
        raise _no_coordinator(str(error)) from error
    if isinstance(first, Refused):
        raise UserError(f"the coordinator refuses this client: {first.reason}", ExitStatus.UNREACHABLE)
    if not isinstance(first, Welcome):
        raise _no_coordinator(f"a {type(first).__name__} before its welcome")
    if first.version != PROTOCOL_VERSION:
        raise VersionMismatch(first.version)
    return others


def _of_this_machine(error: Exception) -> Exception:
    """Too few processes or no disk are the user's to mend; everything else that nobody foresaw stays what it is."""
    if isinstance(error, OSError) or "can't start new thread" in str(error):
        message = f"this machine cannot open a fleet: {error}; look at its disk and its limits (`ulimit -a`)"
        return UserError(message, ExitStatus.WORKER_UNFIT)
    return error


def _no_coordinator(what: str) -> UserError:
    message = f"what answers there is no coordinator of this version ({what}): install the same Fleetest on both"
    return UserError(message, ExitStatus.UNREACHABLE)
