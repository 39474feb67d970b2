"""Templates on one machine collect in turn, and none waits long for another."""

import contextlib
import fcntl
import os
import subprocess
import sys

import pytest

TAKE = """
import sys
from fleetest.runner.turns import take_turn
turn = take_turn(float(sys.argv[1]))
print("collecting", flush=True)
sys.stdin.readline()
turn.release()
print("released", flush=True)
sys.stdin.readline()
"""
LONG_S = "600"


@pytest.fixture
def start(tmp_path):
    """Start a process that takes a turn, with this patience in seconds, and keeps it until it is spoken to."""
    started = []

    def start(patience_s):
        process = subprocess.Popen(
            [sys.executable, "-c", TAKE, patience_s],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(tmp_path)},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def collecting(start):
    """As many as there are processors."""
    holders = [start(LONG_S) for _ in range(os.cpu_count())]
    for holder in holders:
        assert holder.stdout.readline() == "collecting\n"
    return holders


def free_places(folder):
    (turns,) = folder.iterdir()
    free = 0
    with turns.open("r+b") as file:
        for place in range(os.cpu_count()):
            with contextlib.suppress(BlockingIOError):
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
                free += 1
    return free


def test_one_more_than_there_are_processors_collects_when_one_of_the_others_has(start, collecting, tmp_path):
    waiting = start(LONG_S)
    assert free_places(tmp_path) == 0
    print(file=collecting[0].stdin, flush=True)
    assert waiting.stdout.readline() == "collecting\n"
    assert collecting[0].stdout.readline() == "released\n"
    assert free_places(tmp_path) == 0


def test_a_turn_ends_with_its_process(start, collecting):
    waiting = start(LONG_S)
    collecting[-1].kill()
    assert waiting.stdout.readline() == "collecting\n"


def test_whoever_has_waited_long_enough_collects_beside_the_others(start, collecting):
    assert start("0").stdout.readline() == "collecting\n"


def test_where_the_file_cannot_be_opened_nobody_waits(start, collecting, tmp_path):
    (turns,) = tmp_path.iterdir()
    turns.unlink()
    turns.mkdir()
    assert start(LONG_S).stdout.readline() == "collecting\n"


MOVE = """
import os, tempfile
from fleetest.runner.turns import take_turn
turn = take_turn()
os.environ["TMPDIR"] = os.environ["ELSEWHERE"]
print(tempfile.gettempdir())
"""


def test_a_plugin_may_still_say_where_temporary_files_are(tmp_path):
    """As in plain pytest, where nobody has asked before it is loaded."""
    first, elsewhere = tmp_path / "first", tmp_path / "elsewhere"
    first.mkdir()
    elsewhere.mkdir()
    environment = {**os.environ, "TMPDIR": str(first), "ELSEWHERE": str(elsewhere)}
    told = subprocess.run([sys.executable, "-c", MOVE], check=True, env=environment, stdout=subprocess.PIPE, text=True)
    assert told.stdout.strip() == str(elsewhere)
    assert len(list(first.iterdir())) == 1, "the turn was taken"
