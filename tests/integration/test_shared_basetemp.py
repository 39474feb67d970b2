"""``--basetemp`` names one directory for all workers that see it."""

from __future__ import annotations

import contextlib

from support.meeting import Meeting

from fleetest.errors import ExitStatus

SUITE = """
import subprocess
import pytest

def test_early(tmp_path):
    (tmp_path / "mine").touch()
    subprocess.run({argv}, check=True)
    assert (tmp_path / "mine").exists()

@pytest.mark.fleet(requires="box=late")
def test_late(tmp_path):
    subprocess.run({late_argv}, check=True)

def test_next(tmp_path_factory):
    assert not (tmp_path_factory.getbasetemp().parent / "old").exists()
"""


def test_a_worker_that_joins_leaves_alone_what_tests_of_its_run_have_there(fleet, tmp_path):
    base = fleet.suite / "base"
    base.mkdir()
    (base / "old").touch()
    with contextlib.closing(Meeting(tmp_path)) as meeting:
        text = SUITE.format(argv=meeting.argv("early"), late_argv=meeting.argv("late"))
        (fleet.suite / "test_it.py").write_text(text)
        fleet.worker("early")
        client = fleet.client("--basetemp=base")
        meeting.wait_for("early")
        fleet.worker("late", "--label", "box=late")
        meeting.wait_for("late")
    output, _ = client.communicate()
    assert client.returncode == ExitStatus.OK, output

    (base / "old").touch()
    status, output, names = fleet.run("--basetemp=base", "-k", "next")
    assert (status, names) == (ExitStatus.OK, ["test_next"]), output
