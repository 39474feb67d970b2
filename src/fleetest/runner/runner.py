"""The runner: executes items one by one as their positions come, and says at once what came of them."""

from __future__ import annotations

import os
import select
import socket
import struct
import time

from .frames import FRAME_BYTES_MAX, encode_frame, send_with_descriptors
from .gang import MARK as GANG_MARK
from .portable import portable
from .reports import encode_reported, is_compact, note_failed_subtests, phase_seconds, verdict_of
from .variant import MARK as VARIANT_MARK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, List, Optional, Sequence

    from .gang import GangPlugin
    from .variant import Variants

NOTHING = 0xFFFFFFFF

_POSITION_BYTES = 4
_UNSENT_BYTES_MAX = 64 * 1024
_WORKER_GONE = 1
_STRAYED = 1
_END = -1
_UNKNOWN = -2


class Successor:
    """Stands for ``nextitem`` until the teardown asks: only then the runner asks the queue.

    pytest's ``SetupState.teardown_exact`` uses the truth of its ``nextitem`` and its ``listchain`` only.
    """

    __slots__ = ("_runner",)

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def __bool__(self) -> bool:
        return self._runner.find_successor() is not None

    def listchain(self) -> List[Any]:
        item = self._runner.find_successor()
        return [] if item is None else list(item.listchain())


class Runner:
    """A pytest plugin while it runs. Made before the fork, since all that this needs is the same in every runner.

    ``keyword_counts`` are the numbers of keywords that items had when they were collected, by position.
    """

    def __init__(
        self,
        session: Any,
        keyword_counts: Sequence[int],
        output_limit_bytes: int,
        gangs: GangPlugin,
        variants: Variants,
    ) -> None:
        self._session = session
        self._gangs = gangs
        self._gang_file = ""
        self._is_gangs = False
        """A gang executes the position that was read last."""
        self._variants = variants
        self._variant = ""
        """What the position that was read last is executed for."""
        self._items = session.items
        self._keyword_counts = keyword_counts
        self._limit = output_limit_bytes
        # Bound now: tests replace clocks and sockets.
        self._wall_clock = time.time
        self._clock = time.perf_counter
        self._poll = select.poll
        self._exit = os._exit
        self._dont_wait = getattr(socket, "MSG_DONTWAIT", 0)
        self._no_signal = getattr(socket, "MSG_NOSIGNAL", 0)
        self._unpack = struct.Struct("<I").unpack

        self._unsent: List[bytes] = []
        self._unsent_bytes = 0
        self._reports: List[Any] = []
        self._position = _UNKNOWN
        self._successor = _UNKNOWN
        self._waited_s = 0.0
        self._is_lazy = not takes_nextitem(session.config)
        self._may_be_compact = not serialises_reports(session.config)

    def begin(
        self, tasks: socket.socket, results: socket.socket, gang_file: str, capture_descriptors: Sequence[int]
    ) -> None:
        """In the process that is to execute: own the two sockets, and say that it exists and where its output is."""
        self._gang_file = gang_file
        self._meter = Meter()
        self._tasks, self._results = tasks, results
        self._receive = tasks.recv
        self._send_all = results.sendall
        self._tasks_descriptor = tasks.fileno()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget_sockets)
        try:
            send_with_descriptors(results, encode_frame(["ready", os.getpid()]), capture_descriptors)
        except OSError:
            self._exit(_WORKER_GONE)

    # The loop -------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Execute items until the end of the queue. Raises what pytest's own loop raises."""
        session = self._session
        position = self._next_position()
        while position != _END:
            if position == NOTHING:
                self._tear_down_all()
                self._add(b'["idle"]')
                position = self._next_position()
                continue
            self._run_item(position)
            if session.shouldfail:
                self.add_exit("interrupted", str(session.shouldfail), 1)
                raise session.Failed(session.shouldfail)
            if session.shouldstop:
                raise session.Interrupted(session.shouldstop)
            position = self._successor
            if position == _UNKNOWN:
                position = self._next_position()

    def _run_item(self, position: int) -> None:
        item = self._items[position]
        if self._is_gangs:
            self._is_gangs = False
            self._gangs.enter(self._gang_file)
        self._variants.enter(self._variant)
        self._position = position
        self._successor = _UNKNOWN
        self._waited_s = 0.0
        self._reports = []
        started_at = self._wall_clock()
        self._add(b'["started",%d,%.6f]' % (position, started_at))
        self.flush()
        self._meter.start()
        nextitem = Successor(self) if self._is_lazy else self._known_successor()
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=nextitem)
        if self._gangs.current is not None:
            self._gangs.leave()
        self._add_result(position, started_at)

    def _tear_down_all(self) -> None:
        """Tear down what a runner whose last item did not end with a full teardown still holds."""
        state = self._session._setupstate
        if state.stack:
            state.teardown_exact(None)

    # The queue ------------------------------------------------------------------------------------------------

    def find_successor(self) -> Optional[Any]:
        """The item after the current one, waiting for the worker's word if its queue is empty; None if none follows."""
        if self._successor == _UNKNOWN:
            self._successor = self._queued_position()
            if self._successor == _UNKNOWN:
                began = self._clock()
                self._add(b'["waiting",%d]' % self._position)
                self.flush()
                self._successor = self._read_position(0)
                self._waited_s += self._clock() - began
        return self._successor_item()

    def _known_successor(self) -> Optional[Any]:
        """For those who look at it before the test runs. To them None means that everything is torn down after it."""
        item = self.find_successor()
        # Before the test, so no part of its teardown.
        self._waited_s = 0.0
        return item

    def _successor_item(self) -> Optional[Any]:
        """What may share with the current item what is set up; None if nothing does."""
        if self._successor in (_END, NOTHING, _UNKNOWN) or self._variants.parts_from(self._variant):
            return None
        return self._items[self._successor]

    def _next_position(self) -> int:
        """The next position, after what is unsent has left if that means waiting."""
        position = self._queued_position()
        if position == _UNKNOWN:
            self.flush()
            position = self._read_position(0)
        return position

    def _queued_position(self) -> int:
        try:
            return self._read_position(self._dont_wait)
        except BlockingIOError:
            return _UNKNOWN

    def _read_position(self, flags: int) -> int:
        """One position from the queue. With ``flags`` to not wait, raises BlockingIOError if there is none."""
        data = b""
        while len(data) < _POSITION_BYTES:
            try:
                received = self._receive(_POSITION_BYTES - len(data), flags if not data else 0)
            except BlockingIOError:
                if flags and not data:
                    raise
                # The worker's duplicate shares our flags and may have made the socket non-blocking.
                poll = self._poll()
                poll.register(self._tasks_descriptor, select.POLLIN)
                poll.poll()
                continue
            except ConnectionError:
                return _END
            if not received:
                return _END
            data += received
        position = self._unpack(data)[0]
        if position == NOTHING:
            return NOTHING
        if position & GANG_MARK:
            position -= GANG_MARK
            self._is_gangs = True
        self._variant = ""
        if position & VARIANT_MARK:
            position -= VARIANT_MARK
            self._variant = self._variants.of(position)
        assert position < len(self._items), position
        return int(position)

    # What is said ---------------------------------------------------------------------------------------------

    def _add_result(self, position: int, started_at: float) -> None:
        cpu_s, peak_kb = self._meter.stop()
        reports, self._reports = self._reports, []
        if len(reports) > 3:
            note_failed_subtests(self._session.config, reports)
        if self._may_be_compact and is_compact(reports, self._keyword_counts[position]):
            self._add(
                b'["passed",%d,%.6f,%.6f,%.6f,%.6f,%.6f,%d]'
                % (
                    position,
                    started_at,
                    reports[0].duration,
                    reports[1].duration,
                    reports[2].duration,
                    cpu_s,
                    peak_kb,
                )
            )
            return
        setup_s, call_s, teardown_s = phase_seconds(reports)
        head = ["reported", position, verdict_of(reports), started_at, setup_s, call_s, teardown_s, cpu_s, peak_kb]
        self._add_frame(encode_reported(head, self._session.config, reports, self._limit))

    def add_exit(self, kind: str, reason: str, exit_status: Optional[int]) -> None:
        """This runner executes nothing more; its current item has no result."""
        self._add_frame(encode_frame(["exit", kind, reason, exit_status]))
        self.flush()

    def add_warning(self, warning: Any) -> None:
        self._add_frame(encode_frame(["warning", warning]))
        if self._unsent_bytes > _UNSENT_BYTES_MAX:
            self.flush()

    def finish(self, output: Any) -> None:
        """Last frame. ``output`` is ``config.workeroutput``, where plugins leave what theirs in the client wants."""
        frame = ["finished"]
        if output:
            # Whole or not at all: half of what a plugin left there would be worse than nothing.
            frame.append(portable(output, FRAME_BYTES_MAX))
        try:
            self._add_frame(encode_frame(frame))
        except ValueError:
            self._add(b'["finished"]')
        self.flush()

    def _forget_sockets(self) -> None:
        """In a process that a test forked: it holds nothing of ours open, and if it comes back to us it is lost."""

        def leave(*arguments: Any) -> Any:
            exit_process(_STRAYED)

        exit_process = self._exit
        self._receive = self._send_all = leave
        self._tasks.close()
        self._results.close()

    def _add(self, body: bytes) -> None:
        self._add_frame(len(body).to_bytes(4, "big") + body)

    def _add_frame(self, frame: bytes) -> None:
        self._unsent.append(frame)
        self._unsent_bytes += len(frame)

    def flush(self) -> None:
        """Send what was added. If the worker is gone, so are we: nobody waits for anything any more."""
        if not self._unsent:
            return
        data = b"".join(self._unsent)
        self._unsent.clear()
        self._unsent_bytes = 0
        try:
            self._send_all(data, self._no_signal)
        except OSError:
            self._exit(_WORKER_GONE)

    # pytest's hooks -------------------------------------------------------------------------------------------

    def pytest_runtest_logreport(self, report: Any) -> None:
        if self._waited_s and report.when == "teardown":
            # Waiting for the worker is no part of the test's teardown.
            report.duration = max(report.duration - self._waited_s, 0.0)
            self._waited_s = 0.0
        self._reports.append(report)


class Meter:
    """CPU seconds and peak memory of one test."""

    def __init__(self) -> None:
        import resource

        self._usage = resource.getrusage
        self._who = resource.RUSAGE_SELF
        self._cpu_s = 0.0
        self._write = os.pwrite
        self._reset_descriptor = -1
        try:
            # Writing "5" there sets the peak back to what is resident now.
            self._reset_descriptor = os.open("/proc/self/clear_refs", os.O_WRONLY | os.O_CLOEXEC)
        except OSError:
            # Not Linux, or not allowed: the peak is that of the process so far.
            pass

    def start(self) -> None:
        if self._reset_descriptor >= 0:
            try:
                self._write(self._reset_descriptor, b"5", 0)
            except OSError:
                # A test closed it.
                self._reset_descriptor = -1
        usage = self._usage(self._who)
        self._cpu_s = usage.ru_utime + usage.ru_stime

    def stop(self) -> tuple[float, int]:
        """CPU seconds since ``start``, and the peak of resident memory in KiB."""
        usage = self._usage(self._who)
        return usage.ru_utime + usage.ru_stime - self._cpu_s, usage.ru_maxrss


def takes_nextitem(config: Any) -> bool:
    """True if a plugin that is not pytest's own wants to know ``nextitem``: it gets a real one."""
    hooks = (config.hook.pytest_runtest_protocol, config.hook.pytest_runtest_teardown)
    return any(
        "nextitem" in implementation.argnames and not _is_from_pytest(implementation)
        for hook in hooks
        for implementation in hook.get_hookimpls()
    )


def serialises_reports(config: Any) -> bool:
    """True if a plugin that is not pytest's own has its own form of reports."""
    implementations = config.hook.pytest_report_to_serializable.get_hookimpls()
    return any(not _is_from_pytest(implementation) for implementation in implementations)


def _is_from_pytest(implementation: Any) -> bool:
    module = getattr(implementation.function, "__module__", None) or ""
    return module == "_pytest" or module.startswith("_pytest.")
