"""``fleetest simulate`` on the history that real runs have left."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fleetest.core.model import AttemptResult, LeaseId, Verdict
from fleetest.storage.history import HistoryRecorder
from fleetest.storage.records import AttemptRecorded, RunEnded, RunStarted, TasksPlanned

SUITE = """
import time

import pytest

@pytest.mark.parametrize("number", range(6))
def test_quick(number): pass

def test_takes_a_while(): time.sleep(0.3)
def test_fails(): assert 0
"""


def fleetest(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fleetest", *arguments]
    return subprocess.run(command, cwd=cwd, check=False, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("project")
    for name in ("test_one.py", "test_two.py"):
        (directory / name).write_text(SUITE)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--fleet", "2", "-q", "-p", "no:cacheprovider"],
        cwd=directory,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    return directory


def test_the_latest_run_is_played_on_another_fleet(project: Path) -> None:
    done = fleetest("simulate", "--workers", "2x1", "--json", cwd=project)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["tests"] == 16
    assert told["work_s"] >= 0.6
    adaptive = told["strategies"][0]
    assert adaptive["strategy"] == "adaptive"
    assert adaptive["verdicts"] == {"passed": 16}
    assert told["bound_s"] >= 0.3
    assert adaptive["makespan_s"] >= told["bound_s"]


def test_durations_of_unlike_machines_are_played_as_those_of_a_typical_one(tmp_path: Path) -> None:
    file = tmp_path / "history.duckdb"
    recorder = HistoryRecorder(file)
    for run in range(4):
        names = [f"test_it.py::test_{number}" for number in range(40)]
        recorder.record(RunStarted(f"r{run}", 1.0 + run, "", "", ""))
        recorder.record(TasksPlanned(f"r{run}", [(name, "", "test_it.py", n) for n, name in enumerate(names)]))
        for number, name in enumerate(names):
            worker, duration_s = ("slow", 4.0) if (number + run) % 2 else ("fast", 1.0)
            result = AttemptResult(LeaseId(1), Verdict.PASSED, 1.0, duration_s)
            recorder.record(AttemptRecorded(f"r{run}", name, 1, Verdict.PASSED, True, worker, "gw0", 0, "", result))
        recorder.record(RunEnded(f"r{run}", 2.0 + run, {"passed": 40}))
    assert recorder.close() == []
    done = fleetest("simulate", "--history", str(file), "--workers", "2x1", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["work_s"] == pytest.approx(80.0, rel=0.05)


def test_a_described_fleet_with_a_picture(project: Path, tmp_path: Path) -> None:
    fleet = tmp_path / "fleet.toml"
    fleet.write_text(
        """
[[worker]]
name = "slow"
slots = 1
speed = 0.1

[[worker]]
name = "fast"
slots = 1
resources = { licence = 1 }

[[test]]
match = "*takes_a_while"
resources = { licence = 1 }
"""
    )
    picture = tmp_path / "plan.svg"
    done = fleetest("simulate", "latest", "--median", "--fleet", str(fleet), "--svg", str(picture), cwd=project)
    assert done.returncode == 0, done.stderr
    assert "xdist load: left out, it knows no requirements" in done.stdout
    assert "test_one.py::test_takes_a_while\nfast/0: passed" in picture.read_text()
    assert "takes_a_while\nslow" not in picture.read_text()


def test_a_run_that_is_not_there_is_one_clear_line(project: Path) -> None:
    done = fleetest("simulate", "nosuchrun", "--workers", "2x1", cwd=project)
    assert done.returncode == 4
    assert done.stderr.startswith("fleetest: no run in the history begins with 'nosuchrun'")
    assert done.stderr.count("\n") == 1


def test_a_picture_is_not_called_what_it_is_not(project: Path, tmp_path: Path) -> None:
    picture = tmp_path / "plan.png"
    done = fleetest("simulate", "--tasks", "4", "--workers", "2x1", "--svg", str(picture), cwd=project)
    assert done.returncode == 4
    assert done.stderr == f"fleetest: --svg {picture}: the picture is an SVG: give a name that ends with .svg\n"
    assert not picture.exists()


# Of a running coordinator -------------------------------------------------------------------------------------------

FLEET_SUITE = """
import pytest

@pytest.mark.fleet(resources={"licence": 1})
def test_licence(): pass

@pytest.mark.parametrize("number", range(5))
def test_quick(number): pass
"""


@pytest.fixture
def played(fleet, ask):
    """Two workers that have run a suite: one has the licence that a test of it needs."""
    (fleet.suite / "test_it.py").write_text(FLEET_SUITE)
    fleet.worker("box-a", "--resource", "licence=1")
    fleet.worker("box-b")
    status, output, _ = fleet.run()
    assert status == 0, output
    return fleet


def told_by(ask, *args: str) -> tuple[dict, str]:
    """What is answered, and what is noted beside it."""
    status, text = ask("simulate", *args, "--json")
    assert status == 0, text
    told, end = json.JSONDecoder().raw_decode(text)
    return told, text[end:].strip()


def test_a_run_of_a_coordinator_is_played_on_its_own_workers(played, ask):
    told, notes = told_by(ask, "--fleet", played.url, "--token-file", str(played.directory / "data" / "view.token"))
    assert sorted(worker["name"] for worker in told["workers"]) == ["box-a", "box-b"]
    assert told["strategies"][0]["verdicts"] == {"passed": 6}
    assert told["left_out"]["xdist load"] == "it knows no requirements"
    assert notes == ""


def test_workers_that_take_no_work_are_left_out(played, ask):
    ask("drain", "box-b")
    told, notes = told_by(ask, "--fleet", played.url)
    assert [worker["name"] for worker in told["workers"]] == ["box-a"]
    assert notes == "fleetest: worker box-b is left out: draining"
    ask("drain", "box-a")
    status, text = ask("simulate", "--fleet", played.url)
    assert status == 4
    assert text.splitlines()[-1] == (
        f"fleetest: no worker of {played.url} takes work: describe a fleet instead,"
        f" --coordinator {played.url} --workers 5x8"
    )


def test_a_run_of_a_coordinator_is_played_on_another_fleet(played, ask):
    """Nobody there has the licence; the whole fleet once more has it twice."""
    told, _ = told_by(ask, "--coordinator", played.url, "--workers", "4x1")
    assert len(told["workers"]) == 4
    assert told["strategies"][0]["verdicts"] == {"passed": 5, "not_run": 1}
    file = played.directory / "twice.toml"
    file.write_text("[[worker]]\nname = 'box'\ncount = 4\nslots = 1\nresources = { licence = 1 }\n")
    told, _ = told_by(ask, "--coordinator", played.url, "--fleet", str(file))
    assert told["strategies"][0]["verdicts"] == {"passed": 6}


def test_a_history_file_is_played_on_the_workers_of_a_coordinator(played, project, ask):
    history = str(project / ".fleetest" / "history.duckdb")
    told, _ = told_by(ask, "--fleet", played.url, "--history", history)
    assert told["tests"] == 16
    assert sorted(worker["name"] for worker in told["workers"]) == ["box-a", "box-b"]


def test_what_a_run_needs_is_said_to_be_unknown_after_a_restart(fleet, ask):
    """On one worker: its speed is always 1. How fast several are against each other is measured anew after a restart."""
    (fleet.suite / "test_it.py").write_text(FLEET_SUITE)
    fleet.worker("box-a", "--resource", "licence=1")
    status, output, _ = fleet.run()
    assert status == 0, output
    before, _ = told_by(ask, "--coordinator", fleet.url, "--workers", "2x1")
    fleet.coordinator.terminate()
    fleet.coordinator.communicate()
    fleet.start_coordinator(fleet.url.rpartition(":")[2])
    told, notes = told_by(ask, "--coordinator", fleet.url, "--workers", "2x1")
    assert told["work_s"] == pytest.approx(before["work_s"])
    assert told["strategies"][0]["verdicts"] == {"passed": 6}
    assert notes == (
        "fleetest: what the tests of this run need is not known any more: they are played as if any worker would do"
    )


def test_a_coordinator_that_is_not_there_or_refuses_is_one_line(fleet, ask):
    wrong = fleet.directory / "wrong"
    wrong.write_text("x" * 43)
    wrong.chmod(0o600)
    for args, status in (
        (["--fleet", "ws://127.0.0.1:1"], 10),
        (["--fleet", fleet.url, "--token-file", str(wrong)], 11),
        (["--fleet", fleet.url], 4),
        (["--coordinator", fleet.url, "--workers", "1x1"], 4),
        (["--fleet", "ftp://127.0.0.1"], 4),
    ):
        found, text = ask("simulate", *args)
        assert (found, len(text.splitlines())) == (status, 1), text
