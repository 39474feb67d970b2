"""The template: forks runners on demand, reaps them, and ends with the worker."""

from __future__ import annotations

import os
import select
import signal
import sys

from .frames import PeerGone

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any, Callable, Dict, Optional, Tuple

    from .frames import ControlChannel

# Bound now: a suite may replace what os offers.
_fork = getattr(os, "fork", None)
_waitpid = os.waitpid
_READ_BYTES = 4096

can_fork = _fork is not None


class Seat:
    """What a fresh fork is to be: the runner of this slot, with these sockets."""

    def __init__(self, slot: int, runner_id: str, tasks: socket.socket, results: socket.socket) -> None:
        self.slot = slot
        self.runner_id = runner_id
        self.tasks = tasks
        self.results = results


class Template:
    """Serves ``fork`` and ``finish`` after collection.

    ``before_fork`` is called once, before the first fork; ``why_not`` is the reason why this suite must not be forked.
    """

    def __init__(self, control: ControlChannel, why_not: Optional[str], before_fork: Callable[[], None]) -> None:
        self._control = control
        self._why_not = why_not
        self._before_fork = before_fork
        self._slots: Dict[int, int] = {}
        self._is_finishing = False
        self.has_forked = False
        self.own_pid = os.getpid()

    def serve(self) -> Optional[Seat]:
        """Fork until told to finish and all runners have exited. A child gets its seat, the template None."""
        alarm = _ChildAlarm()
        seat = None
        try:
            seat = self._serve(alarm)
        except PeerGone:
            self._kill_all()
        finally:
            alarm.close()
        return seat

    def _serve(self, alarm: _ChildAlarm) -> Optional[Seat]:
        poll = select.poll()
        poll.register(self._control.fileno(), select.POLLIN)
        poll.register(alarm.fileno(), select.POLLIN)
        # Frames may have come together with the first one.
        seat = self._obey()
        if seat is not None:
            return seat
        while self._slots or not self._is_finishing:
            for descriptor, _ in poll.poll():
                if descriptor == alarm.fileno():
                    alarm.drain()
                    self._reap(os.WNOHANG)
                    continue
                self._control.read_once()
                seat = self._obey()
                if seat is not None:
                    return seat
        return None

    def _obey(self) -> Optional[Seat]:
        while True:
            frames = self._control.cut_frames(1)
            if not frames:
                return None
            frame = frames[0]
            if frame["type"] == "finish":
                self._is_finishing = True
            elif frame["type"] == "fork":
                seat = self._fork_one(frame)
                if seat is not None:
                    return seat

    def _fork_one(self, frame: Dict[str, Any]) -> Optional[Seat]:
        """Fork. In the child: its seat."""
        tasks, results = self._control.take_sockets()
        slot = frame["slot"]
        pid, trouble = -1, self._why_not
        if trouble is None:
            pid, trouble = self._try_fork()
        if pid == 0:
            return Seat(slot, frame["runner_id"], tasks, results)
        tasks.close()
        results.close()
        if trouble is not None:
            self._control.send({"type": "fork_failed", "slot": slot, "reason": trouble})
        else:
            self._slots[pid] = slot
            self._control.send({"type": "forked", "slot": slot, "pid": pid})
        return None

    def _try_fork(self) -> Tuple[int, Optional[str]]:
        if not self.has_forked:
            self.has_forked = True
            self._before_fork()
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (AttributeError, OSError, ValueError):
                continue
        assert _fork is not None
        import warnings

        try:
            with warnings.catch_warnings():
                # Whoever asks for fork in spite of threads has been told already.
                warnings.simplefilter("ignore", DeprecationWarning)
                return _fork(), None
        except OSError as error:
            return -1, "cannot fork: %s" % error

    def _reap(self, options: int) -> None:
        for pid, slot in list(self._slots.items()):
            try:
                reaped, status = _waitpid(pid, options)
            except ChildProcessError:
                # Reaped by a handler that the suite installed: nobody knows how it ended.
                reaped, status = pid, 0
            if reaped:
                del self._slots[pid]
                self._control.send({"type": "exited", "slot": slot, "pid": pid, "status": status})

    def _kill_all(self) -> None:
        """The worker is gone: end every runner with all that it started, and reap it."""
        for pid in self._slots:
            for kill in (os.killpg, os.kill):
                try:
                    kill(pid, signal.SIGKILL)
                except OSError:
                    # Gone already, or not yet the leader of a group.
                    continue
        for pid in self._slots:
            try:
                _waitpid(pid, 0)
            except OSError:
                continue
        self._slots.clear()


class _ChildAlarm:
    """A descriptor that becomes readable when a child ends; Ctrl-C is the worker's business meanwhile.

    ``close`` (in the template and in a fresh child alike) gives the suite's own signal handlers back.
    """

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        self._old_child = signal.signal(signal.SIGCHLD, _do_nothing)
        self._old_interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._old_wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)

    def fileno(self) -> int:
        return self._read

    def drain(self) -> None:
        try:
            while len(os.read(self._read, _READ_BYTES)) == _READ_BYTES:
                pass
        except BlockingIOError:
            pass

    def close(self) -> None:
        signal.set_wakeup_fd(self._old_wakeup)
        signal.signal(signal.SIGCHLD, _handler_or_default(self._old_child))
        signal.signal(signal.SIGINT, _handler_or_default(self._old_interrupt))
        os.close(self._read)
        os.close(self._write)


def _handler_or_default(handler: Any) -> Any:
    # None stands for a handler that was not installed from Python; it cannot be put back.
    return signal.SIG_DFL if handler is None else handler


def _do_nothing(signal_number: int, frame: Any) -> None:
    pass
