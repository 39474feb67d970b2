"""Tests that several workers execute together, with real processes."""

from __future__ import annotations

import os
import re
import signal
import socket
from pathlib import Path

from fleetest.errors import ExitStatus

TALKS = """
import json, os, socket
import pytest

@pytest.mark.fleet(workers=2)
def test_talks(fleet_gang):
    assert (fleet_gang.size, len(fleet_gang.hosts), len(set(fleet_gang.names))) == (2, 2, 2)
    assert os.environ["FLEETEST_GANG_RANK"] == str(fleet_gang.rank)
    assert os.environ["FLEETEST_GANG_HOSTS"] == ",".join(fleet_gang.hosts)
    if fleet_gang.rank == 0:
        with socket.create_server(("127.0.0.1", 0)) as server:
            # A fifo says which port: opening it waits for the other one.
            with open("port", "w") as port:
                port.write(str(server.getsockname()[1]))
            connection, _ = server.accept()
            with connection:
                connection.sendall(fleet_gang.id.encode())
                connection.shutdown(socket.SHUT_WR)
                assert connection.recv(100).decode() == fleet_gang.names[1]
    else:
        with open("port") as port:
            address = (fleet_gang.hosts[0], int(port.read()))
        with socket.create_connection(address) as connection:
            assert connection.makefile().read() == fleet_gang.id
            connection.sendall(fleet_gang.names[fleet_gang.rank].encode())

@pytest.mark.parametrize("n", range(6))
def test_single(n, fleet_gang):
    assert (fleet_gang.rank, fleet_gang.size) == (0, 1)
    assert "FLEETEST_GANG_RANK" not in os.environ
"""
FAILS = """
import os
import pytest

@pytest.mark.fleet(workers=2)
def test_fails(fleet_gang):
    print("this is rank", fleet_gang.rank)
    if fleet_gang.rank == 1:
        assert "the reason of rank 1" == ""
    # The other one waits for it in vain.
    open("never").read()
"""
DIES = """
import os, signal, threading
import pytest

def agent():
    with open(f"/proc/{os.getppid()}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[1])

@pytest.mark.fleet(workers=2)
def test_it(fleet_gang):
    try:
        os.close(os.open(f"first-{fleet_gang.rank}", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    if fleet_gang.rank == 0:
        # Both have begun.
        open("ready").close()
        os.kill(agent(), signal.SIGKILL)
    else:
        with open("ready", "w"):
            pass
        threading.Event().wait()
"""
SUITE = """
[[command]]
name = "gang"
workers = 2
argv = ["sh", "-c", "echo rank $FLEETEST_GANG_RANK of $FLEETEST_GANG_SIZE at $FLEETEST_GANG_HOSTS > out-$FLEETEST_GANG_RANK; test -n \\"$FLEETEST_GANG_ID\\""]

[[command]]
name = "single"
argv = ["sh", "-c", "test -z \\"$FLEETEST_GANG_RANK\\""]
"""


def test_two_workers_execute_one_test_together_and_talk_to_each_other(fleet):
    (fleet.suite / "test_it.py").write_text(TALKS)
    os.mkfifo(fleet.suite / "port")
    fleet.worker("a")
    fleet.worker("b")
    status, output, names = fleet.run("-v")
    assert status == ExitStatus.OK, output
    assert names == [*(f"test_single[{n}]" for n in range(6)), "test_talks"]
    rows = fleet.history(
        "select attempt, verdict, is_final, worker, reason from attempts"
        " where task_id like '%test_talks' order by is_final, reason"
    )
    assert [row[:3] for row in rows] == [(1, "passed", False), (1, "passed", False), (1, "passed", True)]
    assert {row[3] for row in rows[:2]} == {"a", "b"}
    assert [row[4] for row in rows[:2]] == ["rank 0 of a gang of 2", "rank 1 of a gang of 2"]


def test_the_example_of_the_documentation_works(fleet):
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "test-several-machines.md").read_text()
    example = re.search(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[1]
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert "PORT = 4001" in example
    (fleet.suite / "test_it.py").write_text(example.replace("PORT = 4001", f"PORT = {port}"))
    fleet.worker("a")
    fleet.worker("b")
    status, output, names = fleet.run()
    assert (status, names) == (ExitStatus.OK, ["test_a_message_arrives"]), output


def test_the_worst_verdict_with_the_evidence_of_every_member(fleet):
    (fleet.suite / "test_it.py").write_text(FAILS)
    os.mkfifo(fleet.suite / "never")
    fleet.worker("a")
    fleet.worker("b")
    status, output, _ = fleet.run()
    assert status == ExitStatus.TESTS_FAILED, output
    assert "1 failed" in output
    assert "the reason of rank 1" in output
    assert "this is rank 0" in output
    assert "this is rank 1" in output
    assert "rank 0 on a: cancelled" in output or "rank 0 on b: cancelled" in output


def test_a_member_that_is_killed_makes_it_another_attempt_of_all(fleet):
    (fleet.suite / "test_it.py").write_text(DIES)
    os.mkfifo(fleet.suite / "ready")
    workers = [fleet.worker(name) for name in "abc"]
    status, output, names = fleet.run()
    assert status == ExitStatus.OK, output
    assert names == ["test_it"]
    assert [process.poll() for process in workers].count(-signal.SIGKILL) == 1
    attempts = fleet.history("select distinct attempt, verdict from attempts where is_final")
    assert attempts == [(2, "passed")]


def test_commands_of_a_gang_see_their_places(fleet):
    (fleet.suite / "suite.toml").write_text(SUITE)
    fleet.worker("a")
    fleet.worker("b")
    status, output = fleet.run_suite("suite.toml")
    assert status == ExitStatus.OK, output
    for rank in range(2):
        text = (fleet.suite / f"out-{rank}").read_text()
        assert text == f"rank {rank} of 2 at 127.0.0.1,127.0.0.1\n"


def test_embedded_runners_are_one_worker_so_a_gang_there_is_not_run(pytester):
    pytester.makepyfile(TALKS)
    result = pytester.runpytest_subprocess("--fleet", "2", "-rA")
    result.stdout.fnmatch_lines(["*needs 2 workers at once, and 1 that fits takes work*"])
    result.assert_outcomes(passed=6, errors=1)


def test_without_a_fleet_every_test_is_alone(pytester):
    pytester.makepyfile("def test_it(fleet_gang):\n    assert (fleet_gang.rank, fleet_gang.size) == (0, 1)\n")
    pytester.runpytest_subprocess("--fleet=no").assert_outcomes(passed=1)
