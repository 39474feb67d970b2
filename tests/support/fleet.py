"""A whole fleet for one test: a coordinator in this process, a database file, worker processes, clients, HTTP.

Everything is on loopback, on a port that the system chooses, in a temporary folder that is gone afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil

from support.following import PATIENCE_S, FollowedRun, Work, connect, submission
from support.meeting import Meeting

from fleetest.api.application import Api
from fleetest.coordinator import Coordinator
from fleetest.core import commands, events
from fleetest.core.model import Limits
from fleetest.core.snapshot import ClusterSnapshot, WorkerSnapshot
from fleetest.dashboard_server import DashboardServer
from fleetest.hooks import make_cluster_state, plugin_manager
from fleetest.storage.epoch import next_epoch
from fleetest.storage.history import HistoryRecorder
from fleetest.storage.history_database import open_history
from fleetest.transport.file_credentials import FileCredentials
from fleetest.transport.identity import Role
from fleetest.transport.server import NetworkServer
from fleetest.transport.token import TOKEN_NAMES, read_token
from fleetest.transport.token_store import TokenStore

T = TypeVar("T")

LIMITS = Limits(heartbeat_interval_s=1.0, reconnect_grace_s=0.3)
_MARK = "TESTS_OF_FLEET"
"""Every process of a fleet carries the folder in this variable, so that one which stays behind is found."""


@dataclass(frozen=True)
class Answer:
    """What HTTP gave back."""

    status: int
    kind: str
    """Content type, without parameters."""
    body: bytes

    @property
    def values(self) -> Any:
        return json.loads(self.body)


class Fleet:
    """Made and closed by one test."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self._closing = contextlib.ExitStack()
        try:
            self._open(limits)
        except BaseException:
            self._closing.close()
            raise

    def _open(self, limits: Limits) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="fleetest-"))
        self._closing.callback(shutil.rmtree, self.directory, ignore_errors=True)
        self.programs = self.directory / "programs"
        """The workers' PATH: asking every browser of this machine for its version would take longer than the tests."""
        self.programs.mkdir()
        self._keep_log()
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        self._started: list[subprocess.Popen[bytes]] = []
        self._changed = threading.Condition()
        self._changes = 0
        self._start_loop()
        self.data = self.directory / "data"
        TokenStore(self.data).prepare()
        self.database = self.directory / "results.duckdb"
        self.history = HistoryRecorder(self.database, keep_open=True)
        self._closing.callback(self.history.close)
        self.state = make_cluster_state(plugin_manager(load_entry_points=False), limits, next_epoch(self.data))
        self.on_loop(self._serve())
        self._closing.callback(lambda: self.on_loop(self._stop_serving()))
        self.url = f"ws://127.0.0.1:{self.port}"
        self.meeting = Meeting(self.directory)
        self._closing.callback(self.meeting.close)
        self._closing.callback(self._end_workers)

    def close(self) -> None:
        """End everything, whatever state it is in. May be called again."""
        self._closing.close()

    def _keep_log(self) -> None:
        """What the coordinator logs goes into a file beside that of the workers."""
        handler = logging.FileHandler(self.directory / "coordinator.log")
        logger = logging.getLogger("fleetest")
        logger.addHandler(handler)
        self._closing.callback(handler.close)
        self._closing.callback(logger.removeHandler, handler)

    # The coordinator in this process ---------------------------------------------------------------------------

    def _start_loop(self) -> None:
        self._loop = asyncio.new_event_loop()
        thread = threading.Thread(target=self._loop.run_forever, name="coordinator", daemon=True)
        thread.start()

        def end() -> None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join()
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()

        self._closing.callback(end)

    async def _serve(self) -> None:
        self.coordinator = Coordinator(self.state, history=self.history)
        self.coordinator.observe(self._tell_of_change)
        credentials = FileCredentials(self.data)
        self.api = Api(self.coordinator, history=self.history, credentials=credentials, data_directory=self.data)
        self.server = NetworkServer(
            credentials=credentials,
            serve_worker=self.coordinator.serve_worker,
            serve_client=self.coordinator.serve_client,
            site=DashboardServer(self.api),
            sessions=self.api.sessions,
        )
        self.port = await self.server.start("127.0.0.1", 0)
        self.api.start(self.server.gate)

    def _tell_of_change(self, event: events.Event, commanded: Sequence[commands.Command]) -> None:
        with self._changed:
            self._changes += 1
            self._changed.notify_all()

    async def _stop_serving(self) -> None:
        await self.coordinator.close()
        await self.server.close()
        await self.api.close()

    def token_file(self, role: Role) -> Path:
        return self.data / TOKEN_NAMES[role]

    def on_loop(self, work: Any) -> Any:
        """Run a coroutine on the coordinator's loop and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_S)

    def ask(self, question: Callable[[], T]) -> T:
        """Call something on the coordinator's own thread, between two events."""

        async def call() -> T:
            return question()

        answer: T = self.on_loop(call())
        return answer

    def snapshot(self) -> ClusterSnapshot:
        return self.ask(self.state.snapshot)

    def worker(self, name: str) -> WorkerSnapshot | None:
        """What the coordinator knows of the worker; None if it is not in the fleet."""
        return next((worker for worker in self.snapshot().workers if worker.worker_id == name), None)

    def apply(self, event: events.Event) -> None:
        """What an operator does."""
        self.ask(lambda: self.coordinator.apply(event))

    def wait_until(self, is_so: Callable[[ClusterSnapshot], bool], what: str, timeout_s: float = PATIENCE_S) -> None:
        """Wait for an event after which it is so. Raises AssertionError after ``timeout_s``."""
        give_up_at = time.monotonic() + timeout_s
        while True:
            seen = self._changes
            snapshot = self.snapshot()
            if is_so(snapshot):
                return
            if not self._wait_for_change(seen, give_up_at):
                raise AssertionError(f"not within {timeout_s:.0f} s: {what}\n{snapshot}\n{self.log()}")

    def _wait_for_change(self, seen: int, give_up_at: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._changes != seen, max(0.0, give_up_at - time.monotonic()))

    # Workers ---------------------------------------------------------------------------------------------------

    def start_worker(self, name: str, *options: str, slots: int = 1, token_file: Path | None = None) -> None:
        """Start ``fleetest worker`` as a process of its own; see ``wait_for_workers``."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("FLEETEST_")}
        command = [sys.executable, "-m", "fleetest", "worker", "--coordinator", self.url, "--name", name]
        command += ["--token-file", str(token_file or self.token_file(Role.WORKER)), "--slots", str(slots), *options]
        # A worker that is killed leaves its scratch files: in here they go with the rest.
        command += ["--scratch", str(self.directory / f"scratch{len(self._started)}")]
        with self._log_file.open("ab") as log:
            process = subprocess.Popen(
                command,
                cwd=self.directory,
                env={**environment, _MARK: str(self.directory), "PATH": str(self.programs)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.workers[name] = process
        self._started.append(process)

    def start_workers(self, *names: str, slots: int = 1) -> None:
        """Start them and wait until the coordinator has welcomed all."""
        for name in names:
            self.start_worker(name, slots=slots)
        self.wait_for_workers(*names)

    def wait_for_workers(self, *names: str) -> None:
        def all_healthy(snapshot: ClusterSnapshot) -> bool:
            for name in names:
                status = self.workers[name].poll()
                assert status is None, f"worker {name} ended with status {status}\n{self.log()}"
            return {worker.worker_id for worker in snapshot.workers if worker.state == "healthy"} >= set(names)

        self.wait_until(all_healthy, f"workers {names} are healthy")

    def kill_worker(self, name: str) -> None:
        """As ``kill -9`` does."""
        process = self.workers[name]
        process.kill()
        process.wait()

    @property
    def _log_file(self) -> Path:
        return self.directory / "workers.log"

    def log(self) -> str:
        """What coordinator and workers said."""
        return "".join(file.read_text() for file in sorted(self.directory.glob("*.log")))

    def _end_workers(self) -> None:
        self.meeting.open_house()
        for process in self._started:
            process.terminate()
        for process in self._started:
            try:
                process.wait(15.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def survivors(self) -> list[psutil.Process]:
        """Processes of this fleet that still live a while after its end. Linux: elsewhere only the workers."""
        mine = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.environ().get(_MARK) == str(self.directory):
                    mine.append(process)
        _, alive = psutil.wait_procs(mine, timeout=15.0)
        for process in alive:
            with contextlib.suppress(psutil.Error):
                process.kill()
        return alive

    # Clients and HTTP ------------------------------------------------------------------------------------------

    def submit(self, *work: Work, directory: Path | None = None) -> FollowedRun:
        """Submit these as one run, over the network as any client does. It is followed until the fleet is closed."""
        link = connect(self.url, read_token(self.token_file(Role.SUBMIT)))
        self._closing.callback(link.close)
        run = FollowedRun(link, submission(work, directory or self.directory))
        run.submit()
        return run

    def get(self, path: str, *, role: Role | None = Role.VIEW, token: str = "", accept: str = "*/*") -> Answer:
        """An ordinary HTTP request with the role's token, or with this one; role None: with none."""
        return self._request("GET", path, role, token, None, {"Accept": accept})

    def post(self, path: str, values: object = None, *, role: Role = Role.ADMIN) -> Answer:
        body = json.dumps(values).encode() if values is not None else b""
        return self._request("POST", path, role, "", body, {"Content-Type": "application/json"})

    def _request(
        self, method: str, path: str, role: Role | None, token: str, body: bytes | None, headers: dict[str, str]
    ) -> Answer:
        if not token and role is not None:
            token = read_token(self.token_file(role))
        if token:
            headers = {**headers, "Authorization": f"Bearer {token}"}
        url = f"http://127.0.0.1:{self.port}{path}"
        request = urllib.request.Request(url, data=body, headers=headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
                return Answer(answer.status, answer.headers.get_content_type(), answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.headers.get_content_type(), error.read())

    def wait_until_recorded(self, run_id: str) -> None:
        """Everything about a run that has ended is in the database."""
        [(ended,)] = self.rows("SELECT count(*) FROM run_ends WHERE run_id = ?", run_id)
        assert ended == 1, f"run {run_id} has {ended} ends"

    def rows(self, query: str, *values: object) -> Sequence[tuple[Any, ...]]:
        """Ask the database file, with everything in it that was recorded so far."""
        assert self.history.flush(PATIENCE_S), "the history does not keep up"
        assert not self.history.trouble, self.history.trouble
        connection = open_history(self.database)
        try:
            return connection.execute(query, list(values)).fetchall()
        finally:
            connection.close()
