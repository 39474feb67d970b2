"""How a runner hears which value of a capability it executes a test for: by lines of a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

MARK = 0x40000000
"""Set in the position of a test that is executed for one value; see docs/design/runner-protocol.md."""


def append_variants(path: Path, variants: Mapping[int, str]) -> None:
    """``variants`` by position: they hold from now on. Raises OSError."""
    with path.open("ab") as file:
        file.write(b"".join(msgspec.json.encode(line) + b"\n" for line in variants.items()))
