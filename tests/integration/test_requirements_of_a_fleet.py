"""What tests need and what workers have, with real processes: each value of a capability, and waiting for workers."""

from __future__ import annotations

import os

import pytest

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


SEES_ITS_VALUE = """
import os, subprocess
import pytest

@pytest.fixture(scope="session")
def screen(fleet_variant):
    return fleet_variant.value

@pytest.fixture(scope="session", autouse=True)
def whole_session(request):
    yield os.environ.get("FLEETEST_VARIANT", "none")

@pytest.mark.fleet(each="screen")
@pytest.mark.parametrize("n", range(20))
def test_each(n, screen, whole_session, fleet_variant):
    assert fleet_variant.name == "screen"
    assert f"screen={screen}" == str(fleet_variant) == os.environ["FLEETEST_VARIANT"] == whole_session
    text = subprocess.run(["sh", "-c", 'printf %s "$FLEETEST_VARIANT"'], stdout=subprocess.PIPE).stdout.decode()
    assert text == str(fleet_variant)
    with open(f"seen-{screen}-{n}", "x"):
        pass

@pytest.mark.parametrize("n", range(20))
def test_once(n, fleet_variant, screen):
    assert (bool(fleet_variant), str(fleet_variant), screen) == (False, "", "")
    assert "FLEETEST_VARIANT" not in os.environ

@pytest.mark.fleet(each="screen", workers=2)
def test_gang(fleet_variant, fleet_gang):
    assert fleet_gang.size == 2
    with open(f"gang-{fleet_variant.value}-{fleet_gang.rank}", "x"):
        pass
"""


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_a_test_sees_the_value_that_it_is_executed_for(fleet, start_method):
    (fleet.suite / "test_it.py").write_text(SEES_ITS_VALUE)
    values = ("small", "größer @ 2")
    for name in ("w1", "w2"):
        fleet.worker(name, "--slots", "1", *(part for value in values for part in ("--label", f"screen={value}")))
    status, output, names = fleet.run("-rA", "--fleet-start-method", start_method)
    assert status == ExitStatus.OK, output
    assert len(names) == len(set(names)) == 2 * 20 + 20 + 2
    assert {path.name for path in fleet.suite.glob("seen-*")} == {
        f"seen-{value}-{n}" for value in values for n in range(20)
    }
    assert {path.name for path in fleet.suite.glob("gang-*")} == {
        f"gang-{value}-{n}" for value in values for n in range(2)
    }


def test_without_a_fleet_the_value_is_what_the_environment_says(pytester, monkeypatch):
    pytester.makepyfile("def test_it(fleet_variant):\n    print(f'<{fleet_variant}>', bool(fleet_variant))\n")
    for options in (["--fleet=no"], ["--fleet=1"]):
        monkeypatch.delenv("FLEETEST_VARIANT", raising=False)
        pytester.runpytest_subprocess("-s", *options).stdout.fnmatch_lines(["*<> False*"])
        monkeypatch.setenv("FLEETEST_VARIANT", "browser=firefox")
        pytester.runpytest_subprocess("-s", *options).stdout.fnmatch_lines(["*<browser=firefox> True*"])


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


# What one of the workers cannot execute ------------------------------------------------------------------------------


FAILS_FIRST = """
try:
    import board_driver
except ImportError:
    open({failed!r}, "w").close()  # Waits until the other worker imports it.
    raise


def test_it():
    open({told!r}).read()
"""


def _plain_and_board(fleet):
    """One worker has the board, the other one (and the client) can import the driver. Returns where that is."""
    site = fleet.directory / "site"
    site.mkdir()
    (site / "board_driver.py").write_text("")
    fleet.worker("plain", python_path=site)
    fleet.worker("board", "--label", "board=rev3")
    return site


def test_a_suite_that_the_only_worker_that_fits_cannot_import_ends_with_its_reason(fleet):
    (fleet.suite / "conftest.py").write_text("import board_driver\n")
    (fleet.suite / "test_it.py").write_text(NEEDY)
    site = _plain_and_board(fleet)
    status, output, _ = fleet.run("--fleet-wait-for-workers", "0", python_path=site)
    assert status == ExitStatus.TESTS_FAILED, output
    reason = "worker board: ModuleNotFoundError: No module named 'board_driver'"
    assert f"not run: no worker with board=rev3 can execute the suite ({reason})" in output
    assert "1 passed, 1 error" in output


def test_what_the_first_worker_cannot_import_another_one_runs(fleet):
    failed, told = fleet.directory / "failed", fleet.directory / "told"
    os.mkfifo(failed)
    os.mkfifo(told)
    (fleet.suite / "test_it.py").write_text(FAILS_FIRST.format(failed=str(failed), told=str(told)))
    site = _plain_and_board(fleet)
    (site / "board_driver.py").write_text(f"open({str(failed)!r}).read()")
    client = fleet.client()
    lines = iter(client.stdout.readline, "")
    because = "ModuleNotFoundError: No module named 'board_driver'"
    assert any(f"worker board cannot run it: {because} (the others go on without it)" in line for line in lines)
    told.open("w").close()
    assert "1 passed" in "".join(lines)
    assert client.wait() == ExitStatus.OK


def test_what_no_worker_can_import_ends_as_in_plain_pytest(fleet):
    (fleet.suite / "test_it.py").write_text("import nobody_has_this\ndef test_it(): pass\n")
    _plain_and_board(fleet)
    status, output, _ = fleet.run()
    assert status == ExitStatus.INTERRUPTED, output
    assert output.count("E   ModuleNotFoundError: No module named 'nobody_has_this'") == 1
    assert "Interrupted: 1 error during collection" in output
    assert "fleetest:" not in output


def test_a_test_that_the_only_worker_that_fits_cannot_import_waits_for_another_one(fleet):
    (fleet.suite / "test_it.py").write_text(f"import board_driver\n{NEEDY}")
    site = _plain_and_board(fleet)
    client = fleet.client("--fleet-wait-for-workers", "forever", python_path=site)
    lines = iter(client.stdout.readline, "")
    because = "that can execute the suite (worker board: ModuleNotFoundError: No module named 'board_driver')"
    assert any(f"1 test waits for a worker with board=rev3 {because}" in line for line in lines)
    fleet.worker("equipped", "--label", "board=rev3", python_path=site)
    rest = "".join(lines)
    assert "the wait for a worker with board=rev3 is over" in rest
    assert "2 passed" in rest
    assert client.wait() == ExitStatus.OK


# With --continue-on-collection-errors ----------------------------------------------------------------------------------


class Driver:
    """A module that some workers lack, and a suite that wants it. Who has it can import it once the test says so.

    ``failed`` can be read when somebody could not import it.
    """

    def __init__(self, fleet):
        self.failed, go = fleet.directory / "failed", fleet.directory / "go"
        os.mkfifo(self.failed)
        os.mkfifo(go)
        self.go = os.open(go, os.O_RDWR)
        self.site = fleet.directory / "site"
        self.site.mkdir()
        (self.site / "board_driver.py").write_text(f"open({str(go)!r}).readline()\n")
        (fleet.suite / "test_all.py").write_text("def test_all():\n    pass\n")
        (fleet.suite / "test_board.py").write_text(
            "try:\n    import board_driver\n"
            f"except ImportError:\n    open({str(self.failed)!r}, 'w').close()\n    raise\n\n"
            "def test_board():\n    pass\n"
        )

    def let_import(self):
        os.write(self.go, b"now\n")


@pytest.fixture
def driver(fleet):
    made = Driver(fleet)
    yield made
    os.close(made.go)


def test_a_module_is_run_where_it_can_be_imported_whoever_answers_first(fleet, driver):
    fleet.worker("plain")
    fleet.worker("board", python_path=driver.site)
    client = fleet.client("--continue-on-collection-errors", "test_all.py", "test_board.py")
    driver.failed.read_text()
    fleet.ask("workers")  # Meanwhile the answer of the first is there.
    driver.let_import()
    output, _ = client.communicate()
    assert client.returncode == ExitStatus.OK, output
    assert "2 passed" in output
    assert fleet.history("select worker from attempts where task_id like '%board%'") == [("board",)]


def test_a_worker_that_dies_while_it_imports_is_not_waited_for(fleet, driver):
    fleet.worker("plain")
    board = fleet.worker("board", python_path=driver.site)
    client = fleet.client("--continue-on-collection-errors")
    driver.failed.read_text()
    board.kill()
    output, _ = client.communicate()
    assert client.returncode == ExitStatus.TESTS_FAILED, output
    assert "1 passed, 1 error" in output


PARTS = {
    "test_all.py": "def test_all(): pass",
    "test_board.py": "import board_driver\ndef test_board(): pass",
    "lab/conftest.py": "import lab_driver",
    "lab/test_lab.py": "def test_lab(): pass",
    "lab/test_both.py": "import board_driver\ndef test_both(): pass",
    "test_nobody.py": "import nobody_has_this\ndef test_nobody(): pass",
    "test_wrong.py": "1 / 0",
}


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_a_suite_that_no_worker_can_import_in_full_is_run_in_parts(fleet, start_method):
    (fleet.suite / "lab").mkdir()
    for name, text in PARTS.items():
        (fleet.suite / name).write_text(text + "\n")
    for name in ("board", "lab"):
        site = fleet.directory / name
        site.mkdir()
        (site / f"{name}_driver.py").write_text("")
        fleet.worker(name, python_path=site)
    status, output, names = fleet.run("--continue-on-collection-errors", "--fleet-start-method", start_method)
    assert status == ExitStatus.TESTS_FAILED, output
    assert "3 passed, 3 errors" in output
    for error in (
        "ERROR collecting test_nobody.py",
        "ERROR collecting test_wrong.py",
        "ERROR collecting lab/test_both.py",
    ):
        assert output.count(error) == 1, output
    assert "collected 3 items / 3 errors" in output
    assert {"test_all", "test_board", "test_lab"} < set(names)
    where = dict(fleet.history("select task_id, worker from attempts"))
    assert (where["test_board.py::test_board"], where["lab/test_lab.py::test_lab"]) == ("board", "lab")


def test_a_worker_that_joins_later_helps_with_what_is_planned(fleet):
    meeting = fleet.directory / "meeting"
    os.mkfifo(meeting)
    site = fleet.directory / "site"
    site.mkdir()
    (site / "board_driver.py").write_text("")
    (fleet.suite / "test_board.py").write_text("import board_driver\ndef test_board(): pass\n")
    (fleet.suite / "test_all.py").write_text(
        f"def test_one():\n    open({str(meeting)!r}).read()\n\ndef test_two():\n    open({str(meeting)!r}, 'w').close()\n"
    )
    fleet.worker("plain")
    client = fleet.client("--continue-on-collection-errors", "-v")
    lines = iter(client.stdout.readline, "")
    assert any("collected 2 items / 1 error" in line for line in lines)
    fleet.worker("board", python_path=site)
    rest = "".join(lines)
    assert "2 passed, 1 error" in rest
    assert client.wait() == ExitStatus.TESTS_FAILED


def test_of_what_no_worker_can_import_the_shortest_list_is_told(fleet):
    (fleet.suite / "test_board.py").write_text("import board_driver\ndef test_board(): pass\n")
    (fleet.suite / "test_nobody.py").write_text("import nobody_has_this\ndef test_nobody(): pass\n")
    _plain_and_board(fleet)
    status, output, _ = fleet.run()
    assert status == ExitStatus.INTERRUPTED, output
    assert "Interrupted: 1 error during collection" in output
    assert "No module named 'board_driver'" not in output
