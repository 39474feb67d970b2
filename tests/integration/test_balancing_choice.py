"""The balancing policy is chosen by name, for embedded runners and for a coordinator."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest_plugins = ["pytester"]


@pytest.mark.parametrize("name", ["adaptive", "round-robin", "least-loaded", "my_balancing:Mine"])
def test_embedded_runners_are_balanced_as_told(pytester: pytest.Pytester, name: str) -> None:
    pytester.makepyfile(
        my_balancing="""
            from fleetest.balancing.simple import RoundRobin

            class Mine(RoundRobin):
                def order(self, worker):
                    with open("asked.txt", "w") as file:
                        file.write("yes")
                    return super().order(worker)

                def prefetch_s(self, worker):
                    self.order(worker)
                    return super().prefetch_s(worker)
        """,
        test_many="""
            import pytest

            @pytest.mark.parametrize("number", range(40))
            def test_number(number): pass
        """,
    )
    result = pytester.runpytest_subprocess("--fleet", "2", f"--fleet-balancing={name}")
    result.assert_outcomes(passed=40)
    assert (pytester.path / "asked.txt").exists() == name.endswith("Mine")


def test_an_unknown_name_is_one_clear_line(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_one(): pass")
    result = pytester.runpytest_subprocess("--fleet", "1", "--fleet-balancing", "best")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*unknown balancing 'best': give adaptive, round-robin, least-loaded*"])
    result.stderr.no_fnmatch_line("*Traceback*")


def test_a_coordinator_has_its_own(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_one(): pass")
    result = pytester.runpytest_subprocess("--fleet", "ws://127.0.0.1:1", "--fleet-balancing", "adaptive")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*a coordinator is started with --balancing*"])


def test_a_coordinator_refuses_an_unknown_name(pytester: pytest.Pytester) -> None:
    command = [sys.executable, "-m", "fleetest", "coordinator", "--port", "0", "--data", "data", "--balancing", "best"]
    finished = subprocess.run(command, cwd=pytester.path, capture_output=True, text=True, timeout=60, check=False)
    assert finished.returncode == 4, finished
    assert "unknown balancing 'best'" in finished.stderr
    assert "Traceback" not in finished.stderr
