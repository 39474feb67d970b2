"""``fleetest run`` with pytest arguments: our own options get the plugin's names, everything else stays as it is."""

from __future__ import annotations

import pytest

from fleetest.cli.pytest_run import plugin_arguments


@pytest.mark.parametrize(
    ("given", "handed_on"),
    [
        (["--token-file", "/t", "tests"], ["--fleet-token-file=/t", "tests"]),
        (["--data=/d", "-x"], ["--fleet-data=/d", "-x"]),
        (["--fleet-data", "/d", "--python", "/p"], ["--fleet-data=/d", "--fleet-python=/p"]),
        (["--fleet", "4", "-k", "a and b"], ["--fleet", "4", "-k", "a and b"]),
        (["t.py", "--", "--data", "x"], ["t.py", "--", "--data", "x"]),
        (["--history=none"], ["--fleet-history=none"]),
        (["--data"], ["--fleet-data="]),
    ],
)
def test_own_options(given: list[str], handed_on: list[str]) -> None:
    assert plugin_arguments(given) == handed_on
