"""The fixtures of pytest-xdist, for suites that use them where it is not installed."""

from __future__ import annotations

import pytest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


@pytest.fixture(scope="session")
def worker_id(request: Any) -> str:
    """The id of the runner that executes this test, such as ``gw0``."""
    return str(request.config.workerinput["workerid"])


@pytest.fixture(scope="session")
def testrun_uid(request: Any) -> str:
    """The id of the run, the same in all its runners."""
    return str(request.config.workerinput["testrunuid"])
