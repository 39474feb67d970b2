"""What ``pytest --fleet`` leaves in the history, with the reports of real tests."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fleetest.cli.history import history

SUITE = """
import pytest

def test_passes(): pass
def test_prints(): print("quiet output")
def test_fails(): print("hello"); assert 1 == 2
def test_skips(): pytest.skip("no GPU")

@pytest.mark.xfail(reason="bug 7")
def test_expected(): assert 0

@pytest.fixture
def broken(): raise ValueError("[red]no[/red]")
def test_error(broken): pass
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("project")
    (directory / "test_it.py").write_text(SUITE)
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "--fleet", "2", "-q", "-p", "no:cacheprovider"],
            cwd=directory,
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 1, done.stdout + done.stderr
    return directory


def ask(project: Path, *args: str) -> Any:
    command = ["--data", str(project / ".fleetest"), "--format", "json", *args]
    return json.loads(CliRunner().invoke(history, command, standalone_mode=False, catch_exceptions=False).output)


def test_both_runs_are_there(project: Path) -> None:
    runs = ask(project)
    assert [(run["outcome"], run["tests"], run["passed"], run["failed"], run["error"]) for run in runs] == [
        ("finished", 6, 2, 1, 1)
    ] * 2
    assert all(run["ended_at"] >= run["started_at"] for run in runs)
    assert list((project / ".fleetest" / "spool").iterdir()) == []


def test_every_test_has_its_verdict_and_reason(project: Path) -> None:
    tasks = ask(project, "run", "latest")
    assert {task["task_id"].split("::")[1]: (task["verdict"], task["attempts"], task["reason"]) for task in tasks} == {
        "test_passes": ("passed", 1, None),
        "test_prints": ("passed", 1, None),
        "test_fails": ("failed", 1, "assert 1 == 2"),
        "test_skips": ("skipped", 1, "no GPU"),
        "test_expected": ("xfailed", 1, "bug 7"),
        "test_error": ("error", 1, "ValueError: [red]no[/red]"),
    }


def test_a_failure_keeps_its_traceback_and_place(project: Path) -> None:
    failures = ask(project, "failures", "test_it.py::test_fails")
    assert len(failures) == 2
    for failure in failures:
        assert "assert 1 == 2" in failure["traceback"]
        assert "test_it.py:6" in failure["traceback"]
        assert failure["runner"] in ("gw0", "gw1")
        assert failure["worker"]
