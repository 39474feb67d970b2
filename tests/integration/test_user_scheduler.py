"""The scheduler on the page takes part in a real run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "write-a-scheduler.md"
SUITE = """
import pathlib, time
import pytest

@pytest.mark.parametrize("seconds", [0.4, 0.2, 0.3, 0.1])
def test_sleep(seconds):
    with open(pathlib.Path(__file__).parent / "order.txt", "a") as order:
        order.write(f"{seconds}\\n")
    time.sleep(seconds)
"""


@pytest.fixture
def suite(tmp_path):
    code = re.search(r"```python\n# (shortest_first\.py)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / code[1]).write_text(code[2])
    (tmp_path / "suite").mkdir()
    (tmp_path / "suite" / "test_sleep.py").write_text(SUITE)
    return tmp_path / "suite"


def run(suite, *options):
    environment = {**os.environ, "PYTHONPATH": str(suite.parent / "plugins")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--fleet=1", "test_sleep.py", *options],
        cwd=suite,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    order_file = suite / "order.txt"
    order = order_file.read_text().split() if order_file.exists() else []
    order_file.unlink(missing_ok=True)
    return done, order


def test_the_scheduler_on_the_page_runs_known_tests_shortest_first(suite):
    first, planned = run(suite)
    assert first.returncode == 0, first.stdout + first.stderr
    assert planned == ["0.4", "0.2", "0.3", "0.1"]
    second, order = run(suite, "--fleet-scheduler=shortest_first:ShortestFirst")
    assert second.returncode == 0, second.stdout + second.stderr
    assert order == ["0.1", "0.2", "0.3", "0.4"]


def test_a_scheduler_that_cannot_be_had_is_said_in_one_line(suite):
    for name, said in (
        ("shortest_first:Longest", "cannot be loaded as module:Class (AttributeError"),
        ("builtins:dict", "is no scheduling policy: it has no bind"),
        ("fastest", "unknown scheduler 'fastest'"),
    ):
        done, order = run(suite, f"--fleet-scheduler={name}")
        assert done.returncode == 4
        assert said in done.stderr
        assert not order
