"""Bad input: one clear line, a documented exit status, and nothing lost. Real commands, each mistake where it can occur."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import duckdb
import msgspec
import pytest
from aiohttp import web

from fleetest.errors import ExitStatus
from fleetest.wire import messages as wire
from fleetest.wire.codec import coordinator_client_codec, coordinator_worker_codec

TIMEOUT_S = 120.0
TOKEN = "the-token-of-this-test-0123456789"
GOOD_SUITE = "def test_a(): pass\ndef test_b(): pass\n"
NOWHERE = "ws://127.0.0.1:1"


def environment(home: Path, **extra: str) -> dict[str, str]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("FLEETEST_")}
    return {**plain, "XDG_STATE_HOME": str(home), "PYTHONUNBUFFERED": "1", **extra}


def command(directory: Path, *words: str, **extra: str) -> subprocess.CompletedProcess[str]:
    module = "pytest" if words[0] == "pytest" else "fleetest"
    arguments = words[1:] if words[0] in ("pytest", "fleetest") else words
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        check=False,
        cwd=directory,
        env=environment(directory / "home", **extra),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )


def says(done: subprocess.CompletedProcess[str], status: int, *texts: str) -> None:
    """Ended with ``status`` and one line of ours on standard error."""
    assert done.returncode == status, done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line and not line.startswith("Try 'fleetest")]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("fleetest: ")
    for text in texts:
        assert text in lines[0]
    assert "Traceback" not in done.stdout


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "test_it.py").write_text(GOOD_SUITE)
    (tmp_path / "suite.toml").write_text('[[command]]\nname = "a"\nargv = ["true"]\n')
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -p no:cacheprovider\n")
    return tmp_path


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.touch(0o600)
    path.write_text(TOKEN)
    return path


# Arguments of each command ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (["pytest", "--fleet", "several"], ExitStatus.USAGE_ERROR, "--fleet 'several' is none of"),
        (["pytest", "--fleet", "ws://"], ExitStatus.USAGE_ERROR, "not a coordinator's address"),
        (["pytest", "--fleet", "1", "--fleet-retries=1.5"], ExitStatus.USAGE_ERROR, "must be a whole number"),
        (["pytest", "--fleet", "1", "--fleet-timeout=nan"], ExitStatus.USAGE_ERROR, "must be a number"),
        (["run", "--fleet", "several"], ExitStatus.USAGE_ERROR, "--fleet 'several' is none of"),
        (["run", "suite.toml", "--fleet", "ws://"], ExitStatus.USAGE_ERROR, "not a coordinator's address"),
        (["run", "suite.toml", "more"], ExitStatus.USAGE_ERROR, "takes no further arguments"),
        (["run", "nothing.toml"], ExitStatus.USAGE_ERROR, "nothing.toml: no such file"),
        (["coordinator", "--host", "0.0.0.0"], ExitStatus.REFUSED, "--behind-tls-proxy"),
        (["coordinator", "--tls-cert", "test_it.py", "--tls-key", "test_it.py"], 4, "give a PEM certificate"),
        (["coordinator", "--data", "test_it.py"], ExitStatus.USAGE_ERROR, "cannot make the data directory"),
        (["worker", "--label", "X"], ExitStatus.USAGE_ERROR, "it must be name=value"),
        (["worker", "--resource", "n=nan"], ExitStatus.USAGE_ERROR, "must be a number of at least 0"),
        (["worker", "--slots", "5000"], ExitStatus.USAGE_ERROR, "at most 4096"),
        (["worker", "--name", "a\nb"], ExitStatus.USAGE_ERROR, "printable characters"),
        (["worker", "--coordinator", "http://x"], ExitStatus.USAGE_ERROR, "not a coordinator's address"),
        (["worker", "--scratch", "test_it.py"], ExitStatus.WORKER_UNFIT, "cannot write to --scratch"),
        (["history", "--history", "nothing"], ExitStatus.HISTORY_UNUSABLE, "no history at"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_arguments(project: Path, words: list[str], status: int, text: str) -> None:
    says(command(project, *words), status, text)


@pytest.mark.parametrize("program", [["pytest", "--fleet", "1"], ["run", "--fleet", "1"]], ids=["pytest", "run"])
@pytest.mark.parametrize(
    ("argument", "status", "text"),
    [
        ("no/such/path.py", 4, "ERROR: file or directory not found: no/such/path.py"),
        ("--co-nothing", 4, "unrecognized"),
    ],
)
def test_paths_and_options_read_as_in_pytest(
    project: Path, program: list[str], argument: str, status: int, text: str
) -> None:
    done = command(project, *program, argument)
    assert done.returncode == status
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_a_bad_requirement_names_file_and_line(project: Path) -> None:
    (project / "test_it.py").write_text("import pytest\n@pytest.mark.fleet(requires='cuda>>12')\ndef test_a(): pass\n")
    done = command(project, "pytest", "--fleet", "1")
    assert done.returncode == ExitStatus.INTERRUPTED
    assert "test_it.py:2: fleet mark: requires='cuda>>12': at character" in done.stdout


# Suite files --------------------------------------------------------------------------------------------------------

CYCLE = "".join(f'[[command]]\nname="{a}"\nargv=["true"]\ndepends_on=["{b}"]\n' for a, b in ("xy", "yx"))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b'[[command]]\nname="a"\nargv="ls"\n', "must be a list of strings"),
        (b'[[command]]\nname="a"\nargv=["true"]\nfoo=1\n', "unknown key 'foo'"),
        (CYCLE.encode(), "x"),
        (b'[[command]]\nname="a"\nargv=["true"]\n' * 2, "names must differ"),
        (b"[[command\n", "is not TOML"),
        (b"\xff\xfe", "is not UTF-8"),
        (b'[[command]]\nname="a"\nargv=["true"]\nrequires="cuda>>12"\n', "'>>' is not a comparison"),
        (b"", "there is nothing to run"),
    ],
    ids=["type", "key", "cycle", "name", "toml", "utf-8", "requirement", "empty"],
)
def test_suite_files(project: Path, content: bytes, text: str) -> None:
    (project / "suite.toml").write_bytes(content)
    says(command(project, "run", "suite.toml", "--fleet", "1"), ExitStatus.USAGE_ERROR, "suite.toml: ", text)


# Interpreters -------------------------------------------------------------------------------------------------------


def interpreters(directory: Path) -> dict[str, str]:
    """By what is wrong with each."""
    old = directory / "old" / "pytest"
    old.mkdir(parents=True)
    (old / "__init__.py").write_text('__version__ = "6.2.5"\n')
    scripts = {
        "no-python": "#!/bin/sh\nexit 0\n",
        "no-program": "hello\n",
        "old-pytest": f'#!/bin/sh\nPYTHONPATH={old.parent} exec {sys.executable} "$@"\n',
        "without-pytest": f'#!/bin/sh\nexec {sys.executable} -S -E "$@"\n',
    }
    for name, text in scripts.items():
        (directory / name).write_text(text)
        (directory / name).chmod(0o755)
    return {name: str(directory / name) for name in [*scripts, "missing"]}


@pytest.mark.parametrize("kind", ["no-python", "no-program", "old-pytest", "without-pytest", "missing"])
def test_interpreters(project: Path, token_file: Path, kind: str) -> None:
    python = interpreters(project)[kind]
    says(command(project, "worker", "--python", python), ExitStatus.INTERPRETER_UNUSABLE, "--python", python)
    embedded = command(project, "pytest", "--fleet", "1", f"--fleet-python={python}")
    says(embedded, ExitStatus.INTERPRETER_UNUSABLE, python)


# A conftest that raises ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("conftest.py", "raise RuntimeError('boom')"),
        ("conftest.py", "def pytest_configure(): raise RuntimeError('boom')"),
        ("sub/conftest.py", "raise RuntimeError('boom')"),
    ],
    ids=["import", "configure", "sub-directory"],
)
def test_a_conftest_that_raises_reads_as_in_plain_pytest(project: Path, place: str, text: str) -> None:
    (project / "sub").mkdir()
    (project / "sub" / "test_sub.py").write_text("def test_sub(): pass")
    (project / place).write_text(text)
    plain = command(project, "pytest")
    fleet = command(project, "pytest", "--fleet", "1")
    assert fleet.returncode == plain.returncode != 0
    assert "RuntimeError: boom" in fleet.stdout + fleet.stderr
    assert [line for line in fleet.stderr.splitlines() if "boom" in line] == [
        line for line in plain.stderr.splitlines() if "boom" in line
    ]


# Tokens and coordinators --------------------------------------------------------------------------------------------


def make_token(directory: Path, kind: str) -> Path:
    path = directory / "token"
    if kind == "directory":
        path.mkdir()
    elif kind == "link":
        path.symlink_to(directory / "test_it.py")
    elif kind != "missing":
        path.touch(0o600)
        path.write_text("" if kind == "empty" else TOKEN)
        path.chmod(0o644 if kind == "open" else 0o600)
    return path


@pytest.mark.parametrize("kind", ["missing", "empty", "open", "link", "directory"])
def test_tokens_that_are_not_used(project: Path, kind: str) -> None:
    path = make_token(project, kind)
    says(command(project, "pytest", "--fleet", NOWHERE, f"--fleet-token-file={path}"), ExitStatus.REFUSED, str(path))
    words = ["worker", "--coordinator", NOWHERE, "--token-file", str(path)]
    says(command(project, *words), ExitStatus.REFUSED, str(path))
    if kind != "missing":
        done = command(project, "coordinator", "--port", "0", "--data", str(project))
        says(done, ExitStatus.REFUSED, str(path))


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    directory = tmp_path_factory.mktemp("coordinator")
    process = subprocess.Popen(
        [sys.executable, "-m", "fleetest", "coordinator", "--port", "0", "--data", str(directory / "data")],
        env=environment(directory),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    yield process.stdout.readline().split()[2]
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == ExitStatus.OK


def dialling(url: str, token_file: Path) -> list[list[str]]:
    """Every command that dials a coordinator."""
    return [
        ["pytest", "--fleet", url, f"--fleet-token-file={token_file}"],
        ["run", "suite.toml", "--fleet", url, "--token-file", str(token_file)],
        ["worker", "--coordinator", url, "--token-file", str(token_file), "--wait-s", "0"],
    ]


@pytest.mark.parametrize("index", range(3), ids=["pytest", "run", "worker"])
def test_a_wrong_token_and_nobody_there(project: Path, token_file: Path, coordinator: str, index: int) -> None:
    remedy = (
        "with --fleet-token-file, or its data directory with --fleet-data" if index == 0 else "with --token-file, or"
    )
    says(command(project, *dialling(coordinator, token_file)[index]), ExitStatus.REFUSED, "refused the token", remedy)
    says(command(project, *dialling(NOWHERE, token_file)[index]), ExitStatus.UNREACHABLE, "Connection refused")


def test_a_port_in_use(project: Path, coordinator: str) -> None:
    port = coordinator.rpartition(":")[2]
    says(command(project, "coordinator", "--port", port, "--data", "data"), ExitStatus.PORT_IN_USE, port)


def _newer(codec: object) -> bytes:
    welcome = msgspec.to_builtins(wire.Welcome(version=2, epoch=1, heartbeat_interval_s=1.0))
    return msgspec.msgpack.encode([{**welcome, "of_the_future": 1}])


ANSWERS: dict[str, Callable[[object], Sequence[bytes]]] = {
    "newer": lambda codec: codec.encode([wire.Welcome(version=2, epoch=1, heartbeat_interval_s=1.0)]),
    "newer form": lambda codec: [_newer(codec)],
    "refusal": lambda codec: codec.encode([wire.Refused(reason="this side speaks version 2")]),
    "other first": lambda codec: codec.encode([wire.RunAccepted(run_id="r")]),
    "nonsense": lambda codec: [b"\xc1nonsense"],
}


@contextmanager
def answering(frames: Callable[[object], Sequence[bytes]]) -> Iterator[str]:
    """The address of a peer that answers every hello with these frames."""

    async def answer(request: web.Request) -> web.WebSocketResponse:
        link = web.WebSocketResponse()
        await link.prepare(request)
        await link.receive()
        codec = coordinator_worker_codec() if request.path.endswith("worker") else coordinator_client_codec()
        for frame in frames(codec):
            await link.send_bytes(frame)
        await link.receive()
        return link

    async def serve() -> None:
        application = web.Application()
        application.router.add_get("/{path:.*}", answer)
        runner = web.AppRunner(application, shutdown_timeout=1.0)
        await runner.setup()
        await web.SockSite(runner, listener).start()
        await stopped.wait()
        await runner.cleanup()

    loop, stopped = asyncio.new_event_loop(), asyncio.Event()
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        yield f"ws://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        loop.call_soon_threadsafe(stopped.set)
        thread.join()
        loop.close()


@pytest.mark.parametrize("index", [0, 2], ids=["pytest", "worker"])
@pytest.mark.parametrize("kind", ANSWERS)
def test_a_peer_of_another_version(project: Path, token_file: Path, kind: str, index: int) -> None:
    with answering(ANSWERS[kind]) as url:
        says(command(project, *dialling(url, token_file)[index]), ExitStatus.UNREACHABLE)


# History ------------------------------------------------------------------------------------------------------------


def make_history(path: Path, kind: str) -> None:
    path.parent.mkdir()
    if kind == "directory":
        path.mkdir()
    elif kind == "foreign":
        with duckdb.connect(str(path)) as connection:
            connection.execute("CREATE TABLE x (a INT)")
    elif kind == "no database":
        path.write_text("not a database at all, whatever its name says\n")
    elif kind == "corrupt":
        with duckdb.connect(str(path)) as connection:
            connection.execute("CREATE TABLE x (a INT)")
        path.write_bytes(path.read_bytes()[:8000])


@pytest.mark.parametrize("kind", ["directory", "foreign", "no database", "corrupt"])
def test_a_history_that_cannot_be_used_costs_no_run(project: Path, kind: str) -> None:
    path = project / ".fleetest" / "history.duckdb"
    make_history(path, kind)
    done = command(project, "pytest", "--fleet", "1")
    assert done.returncode == ExitStatus.OK
    assert "2 passed" in done.stdout
    assert f"fleetest: history {path}" in done.stdout
    says(command(project, "history"), ExitStatus.HISTORY_UNUSABLE, str(path))
    path.rmdir() if kind == "directory" else path.unlink()
    # Nothing is lost: the run was kept aside.
    assert "pytest --fleet 1" in command(project, "history").stdout


def test_a_history_that_another_process_holds(project: Path) -> None:
    path = project / ".fleetest" / "history.duckdb"
    path.parent.mkdir()
    path.touch()
    code = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('held', flush=True); input()"
    path.unlink()
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        done = command(project, "pytest", "--fleet", "1")
        says(command(project, "history"), ExitStatus.HISTORY_UNUSABLE, f"held by process {holder.pid}")
        holder.kill()
    assert done.returncode == ExitStatus.OK
    assert "2 passed" in done.stdout
    assert "pytest --fleet 1" in command(project, "history").stdout


def test_a_project_that_cannot_be_written_costs_no_run(project: Path) -> None:
    (project / ".fleetest").write_text("a file where a directory should be")
    for words in (["pytest", "--fleet", "1"], ["run", "suite.toml", "--fleet", "1"]):
        done = command(project, *words)
        assert done.returncode == ExitStatus.OK
        assert "records were lost: cannot write to" in done.stdout
        assert "Traceback" not in done.stdout + done.stderr


# Machines -----------------------------------------------------------------------------------------------------------

LIMITS = {
    "processes": "import subprocess\ndef no(*args, **kwargs): raise BlockingIOError(11, 'too many processes')\n"
    "subprocess.Popen.__init__ = no\n",
    "threads": 'import threading\ndef no(*args, **kwargs): raise RuntimeError("can\'t start new thread")\n'
    "threading._start_new_thread = threading._start_joinable_thread = no\n",
}


@pytest.mark.parametrize("limit", LIMITS)
def test_a_worker_that_cannot_start_a_process(project: Path, limit: str) -> None:
    (project / "sitecustomize.py").write_text(LIMITS[limit])
    done = command(project, "worker", PYTHONPATH=str(project))
    says(done, ExitStatus.WORKER_UNFIT, "this machine cannot start a process", "ulimit -u")


TWO_THREADS = """
import itertools, threading
start, count = threading._start_new_thread, itertools.count()
def limited(*args, **kwargs):
    if next(count) >= 2:
        raise RuntimeError("can't start new thread")
    return start(*args, **kwargs)
threading._start_new_thread = limited
if hasattr(threading, "_start_joinable_thread"):
    joinable = threading._start_joinable_thread
    def limited_joinable(*args, **kwargs):
        if next(count) >= 2:
            raise RuntimeError("can't start new thread")
        return joinable(*args, **kwargs)
    threading._start_joinable_thread = limited_joinable
"""


def test_a_client_that_cannot_start_a_thread(project: Path) -> None:
    (project / "sitecustomize.py").write_text(LIMITS["threads"])
    done = command(project, "pytest", "--fleet", "1", PYTHONPATH=str(project))
    says(done, ExitStatus.WORKER_UNFIT, "can't start new thread")


def test_two_threads_are_enough_for_a_run_and_its_history(project: Path) -> None:
    (project / "sitecustomize.py").write_text(TWO_THREADS)
    done = command(project, "pytest", "--fleet", "1", PYTHONPATH=str(project))
    assert done.returncode == ExitStatus.OK, done.stdout + done.stderr
    assert "2 passed" in done.stdout
    assert "pytest --fleet 1" in command(project, "history").stdout


def test_a_part_of_the_embedded_fleet_that_breaks_is_told(project: Path) -> None:
    (project / "sitecustomize.py").write_text(
        "from fleetest import coordinator\n"
        "def no(*args): raise RuntimeError('broken on purpose')\n"
        "coordinator.Coordinator._submit = no\n"
    )
    done = command(project, "pytest", "--fleet", "1", PYTHONPATH=str(project))
    assert done.returncode not in (ExitStatus.OK, ExitStatus.TESTS_FAILED)
    assert "lost the fleet: internal error: RuntimeError('broken on purpose')" in done.stdout
