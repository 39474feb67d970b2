"""``fleetest run`` for real: suite files and pytest, on a pipe and on a terminal, with Ctrl-C."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import psutil
import pytest

from support.terminal import on_terminal

TIMEOUT_S = 60
CLI = [sys.executable, "-m", "fleetest", "run"]


def run_cli(directory: Path, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CLI, *args],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "TERM": "xterm", **environment},
    )


PYTHON = sys.executable.replace("\\", "\\\\")
MIXED = f"""
name = "mixed"

[[command]]
name = "build"
argv = ["{PYTHON}", "-c", "open('made.log', 'w').write('made'); print('building')"]
artifacts = ["*.log"]

[[command]]
name = "uses build"
argv = ["{PYTHON}", "-c", "print(open('made.log').read())"]
depends_on = ["build"]

[[command]]
name = "fails"
argv = ["{PYTHON}", "-c", "import sys; print('on stdout'); sys.exit('on stderr')"]

[[command]]
name = "needs fails"
argv = ["{PYTHON}", "-c", "pass"]
depends_on = ["fails"]

[[command]]
name = "status 3"
argv = ["{PYTHON}", "-c", "import sys; sys.exit(3)"]
expected_exit_status = 3

[[command]]
name = "hangs"
argv = ["{PYTHON}", "-c", "import threading; threading.Event().wait()"]
timeout = 0.5

[[command]]
name = "missing program"
argv = ["/nowhere/no-such-program"]

[[pytest]]
name = "unit"
args = ["tests", "-p", "no:cacheprovider"]

[[pytest]]
name = "broken"
args = ["broken", "-p", "no:cacheprovider"]
"""
TESTS = """
import pytest

@pytest.mark.parametrize("number", range(20))
def test_good(number): pass

def test_bad():
    print("printed first")
    assert 1 + 1 == 3

def test_skipped():
    pytest.skip("not today")

class TestClass:
    def test_method(self): pass
"""


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    for folder, text in (("tests", TESTS), ("broken", "import no_such_module_anywhere\n")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"test_{folder}.py").write_text(text)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "mixed.toml").write_text(MIXED)
    return tmp_path


def test_commands_and_pytest_targets_share_one_queue_one_report_and_one_junit_file(mixed: Path) -> None:
    done = run_cli(mixed, "mixed.toml", "--fleet", "2", "--junitxml", "out/junit.xml")

    text = done.stdout
    assert done.stderr == ""
    assert done.returncode == 1, text
    assert "\x1b" not in text
    lines = {" ".join(line.split(" (")[0].split()) for line in text.splitlines()}
    assert {"PASSED build", "PASSED uses build", "FAILED fails", "PASSED status 3", "TIMEOUT hangs"} <= lines
    assert re.search(r"^NOT RUN needs fails - .*fails", text, re.MULTILINE)
    assert re.search(r"^ERROR missing program .*no-such-program", text, re.MULTILINE)
    assert "on stdout" in text
    assert "on stderr" in text
    assert "assert (1 + 1) == 3" in text
    assert "printed first" in text
    assert "no_such_module_anywhere" in text
    assert text.index("PASSED build") < text.index("PASSED uses build")
    assert re.search(r"^24 passed, 2 failed, 1 error, 1 skipped, 1 timeout, 1 not run, 1 not collected in ", text, re.M)

    root = ElementTree.parse(mixed / "out" / "junit.xml").getroot()
    names = [f"{case.get('classname')}::{case.get('name')}" for case in root.iter("testcase")]
    assert len(names) == len(set(names)) == 7 + 23 + 1
    assert "tests.test_tests.TestClass::test_method" in names
    assert [root.get(key) for key in ("tests", "failures", "errors")] == ["31", "2", "3"]
    (kept,) = (mixed / ".fleetest" / "artifacts").rglob("made.log")
    assert kept.read_text() == "made"
    assert (mixed / ".fleetest" / "history.duckdb").exists()


def test_all_green_is_exit_status_0_and_nothing_found_is_5(tmp_path: Path) -> None:
    (tmp_path / "green.toml").write_text(f'[[command]]\nname = "a"\nargv = ["{PYTHON}", "-c", ""]\n')
    (tmp_path / "empty").mkdir()
    (tmp_path / "none.toml").write_text('[[pytest]]\nname = "u"\nargs = ["empty"]\n')

    green = run_cli(tmp_path, "green.toml", "--history", "none")
    nothing = run_cli(tmp_path, "none.toml", "--history", "none", "--fleet", "1")

    assert (green.returncode, nothing.returncode) == (0, 5), green.stdout + nothing.stdout
    assert not (tmp_path / ".fleetest" / "history.duckdb").exists()


def test_maxfail_stops_the_run(tmp_path: Path) -> None:
    # Nobody ever writes to the gate: what waits there ends only because the run does.
    os.mkfifo(tmp_path / "gate")
    wait = f'argv = ["{PYTHON}", "-c", "open(\'gate\').read()"]'
    (tmp_path / "s.toml").write_text(
        f'[[command]]\nname = "fails"\npriority = 1\nargv = ["{PYTHON}", "-c", "1/0"]\n'
        f'[[command]]\nname = "waits"\n{wait}\n[[command]]\nname = "waits too"\n{wait}\n'
    )

    done = run_cli(tmp_path, "s.toml", "-x", "--fleet", "1", "--history", "none")

    assert done.returncode == 1
    assert "fleetest: stopping after 1 failure" in done.stdout
    assert re.search(r"^1 failed, (1 cancelled, 1|2) not run in ", done.stdout, re.MULTILINE), done.stdout
    assert processes_in(tmp_path) == []


def processes_in(directory: Path) -> list[int]:
    return [p.info["pid"] for p in psutil.process_iter(["pid", "cwd"]) if p.info["cwd"] == str(directory)]


HANGING = """
[[command]]
name = "quick"
argv = ["{python}", "-c", "open('ready').read()"]

[[command]]
name = "hangs"
argv = ["{python}", "-c", "import os, threading; open('ready', 'w').write('x'); threading.Event().wait()"]

[[command]]
name = "never starts"
argv = ["{python}", "-c", ""]
depends_on = ["hangs"]
"""


def test_ctrl_c_twice_kills_and_keeps_the_verdicts(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "ready")
    (tmp_path / "s.toml").write_text(HANGING.format(python=PYTHON))

    with on_terminal(tmp_path, "run", "s.toml", "--fleet", "2", "-q") as run:
        run.read_until(lambda text: "PASSED quick" in text)
        run.interrupt()
        run.read_until(lambda text: "Ctrl-C again kills it" in text)
        run.interrupt()
        status = run.finish()

    assert status == 2, run.text
    assert re.search(r"1 passed, 2 cancelled in ", run.text), run.text
    assert "Traceback" not in run.text
    assert processes_in(tmp_path) == []


def test_a_terminated_run_leaves_nothing_running(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "ready")
    (tmp_path / "s.toml").write_text(HANGING.format(python=PYTHON))

    with on_terminal(tmp_path, "run", "s.toml", "--fleet", "2", "-q") as run:
        run.read_until(lambda text: "PASSED quick" in text)
        run.process.send_signal(signal.SIGTERM)
        status = run.finish()

    assert status == 2, run.text
    assert re.search(r"1 passed, 2 cancelled in ", run.text), run.text
    assert processes_in(tmp_path) == []


def test_live_view_of_a_suite_on_a_terminal(mixed: Path) -> None:
    with on_terminal(mixed, "run", "mixed.toml", "--fleet", "2") as run:
        status = run.finish()

    assert status == 1, run.text
    assert "\x1b[?25l" in run.text  # the area hides the cursor
    assert run.text.count("\x1b[?25l") == run.text.count("\x1b[?25h")
    assert "tests/s" in run.text
    assert "FAILED" in run.text
    assert "PASSED" not in run.text
    assert "24 passed, 2 failed" in run.text


# pytest ----------------------------------------------------------------------------------------------------------


def test_pytest_arguments_run_on_a_fleet_with_plain_output_on_a_pipe(mixed: Path) -> None:
    done = run_cli(mixed, "tests", "-rA", "-k", "good or bad", "-p", "no:cacheprovider")

    assert done.returncode == 1, done.stdout + done.stderr
    assert "\x1b" not in done.stdout
    assert "1 failed, 20 passed, 2 deselected" in done.stdout
    assert "....." in done.stdout
    assert "[gw" in done.stdout  # reports name the runner: it was a fleet


def test_the_plugin_is_there_even_if_plugins_are_not_loaded_by_themselves(mixed: Path) -> None:
    done = run_cli(mixed, "tests", "-k", "bad", "-p", "no:cacheprovider", PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")

    assert done.returncode == 1, done.stdout + done.stderr
    assert "[gw" in done.stdout


def test_the_configured_fleet_is_respected(mixed: Path) -> None:
    (mixed / "pytest.ini").write_text("[pytest]\nfleet = nonsense\n")

    done = run_cli(mixed, "tests")

    assert done.returncode == 4
    assert "nonsense" in done.stderr
    assert "Traceback" not in done.stderr


def test_pytest_on_a_terminal_has_a_live_view_and_its_own_summary(mixed: Path) -> None:
    with on_terminal(mixed, "run", "tests", "--fleet", "2", "-p", "no:cacheprovider") as run:
        status = run.finish()

    assert status == 1, run.text
    assert "tests/s" in run.text
    assert "FAILED" in run.text
    assert "....." not in run.text
    assert "test session starts" in run.text
    assert "= FAILURES =" in run.text
    assert re.search(r"1 failed.*21 passed.*1 skipped", run.text)


@pytest.mark.parametrize(("option", "term"), [("-q", "xterm"), ("-ra", "dumb")])
def test_quiet_and_dumb_terminals_have_plain_output(mixed: Path, option: str, term: str) -> None:
    with on_terminal(mixed, "run", "tests", option, "--fleet", "2", "-p", "no:cacheprovider", term=term) as run:
        status = run.finish()

    assert status == 1, run.text
    assert "....." in re.sub(r"\x1b\[[0-9;]*m", "", run.text)
    assert "\x1b[?25l" not in run.text


def test_exit_status_is_that_of_pytest(tmp_path: Path) -> None:
    assert run_cli(tmp_path, "--fleet", "1", "no_such_file.py").returncode == 4
    assert run_cli(tmp_path, "--fleet", "1").returncode == 5
