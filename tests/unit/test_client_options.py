"""What reaches the template's pytest, and which settings are refused."""

from __future__ import annotations

import pytest

from fleetest.client.pytest_options import embedded_slots, strip_own_options
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
