"""Hooks that Fleetest adds to pytest in the client process."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from fleetest.wire.messages import CoordinatorToClient


@pytest.hookspec()
def pytest_fleet_message(config: pytest.Config, message: CoordinatorToClient) -> None:
    """A message of the coordinator arrived; called just before it is replayed through pytest's own hooks."""
