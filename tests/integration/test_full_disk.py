"""A coordinator whose disk is full: it says so, goes on, loses nothing, and is well again when there is room."""

import json
import os
import resource
import shutil
import sys
import tempfile
import urllib.error
import urllib.request

import pytest

from fleetest.errors import ExitStatus

TIMEOUT_S = 90.0
WAITING = """
import pathlib
import pytest

@pytest.mark.parametrize("number", range(20))
def test_it(number):
    if number == 0:
        pathlib.Path({gate!r}).read_text()
"""


ONE_AT_A_TIME = """
import pathlib
import pytest

@pytest.mark.parametrize("number", range(2))
@pytest.mark.fleet(lock="bench")
def test_it(number):
    if number == 0:
        pathlib.Path({gate!r}).read_text()
"""
MARGIN_BYTES = 2**30
"""So far from the limit, on either side: others write to this disk too."""


def causes(ask):
    return {alert["cause"] for alert in json.loads(ask("alerts", "--json")[1])}


def until(look, holds):
    """What is seen when it is so; fails when it has been looked for that often."""
    for _ in range(200):
        found = look()
        if holds(found):
            return found
    raise AssertionError(found)


def asked_until(ask, holds):
    until(lambda: causes(ask), holds)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of a process that runs already")
def test_nothing_is_lost_while_nothing_can_be_written(fleet, ask, fifo):
    """No file may grow: for the coordinator that is a full disk, which has room again when the limit is lifted."""
    (fleet.suite / "test_it.py").write_text(WAITING.format(gate=str(fifo)))
    fleet.worker("w")
    client = fleet.client()
    gate = fifo.open("w")  # Waits until the test is there.
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.prlimit(fleet.coordinator.pid, resource.RLIMIT_FSIZE, (0, most))

    status, text = ask("quarantine", "w", "--reason", "bad memory")
    assert (status, "done, but a restart of the coordinator would undo it" in text) == (ExitStatus.UNREACHABLE, True)
    assert ask("release", "w")[0] == ExitStatus.UNREACHABLE
    gate.close()
    output, _ = client.communicate(timeout=TIMEOUT_S)
    assert (client.returncode, "20 passed" in output) == (ExitStatus.OK, True), output
    asked_until(ask, {"history not written", "audit log not written", "fleet not kept"}.__le__)

    resource.prlimit(fleet.coordinator.pid, resource.RLIMIT_FSIZE, (most, most))
    assert ask("quarantine", "w", "--reason", "bad memory")[0] == 0
    asked_until(ask, {"quarantined"}.__eq__)
    assert fleet.history("SELECT count(*), count(DISTINCT task_id) FROM attempts") == [(20, 20)]
    audit = [json.loads(line) for line in (fleet.directory / "data" / "audit.jsonl").read_text().splitlines()]
    (gap,) = [line for line in audit if line["status"] == 507]
    assert "could not be written" in gap["detail"]


def test_a_disk_that_is_nearly_full_takes_no_new_runs(make_fleet):
    fleet = make_fleet("--min-free", "100000TB")
    (fleet.suite / "test_it.py").write_text("def test_it(): pass\n")
    (fleet.suite / "suite.toml").write_text('name = "s"\n[[command]]\nname = "a"\ncommand = "true"\n')
    fleet.worker("w")
    client = fleet.client()
    output, _ = client.communicate(timeout=TIMEOUT_S)
    assert client.returncode == ExitStatus.NOT_READY, output
    assert "no new runs are taken now: " in output
    assert "make room" in output
    assert "Traceback" not in output
    status, output = fleet.run_suite("suite.toml")
    assert status == ExitStatus.NOT_READY, output
    assert "make room" in output
    assert "Traceback" not in output
    with pytest.raises(urllib.error.HTTPError) as answer:
        urllib.request.urlopen(fleet.url.replace("ws://", "http://") + "/readyz", timeout=TIMEOUT_S)
    assert answer.value.code == 503
    answer.value.close()


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="to fill a disk without writing so much")
def test_what_runs_ends_and_nothing_more_starts_until_there_is_room(make_fleet, fifo, tmp_path):
    free = shutil.disk_usage(tmp_path).free
    if free < 3 * MARGIN_BYTES:
        pytest.skip("there is too little room to take some of it")
    fleet = make_fleet("--min-free", str(free - MARGIN_BYTES))
    (fleet.suite / "test_it.py").write_text(ONE_AT_A_TIME.format(gate=str(fifo)))
    fleet.worker("w")
    client = fleet.client()
    gate = fifo.open("w")  # Waits until the first test is there.
    with tempfile.TemporaryFile(dir=tmp_path) as filler:
        os.posix_fallocate(filler.fileno(), 0, 2 * MARGIN_BYTES)
        asked_until(fleet.ask, {"disk nearly full"}.__eq__)
        gate.close()
        said = until(lambda: fleet.ask("why", "test_it")[1], lambda text: "[0]: finished: passed" in text)
        assert "[1]: no further test is started for now: " in said
        assert "make room" in said

    output, _ = client.communicate(timeout=TIMEOUT_S)
    assert (client.returncode, "2 passed" in output) == (ExitStatus.OK, True), output
    assert output.index("no further test is started for now: ") < output.index("tests are started again")
    assert causes(fleet.ask) == set()


def test_how_much_must_be_free_is_a_size(make_fleet):
    with pytest.raises(AssertionError, match="fleetest: --min-free much: "):
        make_fleet("--min-free", "much")
