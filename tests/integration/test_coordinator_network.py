"""``fleetest coordinator`` and ``fleetest worker`` as processes, and a client that speaks the protocol."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.meeting import Meeting

from fleetest.config import find_token
from fleetest.core.model import RunId
from fleetest.errors import ExitStatus
from fleetest.transport.gate import FAILURES_MAX
from fleetest.transport.websocket import connect_client
from fleetest.wire import messages as wire

TIMEOUT_S = 90.0


class Processes:
    """What one test started; everything is gone when it ends."""

    def __init__(self, directory: Path) -> None:
        self.data = directory / "data"
        self._directory = directory
        self._started: list[subprocess.Popen[str]] = []

    def start(self, *args: str) -> subprocess.Popen[str]:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("FLEETEST_")}
        environment |= {"XDG_STATE_HOME": str(self._directory / "state"), "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(
            [sys.executable, "-m", "fleetest", *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self._directory,
            env=environment,
        )
        self._started.append(process)
        return process

    def coordinator(self, *args: str) -> tuple[subprocess.Popen[str], str]:
        process = self.start("coordinator", "--port", "0", "--data", str(self.data), *args)
        line = process.stdout.readline()
        assert line.startswith("listening on ws://127.0.0.1:"), line + process.stdout.read()
        return process, line.split()[2]

    def worker(self, url: str, name: str, *args: str) -> subprocess.Popen[str]:
        """Started and connected."""
        process = self.start(
            "worker", "--coordinator", url, "--name", name, "--slots", "1", "--data", str(self.data), *args
        )
        line = process.stdout.readline()
        assert "connected to" in line, line + process.stdout.read()
        return process

    def run(self, *args: str) -> tuple[int, str]:
        process = self.start(*args)
        output, _ = process.communicate(timeout=TIMEOUT_S)
        return process.returncode, output

    def close(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.wait()
            process.stdout.close()


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    started = Processes(tmp_path)
    yield started
    started.close()


def stop(process: subprocess.Popen[str]) -> tuple[int, str]:
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=TIMEOUT_S)
    return process.returncode, output


class Client:
    def __init__(self, link) -> None:
        self.link = link
        self.run_id = RunId(uuid.uuid4().hex)
        self._pending: list = []
        self._outcomes: list[wire.Outcome] = []

    @classmethod
    async def submit(cls, url: str, data: Path, suite: Path, workers: int) -> "Client":
        """Connect, wait until that many workers serve, submit the suite."""
        client = cls(await connect_client(url, find_token(None, data)))
        client.link.send(wire.ClientHello(version=wire.PROTOCOL_VERSION))
        await client.next(wire.Welcome)
        while len((await client.next(wire.FleetChanged)).workers) < workers:
            pass
        run = wire.SubmitRun(
            run_id=client.run_id,
            suites=(wire.PytestSuite(args=("-p", "no:cacheprovider"), directory=str(suite)),),
            title="a test",
        )
        client.link.send(run)
        await client.next(wire.RunAccepted)
        return client

    async def next(self, *kinds: type):
        while True:
            while self._pending:
                message = self._pending.pop(0)
                if isinstance(message, wire.TasksFinished):
                    self._outcomes += message.outcomes
                if isinstance(message, kinds):
                    return message
            self._pending += await self.link.receive()

    async def finish(self) -> tuple[list[wire.Outcome], dict[str, int]]:
        finished = await self.next(wire.RunFinished)
        self.link.send(wire.Goodbye())
        await self.link.close()
        return self._outcomes, finished.counts


def suite_in(directory: Path, text: str) -> Path:
    suite = directory / "suite"
    suite.mkdir()
    (suite / "test_it.py").write_text(text)
    return suite


def test_two_workers_share_a_run_and_everything_ends_in_good_order(processes, tmp_path):
    coordinator, url = processes.coordinator()
    workers = [processes.worker(url, name) for name in ("w1", "w2")]
    meeting = Meeting(tmp_path)
    suite = suite_in(
        tmp_path,
        "import subprocess, pytest\n"
        "@pytest.mark.parametrize('n', range(300))\n"
        "def test_it(n):\n"
        "    if n in (0, 299):\n"
        f"        subprocess.run([*{meeting.argv('test')[:-1]!r}, str(n)], check=True)\n"
        "    assert n != 7\n",
    )

    async def main() -> tuple[list[wire.Outcome], dict[str, int]]:
        client = await Client.submit(url, processes.data, suite, workers=2)
        plan = await client.next(wire.SuitePlan)
        assert len(plan.tasks) == 300
        # One of the two alone could be through with everything before the other has collected.
        await asyncio.to_thread(meeting.wait_for_count, 2)
        meeting.open_house()
        return await client.finish()

    outcomes, counts = asyncio.run(asyncio.wait_for(main(), TIMEOUT_S))
    assert counts == {"passed": 299, "failed": 1}
    assert len({outcome.task_id for outcome in outcomes if outcome.is_final}) == 300
    assert {outcome.worker for outcome in outcomes} == {"w1", "w2"}
    assert {outcome.runner for outcome in outcomes} == {"gw0", "gw1"}
    for worker in workers:
        assert stop(worker)[0] == ExitStatus.OK
    meeting.close()
    status, output = stop(coordinator)
    assert (status, output) == (ExitStatus.OK, "")
    assert (processes.data / "history.duckdb").stat().st_size > 0
    assert (processes.data / "token").stat().st_mode & 0o777 == 0o600


def test_killing_a_worker_costs_its_running_test_a_new_attempt_and_nothing_else(processes, tmp_path):
    _, url = processes.coordinator("--reconnect-grace-s", "0.5")
    workers = {name: processes.worker(url, name) for name in ("w1", "w2")}
    # The first execution of test_it[3] never ends by itself; a second one finds the file and passes.
    suite = suite_in(
        tmp_path,
        "import pathlib, pytest, threading\n"
        "mark = pathlib.Path(__file__).with_name('was-here')\n"
        "@pytest.mark.parametrize('n', range(40))\n"
        "def test_it(n):\n"
        "    if n == 3 and not mark.exists():\n"
        "        mark.touch()\n"
        "        with open(mark.with_name('is-here'), 'w') as pipe:\n"
        "            pipe.write('here')\n"
        "        threading.Event().wait()\n",
    )

    os.mkfifo(suite / "is-here")

    async def main() -> tuple[list[wire.Outcome], dict[str, int]]:
        is_here = asyncio.Event()
        pipe = os.open(suite / "is-here", os.O_RDONLY | os.O_NONBLOCK)
        asyncio.get_running_loop().add_reader(pipe, is_here.set)
        client = await Client.submit(url, processes.data, suite, workers=2)
        where = ""
        while not where:
            for task_id, _, worker, _ in (await client.next(wire.TasksStarted)).tasks:
                if task_id.endswith("[3]"):
                    where = worker
        await is_here.wait()
        asyncio.get_running_loop().remove_reader(pipe)
        os.close(pipe)
        workers[where].kill()
        return await client.finish()

    outcomes, counts = asyncio.run(asyncio.wait_for(main(), TIMEOUT_S))
    assert counts == {"passed": 40}
    final = {outcome.task_id: outcome for outcome in outcomes if outcome.is_final}
    assert len(final) == 40
    again = {task_id for task_id, outcome in final.items() if outcome.attempt > 1}
    assert "test_it.py::test_it[3]" in again
    assert len(again) == 1


def test_a_wrong_token_ends_the_worker_with_one_line(processes, tmp_path):
    _, url = processes.coordinator()
    other = tmp_path / "other-token"
    other.write_text("not-the-token-of-that-coordinator\n")
    other.chmod(0o600)
    status, output = processes.run("worker", "--coordinator", url, "--slots", "1", "--token-file", str(other))
    assert status == ExitStatus.REFUSED
    assert "refused the token" in output
    assert output.count("\n") == 1
    other.chmod(0o644)
    status, output = processes.run("worker", "--coordinator", url, "--slots", "1", "--token-file", str(other))
    assert status == ExitStatus.REFUSED
    assert f"others can read the token file {other}" in output


def test_a_token_of_another_role_is_named_as_such(processes):
    """Not as an address that is not allowed, which is the same status."""
    _, url = processes.coordinator()
    token = str(processes.data / "view.token")
    status, output = processes.run("worker", "--coordinator", url, "--slots", "1", "--token-file", token)
    assert (status, output.count("\n")) == (ExitStatus.REFUSED, 1)
    assert "needs a token of role 'worker', such as worker.token" in output


def test_who_tried_too_many_wrong_tokens_is_told_how_long_to_wait(processes, tmp_path):
    _, url = processes.coordinator()
    other = tmp_path / "other-token"
    other.write_text("not-the-token-of-that-coordinator\n")
    other.chmod(0o600)
    tried = ("worker", "--coordinator", url, "--slots", "1", "--token-file", str(other), "--wait-s", "0")
    answers = [processes.run(*tried) for _ in range(FAILURES_MAX + 1)]
    assert [status for status, _ in answers] == [ExitStatus.REFUSED] * FAILURES_MAX + [ExitStatus.UNREACHABLE]
    assert "too many wrong tokens from this address: try again in" in answers[-1][1]


def test_a_worker_waits_for_the_token_that_its_coordinator_makes(processes):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    url = f"ws://127.0.0.1:{port}"
    worker = processes.start("worker", "--coordinator", url, "--slots", "1", "--data", str(processes.data))
    assert "no token file at" in worker.stdout.readline()
    coordinator = processes.start("coordinator", "--port", str(port), "--data", str(processes.data))
    assert "listening on" in coordinator.stdout.readline()
    said = next(line for line in worker.stdout if "cannot reach" not in line)
    assert "connected to" in said


def test_a_token_that_never_comes_is_named(processes):
    status, output = processes.run("worker", "--slots", "1", "--data", str(processes.data), "--wait-s", "0.3")
    assert status == ExitStatus.REFUSED
    assert [line.endswith("(trying for 0.3 s)") for line in output.splitlines()] == [True, False]
    missing = str(processes.data / "mine")
    status, output = processes.run("worker", "--slots", "1", "--token-file", missing)
    assert (status, output.count("\n")) == (ExitStatus.REFUSED, 1)


def test_a_coordinator_that_never_comes_is_waited_for_and_then_named(processes):
    processes.coordinator()
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"ws://127.0.0.1:{unused.getsockname()[1]}"
        status, output = processes.run("worker", "--coordinator", url, "--data", str(processes.data), "--wait-s", "0.3")
    assert status == ExitStatus.UNREACHABLE
    lines = output.splitlines()
    assert len(lines) == 2
    assert lines[0].endswith("(trying for 0.3 s)")
    assert f"cannot reach the coordinator at {url}" in lines[1]


def test_an_interpreter_that_cannot_run_pytest_is_named(processes, tmp_path):
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\nprintf 'python '\nexit 1\n")
    broken.chmod(0o755)
    status, output = processes.run("worker", "--coordinator", "ws://127.0.0.1:1", "--python", str(broken))
    assert status == ExitStatus.INTERPRETER_UNUSABLE
    assert (
        output
        == f"fleetest: --python {broken} cannot run pytest: install pytest 7 or later for it (Python 3.8 or later)\n"
    )


def test_a_used_port_is_one_line(processes, tmp_path):
    _, url = processes.coordinator()
    port = url.rpartition(":")[2]
    status, output = processes.run("coordinator", "--port", port, "--data", str(tmp_path / "other"))
    assert status == ExitStatus.PORT_IN_USE
    assert (
        output
        == f"fleetest: port {port} on 127.0.0.1 is in use: stop what listens there, or choose another with --port\n"
    )


def test_a_data_directory_has_one_coordinator_at_a_time(processes):
    first, _ = processes.coordinator()
    status, output = processes.run("coordinator", "--port", "0", "--data", str(processes.data))
    assert status == ExitStatus.REFUSED
    assert output == (
        f"fleetest: another coordinator (process {first.pid}) uses the data directory {processes.data}: stop it,"
        " or give this one a directory of its own with --data\n"
    )
    first.kill()
    first.wait()
    processes.coordinator()  # Whoever was killed holds nothing.


@pytest.mark.parametrize(
    ("args", "status", "text"),
    [
        (["--host", "0.0.0.0"], ExitStatus.REFUSED, "can be reached by others and nothing would be encrypted"),
        (["--host", "::"], ExitStatus.REFUSED, "can be reached by others"),
        (["--host", "0"], ExitStatus.REFUSED, "can be reached by others"),
        (["--host", "::ffff:0.0.0.0"], ExitStatus.REFUSED, "can be reached by others"),
        (["--host", "*"], ExitStatus.USAGE_ERROR, "--host *"),
        (["--tls-cert", "cert.pem"], ExitStatus.USAGE_ERROR, "belong together"),
        (["--tls-cert", "cert.pem", "--tls-key", "key.pem"], ExitStatus.USAGE_ERROR, "no such file"),
        (["--port", "70000"], ExitStatus.USAGE_ERROR, "70000"),
    ],
)
def test_an_unsafe_or_impossible_coordinator_never_listens(processes, args, status, text):
    got, output = processes.run("coordinator", "--data", str(processes.data), *args)
    assert got == status
    assert text in output
    assert "listening" not in output
    assert not (processes.data / "token").exists()


RESOLVING = """
import socket, sys
from fleetest.cli import main
asked = socket.getaddrinfo
known = sys.argv[1].split(",")
def answer(host, *args, **settings):
    names = known if host == "lab-machine" else [host]
    return [found for name in names for found in asked(name, *args, **settings)]
socket.getaddrinfo = answer
main(sys.argv[2:])
"""


@pytest.mark.parametrize(
    "addresses",
    ["192.168.17.5", "10.1.2.3", "fd00::17", "fe80::17%lo", "0.0.0.0", "::ffff:192.168.17.5", "169.254.1.1",
     "192.168.17.5,127.0.0.1"],
)  # fmt: skip
def test_a_name_that_resolves_to_what_others_can_reach_never_listens(tmp_path, addresses):
    """A18: the real command, only names are resolved in its own process."""
    data = tmp_path / "data"
    arguments = ["coordinator", "--host", "lab-machine", "--port", "0", "--data", str(data)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("FLEETEST_")}
    done = subprocess.run(
        [sys.executable, "-c", RESOLVING, addresses, *arguments],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == ExitStatus.REFUSED
    assert "--host lab-machine can be reached by others" in done.stderr
    assert done.stdout == ""
    assert not data.exists()
