"""The gang that executes the current test: several runners on several machines, each with its place in it.

The worker writes the place into a file before it hands out the position of such a test, and marks the position.
"""

from __future__ import annotations

import json
import os

import pytest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Optional

MARK = 0x80000000
"""Set in a position: a gang executes this item."""


class Gang:
    """``hosts`` and ``names`` (of workers) are in order of rank. A test that is no gang's is alone: rank 0 of 1."""

    def __init__(self, gang_id: str, rank: int, size: int, hosts: Any, names: Any) -> None:
        self.id = gang_id
        self.rank = rank
        self.size = size
        self.hosts = tuple(hosts)
        self.names = tuple(names)

    def __repr__(self) -> str:
        return "<Gang %s: rank %d of %d>" % (self.id, self.rank, self.size)

    @property
    def environment(self) -> Any:
        """What commands of a gang see too."""
        return {
            "FLEETEST_GANG_ID": self.id,
            "FLEETEST_GANG_RANK": str(self.rank),
            "FLEETEST_GANG_SIZE": str(self.size),
            "FLEETEST_GANG_HOSTS": ",".join(self.hosts),
            "FLEETEST_GANG_WORKERS": ",".join(self.names),
        }


ALONE = Gang("", 0, 1, ("127.0.0.1",), ("",))


class GangPlugin:
    """The fixture, and who executes the current test."""

    def __init__(self) -> None:
        self.current: Optional[Gang] = None

    def enter(self, path: str) -> None:
        """The next test is that of the gang in the file."""
        with open(path, encoding="utf-8") as file:
            place = json.load(file)
        self.current = Gang(place["gang_id"], place["rank"], place["size"], place["hosts"], place["workers"])
        os.environ.update(self.current.environment)

    def leave(self) -> None:
        """It has ended."""
        if self.current is not None:
            for name in self.current.environment:
                os.environ.pop(name, None)
            self.current = None

    @pytest.fixture
    def fleet_gang(self) -> Gang:
        """The place of this runner among those that execute this test together."""
        return self.current or ALONE
