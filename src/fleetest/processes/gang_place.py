"""How a member of a gang hears of its place: by a file for a runner, by the environment for a command."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from fleetest.core.model import GangPlace

MARK = 0x80000000
"""Set in the position of a test that a gang executes; see docs/design/runner-protocol.md."""


def write_place(path: Path, place: GangPlace) -> None:
    """Raises OSError. The runner never sees half of it."""
    new = path.with_suffix(".new")
    new.write_bytes(msgspec.json.encode(place))
    os.replace(new, path)


def environment_of(place: GangPlace) -> dict[str, str]:
    return {
        "FLEETEST_GANG_ID": place.gang_id,
        "FLEETEST_GANG_RANK": str(place.rank),
        "FLEETEST_GANG_SIZE": str(place.size),
        "FLEETEST_GANG_HOSTS": ",".join(place.hosts),
        "FLEETEST_GANG_WORKERS": ",".join(place.workers),
    }
