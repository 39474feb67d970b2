"""What reaches the template's pytest, and which settings are refused."""

from __future__ import annotations

import pytest

from fleetest.client.pytest_options import embedded_slots, read_port, strip_own_options
from fleetest.errors import UserError


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (["--fleet", "4", "tests"], ("tests",)),
        (["--fleet=4", "-x", "tests"], ("-x", "tests")),
        (
            ["-k", "a or b", "--fleet-timeout", "5", "--fleet-python=/p", "t.py::test"],
            ("-k", "a or b", "t.py::test"),
        ),
        (["tests", "--", "--fleet", "odd-name"], ("tests", "--", "--fleet", "odd-name")),
        (["--fleet-no-hedge", "tests"], ("tests",)),
        (["--fleet-dashboard", "-x", "tests"], ("-x", "tests")),
        (["--fleet-dashboard", "8080", "tests"], ("tests",)),
        (["--fleet-dashboard=8080", "80"], ("80",)),
        (["tests", "--fleet-dashboard"], ("tests",)),
        ([], ()),
        (["--fleetwood"], ("--fleetwood",)),
    ],
)
def test_own_options_do_not_reach_the_template(given: list[str], kept: tuple[str, ...]) -> None:
    assert strip_own_options(given) == kept


@pytest.mark.parametrize("target", ["-1", "0", "many", "1.5", "1001", "http:/x"])
def test_a_target_that_is_none_is_refused_with_the_choices(target: str) -> None:
    with pytest.raises(UserError, match=r"none of: auto, a number of runners from 1 to 1000"):
        embedded_slots(target)


def test_auto_means_at_least_one_runner() -> None:
    assert embedded_slots("auto") >= 1
    assert embedded_slots("7") == 7


def test_a_port_of_the_dashboard() -> None:
    assert read_port("--fleet-dashboard", None) is None
    assert read_port("--fleet-dashboard", "0") == 0
    assert read_port("--fleet-dashboard", "65535") == 65535


@pytest.mark.parametrize("text", ["65536", "-1", "tests/unit", "", "\u0664\u0662"])
def test_what_is_no_port_is_refused_with_the_way_out(text: str) -> None:
    with pytest.raises(UserError, match=r"--fleet-dashboard=0 \(any port\)"):
        read_port("--fleet-dashboard", text)
