"""``--log-format json``: whatever the processes of a fleet write to standard error can be read by programs."""

import json
import os
import socket
import subprocess
import sys

import pytest

from fleetest.errors import ExitStatus

TIMEOUT_S = 90.0


def test_the_log_for_programs_is_one_object_a_line(make_fleet):
    fleet = make_fleet("--min-free", "100000TB", "--log-format", "json")
    worker = fleet.worker("w", "--log-format", "json")
    worker.kill()
    # What was said before it listened was read by the fleet.
    line = json.loads(fleet.coordinator.stdout.readline())
    assert {"ts", "mono_ms", "level", "message"} <= set(line)
    assert (line["event"], line["worker"], line["cause"]) == ("alert_raised", "w", "lost")


def test_a_run_and_what_failed_in_it_are_in_the_log_with_their_fields(make_fleet):
    fleet = make_fleet("--log-format", "json")
    (fleet.suite / "test_it.py").write_text("def test_good(): pass\n\ndef test_bad(): assert 0\n")
    fleet.worker("box-a")
    status, output, _ = fleet.run()
    assert status == ExitStatus.TESTS_FAILED, output
    lines = []
    while not lines or lines[-1]["event"] != "run_finished":
        lines.append(json.loads(fleet.coordinator.stdout.readline()))
    submitted, ended, finished = lines
    assert submitted["event"] == "run_submitted"
    assert ended["run"] == finished["run"] == submitted["run"]
    assert len({line["epoch"] for line in lines}) == 1
    told = {name: ended[name] for name in ("event", "test", "attempt", "worker", "verdict", "is_final")}
    assert told == {
        "event": "attempt_ended",
        "test": "test_it.py::test_bad",
        "attempt": 1,
        "worker": "box-a",
        "verdict": "failed",
        "is_final": True,
    }
    assert isinstance(ended["lease"], int)
    assert finished["counts"] == {"passed": 1, "failed": 1}


@pytest.mark.parametrize(
    ("command", "status", "says"),
    [
        (["coordinator", "--port", "{port}"], ExitStatus.PORT_IN_USE, "is in use"),
        (["coordinator", "--host", "0.0.0.0"], ExitStatus.REFUSED, "nothing would be encrypted"),
        (
            ["worker", "--wait-s", "0", "--coordinator", "ws://127.0.0.1:1"],
            ExitStatus.UNREACHABLE,
            "Connection refused",
        ),
        (["worker", "--scratch", "file"], ExitStatus.WORKER_UNFIT, "cannot write to --scratch"),
    ],
)
def test_the_last_words_of_a_command_are_an_object_too(tmp_path, command, status, says):
    (tmp_path / "file").touch()
    (tmp_path / "token").write_text("x" * 43)
    (tmp_path / "token").chmod(0o600)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FLEETEST_")}
    environment |= {"FLEETEST_DATA": str(tmp_path / "data"), "FLEETEST_LOG_FORMAT": "json"}
    if command[0] == "worker":
        environment["FLEETEST_TOKEN_FILE"] = str(tmp_path / "token")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        words = [word.format(port=taken.getsockname()[1]) for word in command]
        done = subprocess.run(
            [sys.executable, "-m", "fleetest", *words],
            check=False,
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
    assert done.returncode == status, done.stderr
    line = [json.loads(line) for line in done.stderr.splitlines()][-1]
    assert (line["event"], line["level"], line["exit_status"]) == ("command_failed", "error", status)
    assert says in line["message"]
