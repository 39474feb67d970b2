"""What tests need and what workers have, with real processes: each value of a capability, and waiting for workers."""

from __future__ import annotations

from fleetest.errors import ExitStatus

EACH = """
import pytest

@pytest.mark.fleet(each="rack")
def test_each():
    pass

@pytest.mark.fleet(each="rack", requires="board=rev3 | rev4")
def test_some():
    pass

def test_once():
    pass
"""


def test_each_value_of_a_label_has_its_variant_and_its_column(fleet):
    (fleet.suite / "test_it.py").write_text(EACH)
    fleet.worker("w1", "--label", "rack=a", "--label", "board=rev3")
    fleet.worker("w2", "--label", "rack=b")
    status, output, names = fleet.run("-v")
    assert status == ExitStatus.OK, output
    assert names == ["test_each @ rack=a", "test_each @ rack=b", "test_once", "test_some @ rack=a"]
    assert "PASSED rack=b test_it.py::test_each" in output
    assert "each rack" in output
    table = [line.split() for line in output.splitlines() if line.startswith(("test_it.py::test_each ", "successful"))]
    assert table[-2:] == [["test_it.py::test_each", "passed", "passed"], ["successful", "2", "of", "2", "1", "of", "1"]]
    rows = fleet.history("select task_id, worker from attempts order by task_id")
    assert [task for task, _ in rows] == [f"test_it.py::{name}" for name in names]
    assert dict(rows)["test_it.py::test_each @ rack=a"] == "w1"
    assert dict(rows)["test_it.py::test_each @ rack=b"] == "w2"


def test_every_test_of_a_run_can_be_for_each_value(fleet):
    (fleet.suite / "test_it.py").write_text("def test_it():\n    pass\n")
    fleet.worker("w1", "--label", "rack=a")
    fleet.worker("w2", "--label", "rack=b")
    status, output, names = fleet.run("--fleet-each", "rack")
    assert status == ExitStatus.OK, output
    assert names == ["test_it @ rack=a", "test_it @ rack=b"]
    assert "[100%]" in output


NEEDY = """
import pytest

@pytest.mark.fleet(requires="board=rev3")
def test_needy():
    pass

def test_plain():
    pass
"""


def test_what_nobody_has_is_said_and_ends_after_the_wait(fleet):
    (fleet.suite / "test_it.py").write_text(NEEDY)
    fleet.worker("w", "--label", "board=rev2")
    status, output, _ = fleet.run("--fleet-wait-for-workers", "0.3s")
    assert status == ExitStatus.TESTS_FAILED
    closest = "(closest: worker w lacks board=rev3 (has rev2))"
    waits = f"1 test waits for a worker with board=rev3: nobody has it {closest}"
    assert f"fleetest: {waits}; without one, not run after 0.3 s" in output
    assert f"not run: no worker with board=rev3 {closest}, after 0.3 s of waiting" in output
    assert "1 passed, 1 error" in output


def test_a_worker_that_joins_gets_what_waited_for_it(fleet):
    (fleet.suite / "test_it.py").write_text(NEEDY)
    client = fleet.client("--fleet-wait-for-workers", "forever")
    lines = iter(client.stdout.readline, "")
    assert any("the run waits for a worker: none has joined" in line for line in lines)
    fleet.worker("old", "--label", "board=rev2")
    assert any("the wait for a worker is over" in line for line in lines)
    assert any("1 test waits for a worker with board=rev3" in line for line in lines)
    fleet.worker("new", "--label", "board=rev3")
    rest = "".join(lines)
    assert "the wait for a worker with board=rev3 is over" in rest
    assert "2 passed" in rest
    assert client.wait() == ExitStatus.OK


def test_a_run_without_any_worker_ends_after_the_wait(fleet):
    (fleet.suite / "test_it.py").write_text(NEEDY)
    client = fleet.client("--fleet-wait-for-workers", "0")
    output, _ = client.communicate()
    assert client.returncode == ExitStatus.WORKER_UNFIT, output
    assert "no worker joined in time to collect the tests" in output


# What the only worker that fits cannot execute -----------------------------------------------------------------------


ONLY_WITH_DRIVER = """
import importlib.util, pathlib, time

planned = pathlib.Path("planned")
while importlib.util.find_spec("board_driver") is None and not planned.exists():
    time.sleep(0.01)  # Another worker is to be the first.
"""
NEEDY_AND_SIGNAL = NEEDY.replace("def test_plain():\n    pass", "def test_plain():\n    open('planned', 'w').close()")


def _plain_and_board(fleet):
    """One worker has the board, the other one (and the client) can import the driver. Returns where that is."""
    site = fleet.directory / "site"
    site.mkdir()
    (site / "board_driver.py").write_text("")
    fleet.worker("plain", python_path=site)
    fleet.worker("board", "--label", "board=rev3")
    return site


def test_a_suite_that_the_only_worker_that_fits_cannot_import_ends_with_its_reason(fleet):
    (fleet.suite / "conftest.py").write_text(f"{ONLY_WITH_DRIVER}\nimport board_driver\n")
    (fleet.suite / "test_it.py").write_text(NEEDY_AND_SIGNAL)
    site = _plain_and_board(fleet)
    status, output, _ = fleet.run("--fleet-wait-for-workers", "0", python_path=site)
    assert status == ExitStatus.TESTS_FAILED, output
    reason = "worker board: ModuleNotFoundError: No module named 'board_driver'"
    assert f"not run: no worker with board=rev3 can execute the suite ({reason})" in output
    assert "1 passed, 1 error" in output


def test_a_test_that_the_only_worker_that_fits_cannot_import_waits_for_another_one(fleet):
    (fleet.suite / "conftest.py").write_text(ONLY_WITH_DRIVER)
    (fleet.suite / "test_it.py").write_text(f"import board_driver\n{NEEDY_AND_SIGNAL}")
    site = _plain_and_board(fleet)
    client = fleet.client("--fleet-wait-for-workers", "forever", python_path=site)
    lines = iter(client.stdout.readline, "")
    because = "that can execute the suite (worker board: 1 error during collection)"
    assert any(f"1 test waits for a worker with board=rev3 {because}" in line for line in lines)
    fleet.worker("equipped", "--label", "board=rev3", python_path=site)
    rest = "".join(lines)
    assert "the wait for a worker with board=rev3 is over" in rest
    assert "2 passed" in rest
    assert client.wait() == ExitStatus.OK
