"""Files are written beside their place and put there when they are whole; who is killed meanwhile leaves the draft."""

from __future__ import annotations

import re
import stat
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

_DRAFT = re.compile(r"\.(?P<name>.+)-[0-9a-f]+")


def remove_drafts(directory: Path, names: Collection[str]) -> None:
    """Of files with these names: ``.name-1f00`` and the like. Only for who alone writes them there."""
    with suppress(OSError):
        for path in directory.iterdir():
            match = _DRAFT.fullmatch(path.name)
            if match is not None and match["name"] in names:
                with suppress(OSError):
                    if stat.S_ISREG(path.lstat().st_mode):
                        path.unlink()
