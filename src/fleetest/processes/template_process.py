"""One interpreter with our runner inside, seen from the worker: its control socket, its pipes, its end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from fleetest.errors import RemoteProtocolError
from fleetest.processes.child_exit import on_child_exit
from fleetest.processes.frames import ControlFrame, FrameBuffer, decode_control
from fleetest.processes.launch import PrestartedTemplate, encode_frame
from fleetest.processes.process_groups import kill_session, signal_group

_READ_BYTES = 256 * 1024
_STDERR_KEPT_BYTES = 8 * 1024
_SILENT_END_S = 5.0


class TemplateProcess:
    """Owns the process and its descriptors.

    ``on_frame`` gets every control frame in order, ``on_output`` what was printed past pytest's capture, ``on_end``
    is called once, after the last frame, with the return code as ``Popen`` has it.
    """

    def __init__(
        self,
        started: PrestartedTemplate,
        *,
        on_frame: Callable[[ControlFrame], None],
        on_output: Callable[[str, bytes], None],
        on_end: Callable[[int | None], None],
    ) -> None:
        self._process = started.process
        self._control = started.control
        self._on_frame = on_frame
        self._on_output = on_output
        self._on_end = on_end
        self._buffer = FrameBuffer()
        self._unsent: deque[tuple[bytes, tuple[socket.socket, ...]]] = deque()
        self._stderr_tail = b""
        self._protocol_error = ""
        self._loop = asyncio.get_running_loop()
        self.pid = started.process.pid
        self.ended = asyncio.Event()
        self._control.setblocking(False)
        self._loop.add_reader(self._control.fileno(), self._read_control)
        self._pipes: dict[int, str] = {}
        for stream, pipe in (("stdout", self._process.stdout), ("stderr", self._process.stderr)):
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)
            self._pipes[pipe.fileno()] = stream
            self._loop.add_reader(pipe.fileno(), self._read_pipe, pipe.fileno())
        on_child_exit(self.pid, lambda status, _usage: self._exited(os.waitstatus_to_exitcode(status)))

    @property
    def is_alive(self) -> bool:
        return not self.ended.is_set()

    @property
    def trouble(self) -> str:
        """What it last wrote to stderr, or what was wrong with its frames: for a message about its end."""
        if self._protocol_error:
            return self._protocol_error
        lines = self._stderr_tail.decode("utf-8", "replace").strip().splitlines()
        return lines[-1].strip() if lines else ""

    def send(self, frame: Mapping[str, Any], sockets: Sequence[socket.socket] = ()) -> None:
        """Send a frame with the sockets' descriptors. The sockets stay the caller's until ``forked`` or a failure."""
        if not self.is_alive:
            return
        # Duplicates, so that the caller may close its own ends although the frame still waits in the queue.
        duplicates = tuple(end.dup() for end in sockets)
        self._unsent.append((encode_frame(frame), duplicates))
        if len(self._unsent) == 1:
            self._write_control()

    def finish(self) -> None:
        self.send({"type": "finish"})

    def terminate(self) -> None:
        if self.is_alive:
            signal_group(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """Kill its process group at once; forked runners die with it."""
        if self.is_alive:
            kill_session(self.pid)

    async def wait_ended(self, timeout_s: float) -> bool:
        try:
            await asyncio.wait_for(self.ended.wait(), timeout_s)
        except asyncio.TimeoutError:
            return False
        return True

    def _write_control(self) -> None:
        while self._unsent:
            data, sockets = self._unsent[0]
            try:
                if sockets:
                    sent = socket.send_fds(self._control, [data], [end.fileno() for end in sockets])
                else:
                    sent = self._control.send(data)
            except BlockingIOError:
                self._loop.add_writer(self._control.fileno(), self._write_control)
                return
            except OSError:
                # It is dying: its end is noticed by its own channel, and what was not sent is void.
                self._drop_unsent()
                break
            for end in sockets:
                end.close()
            if sent == len(data):
                self._unsent.popleft()
            else:
                self._unsent[0] = (data[sent:], ())
        self._loop.remove_writer(self._control.fileno())

    def _drop_unsent(self) -> None:
        for _, sockets in self._unsent:
            for end in sockets:
                end.close()
        self._unsent.clear()

    def _read_control(self) -> bool:
        """Handle what has arrived. False when there is no more for now or for ever."""
        try:
            data = self._control.recv(_READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self._control.fileno())
            # It is about to exit, or it will never be heard of again.
            self._loop.call_later(_SILENT_END_S, self.kill)
            return False
        try:
            for body in self._buffer.feed(data):
                self._on_frame(decode_control(body))
        except (RemoteProtocolError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            self._protocol_error = f"it sent what is not a frame of the runner protocol: {error}"
            self.kill()
            return False
        return True

    def _read_pipe(self, descriptor: int) -> bool:
        try:
            data = os.read(descriptor, 65536)
        except BlockingIOError:
            return False
        if not data:
            self._loop.remove_reader(descriptor)
            return False
        stream = self._pipes[descriptor]
        if stream == "stderr":
            self._stderr_tail = (self._stderr_tail + data)[-_STDERR_KEPT_BYTES:]
        self._on_output(stream, data)
        return True

    def _exited(self, returncode: int) -> None:
        self._process.returncode = returncode
        while self._read_control():
            pass
        for descriptor in self._pipes:
            # Bounded: a process that it left behind may go on writing for ever.
            for _ in range(64):
                if not self._read_pipe(descriptor):
                    break
        if returncode == 0:
            signal_group(self.pid, signal.SIGKILL)
        else:
            kill_session(self.pid)
        self._close()
        self.ended.set()
        self._on_end(returncode)

    def _close(self) -> None:
        self._drop_unsent()
        self._loop.remove_reader(self._control.fileno())
        self._loop.remove_writer(self._control.fileno())
        self._control.close()
        for pipe in (self._process.stdout, self._process.stderr):
            assert pipe is not None
            self._loop.remove_reader(pipe.fileno())
            pipe.close()
