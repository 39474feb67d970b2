"""``fleetest simulate`` on the history that real runs have left."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

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
