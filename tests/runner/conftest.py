"""A worker in miniature: starts the real runner program over real sockets and drives it, frame by frame."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import fleetest

NOTHING = 0xFFFFFFFF
# Against a hang of what is tested, never waited for: a slow machine must not reach it.
_HANG_S = 120.0
_FOLDER = Path(fleetest.__file__).parent / "runner"
_BOOTSTRAP = f"""
import importlib.util as u, sys
sys.path.remove("")
s = u.spec_from_file_location("_fleetest_runner", {str(_FOLDER / "__init__.py")!r},
    submodule_search_locations=[{str(_FOLDER)!r}])
m = sys.modules["_fleetest_runner"] = u.module_from_spec(s)
s.loader.exec_module(m)
f = int(sys.argv.pop())
from _fleetest_runner.main import main
main(f)
"""


class Stream:
    """Our end of a socket that carries frames."""

    def __init__(self, end: socket.socket) -> None:
        self.socket = end
        self.socket.settimeout(_HANG_S)
        self._pending = b""
        self.descriptors: list[int] = []

    def receive(self) -> Any:
        """The next frame, or None at the end of the stream."""
        while True:
            if len(self._pending) >= 4:
                (length,) = struct.unpack(">I", self._pending[:4])
                if len(self._pending) >= 4 + length:
                    body, self._pending = self._pending[4 : 4 + length], self._pending[4 + length :]
                    return json.loads(body.decode("utf-8", "strict"), parse_constant=_refuse)
            try:
                data, descriptors, _, _ = socket.recv_fds(self.socket, 1 << 20, 8)
            except ConnectionError:
                return None
            self.descriptors += descriptors
            if not data:
                return None
            self._pending += data

    def send(self, frame: Any, ends: Sequence[socket.socket] = ()) -> None:
        body = json.dumps(frame).encode()
        data = struct.pack(">I", len(body)) + body
        sent = socket.send_fds(self.socket, [data], [end.fileno() for end in ends]) if ends else 0
        self.socket.sendall(data[sent:])

    def close(self) -> None:
        self.socket.close()
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors.clear()


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


class Queue:
    """The worker's side of one runner: positions out, rows in."""

    def __init__(self) -> None:
        self.tasks, self.tasks_far = socket.socketpair()
        near, self.results_far = socket.socketpair()
        self.results = Stream(near)
        self.pid = 0

    def put(self, *positions: int) -> None:
        self.tasks.sendall(struct.pack(f"<{len(positions)}I", *positions))

    def take_back(self) -> list[int]:
        """Revoke what the runner has not read."""
        try:
            data = self.tasks_far.recv(4096, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return []
        return list(struct.unpack(f"<{len(data) // 4}I", data))

    def row(self) -> Any:
        return self.results.receive()

    def rows_until(self, *tags: str) -> list[Any]:
        """Rows up to and with the first that has one of these tags; None at its end means that the runner is gone."""
        rows: list[Any] = []
        while True:
            rows.append(self.row())
            if rows[-1] is None or rows[-1][0] in tags:
                return rows

    def run(self, *positions: int) -> list[Any]:
        """Run these, tear everything down; all rows but ``started``, ``waiting`` and ``idle``."""
        self.put(*positions, NOTHING)
        rows = self.rows_until("idle")
        assert rows[-1] is not None, rows
        return [row for row in rows if row[0] not in ("ready", "started", "waiting", "idle")]

    def end(self) -> list[Any]:
        """End the queue; all rows up to the end of the process."""
        self.tasks.close()
        rows: list[Any] = []
        while (row := self.row()) is not None:
            rows.append(row)
        return rows

    def close(self) -> None:
        for end in (self.tasks, self.tasks_far, self.results_far):
            end.close()
        self.results.close()


class Program:
    """One interpreter with the runner inside."""

    def __init__(self, python: str, directory: Path, *, plugins: bool = False, **start: Any) -> None:
        near, far = socket.socketpair()
        self.control = Stream(near)
        self.queues: list[Queue] = []
        self.frames: list[Any] = []
        self.collected: dict[str, Any] = {}
        self.scratch = directory.parent / "scratch"
        self.scratch.mkdir(exist_ok=True)
        self.process = subprocess.Popen(
            [python, "-c", _BOOTSTRAP, str(far.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(far.fileno(),),
            start_new_session=True,
            # What happens to be installed must not decide what is tested, unless the test says so.
            env={**os.environ, **({} if plugins else {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"})},
        )
        far.close()
        self._forked: set[int] = set()
        frame = {
            "type": "start",
            "mode": "template",
            "args": [],
            "directory": str(directory),
            "environment": {},
            "path_entries": None,
            "start_method": "auto",
            "run_uid": "0123456789abcdef" * 2,
            "runner_count": 2,
            "runner_id": None,
            "scratch": str(self.scratch),
            "output_limit_bytes": 100_000,
            "basetemp": None,
            **start,
        }
        if frame["mode"] == "runner":
            queue = Queue()
            self.queues.append(queue)
            self.control.send(frame, [queue.tasks_far, queue.results_far])
            queue.results_far.close()
        else:
            self.control.send(frame)

    def receive(self, *types: str) -> Any:
        """Control frames up to the first of one of these types; all are kept in ``frames``."""
        while True:
            frame = self.control.receive()
            assert frame is not None, f"ended before {types}: {self.frames} {self.output()}"
            self.frames.append(frame)
            if frame["type"] in types:
                return frame

    def collect(self) -> dict[str, Any]:
        frame = self.receive("collected", "failed")
        assert frame["type"] == "collected", frame
        self.collected = frame
        return self.collected

    @property
    def ids(self) -> list[str]:
        return [item[0] for item in self.collected["items"]]

    def position(self, name: str) -> int:
        """Position of the one item whose id ends with ``name``."""
        found = [index for index, node_id in enumerate(self.ids) if node_id.endswith(name)]
        assert len(found) == 1, (name, self.ids)
        return found[0]

    def fork(self, slot: int = 0, runner_id: str | None = None) -> Queue:
        queue = Queue()
        self.queues.append(queue)
        frame = {"type": "fork", "slot": slot, "runner_id": runner_id or f"gw{slot}"}
        self.control.send(frame, [queue.tasks_far, queue.results_far])
        answer = self.receive("forked", "fork_failed")
        queue.results_far.close()
        assert answer["type"] == "forked", answer
        queue.pid = answer["pid"]
        self._forked.add(queue.pid)
        return queue

    def finish(self) -> None:
        """Tell the template to finish; its runners must have ended their queues. Returns when it has exited."""
        self.control.send({"type": "finish"})
        while (frame := self.control.receive()) is not None:
            self.frames.append(frame)
        self.process.wait(_HANG_S)

    def output(self) -> str:
        """Everything that the program wrote past capture; ends it if it has not ended."""
        self.kill()
        out, err = self.process.communicate()
        return out.decode("utf-8", "replace") + err.decode("utf-8", "replace")

    def kill(self) -> None:
        for pid in [self.process.pid, *self._forked]:
            if pid == self.process.pid and self.process.poll() is not None:
                continue
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        # It kills its process group, a template also its runners, when its control socket ends.
        self.control.close()
        try:
            self.process.wait(_HANG_S)
        except subprocess.TimeoutExpired:
            self.kill()
        for queue in self.queues:
            queue.close()
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()


def _interpreters() -> list[str]:
    """This interpreter, and every other one on PATH or in FLEETEST_TEST_PYTHONS that can import pytest."""
    named = os.environ.get("FLEETEST_TEST_PYTHONS", "").split(os.pathsep)
    on_path = [shutil.which(f"python3.{minor}") for minor in range(8, 15)]
    found = {}
    for candidate in [*named, *on_path]:
        if candidate and os.path.exists(candidate):
            asked = subprocess.run(
                [candidate, "-c", "import pytest, sys; print(sys.prefix, pytest.__version__)"],
                capture_output=True,
                check=False,
            )
            if asked.returncode == 0 and int(asked.stdout.split()[-1].split(b".")[0]) >= 7:
                found.setdefault(asked.stdout, candidate)
    others = [path for text, path in found.items() if text.split()[0].decode() != sys.prefix]
    return [sys.executable, *others]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "any_python" in metafunc.fixturenames:
        pythons = _interpreters()
        metafunc.parametrize("any_python", pythons, ids=["this", *map(str, range(1, len(pythons)))])


Start = Callable[..., Program]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Write ``files`` (name to text) into a fresh folder and start the program there."""
    started: list[Program] = []

    def _start(files: dict[str, str] | str | Path, *args: str, python: str = sys.executable, **fields: Any) -> Program:
        directory = tmp_path / "suite"
        if isinstance(files, Path):
            directory = files
        else:
            directory.mkdir(exist_ok=True)
            texts = {"test_it.py": files} if isinstance(files, str) else files
            (directory / "pytest.ini").touch()
            for name, text in texts.items():
                path = directory / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(textwrap.dedent(text), encoding="utf-8")
        program = Program(python, directory, args=["-p", "no:cacheprovider", *args], **fields)
        started.append(program)
        return program

    yield _start
    for program in started:
        program.close()


def verdicts(rows: Sequence[Any]) -> dict[int, str]:
    """Verdict by position."""
    found = {}
    for row in rows:
        if row[0] == "passed":
            assert row[1] not in found
            found[row[1]] = "passed"
        elif row[0] == "reported":
            assert row[1] not in found
            found[row[1]] = row[2]
    return found


@pytest.fixture(name="verdicts")
def _verdicts() -> Callable[[Sequence[Any]], dict[int, str]]:
    return verdicts
