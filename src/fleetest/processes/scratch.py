"""The folder for a worker's own files, and what killed workers have left of theirs.

Each folder says whose it is. It is removed by another worker only if that process is certainly dead, and no process
that can be seen has anything open in there: runners may outlive their worker for a moment.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from fleetest.processes.identity import own_identity, start_of, start_of_dead

_PREFIX = "fleetest-"
_NAME = re.compile(rf"{_PREFIX}[a-z0-9_]{{8}}")
_OWNER_NAME = "owner"
_OWNER_BYTES_MAX = 1000


def make_scratch() -> Path:
    """A new folder of this process. Raises OSError."""
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    try:
        (folder / _OWNER_NAME).write_text(own_identity(), "ascii")
    except OSError:
        # Nobody would know whose it was.
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def remove_abandoned() -> list[Path]:
    """Remove the folders of dead workers of this user; those that were removed. It may take a while."""
    found = dict(_abandoned())
    used = _used(found) if found else set()
    removed = [folder for folder in found if folder not in used]
    for folder in removed:
        shutil.rmtree(folder, ignore_errors=True)
    return removed


def _abandoned() -> Iterator[tuple[Path, int]]:
    """Folders whose process is certainly dead, and when that had started, in ticks of this boot."""
    with suppress(OSError), os.scandir(os.path.realpath(tempfile.gettempdir())) as entries:
        for entry in entries:
            with suppress(OSError, UnicodeDecodeError):
                if _NAME.fullmatch(entry.name) and _is_mine(entry.stat(follow_symlinks=False), stat.S_ISDIR):
                    owner = Path(entry.path, _OWNER_NAME)
                    if _is_mine(owner.lstat(), stat.S_ISREG) and (start := start_of_dead(_read(owner))) is not None:
                        yield Path(entry.path), start


def _is_mine(facts: os.stat_result, is_kind: Callable[[int], bool]) -> bool:
    return facts.st_uid == os.geteuid() and is_kind(facts.st_mode)


def _read(owner: Path) -> str:
    with owner.open("rb") as file:
        return file.read(_OWNER_BYTES_MAX).decode("ascii")


def _used(started: Mapping[Path, int]) -> set[Path]:
    """The folders that a process of this user works in, or has a file open in.

    Whoever has got into a folder was started by its owner, hence after it: of such a process that tells nothing, it is
    taken to be in all that it may be in.
    """
    used: set[Path] = set()
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal():
            continue
        began = start_of(int(process.name))
        if began == "":
            continue
        possible = {folder for folder, start in started.items() if began is None or start <= int(began)} - used
        if not possible:
            continue
        try:
            if process.stat().st_uid != os.geteuid():
                continue
            descriptors = process / "fd"
            places = [process / "cwd", *(descriptors / name for name in os.listdir(descriptors))]
            used |= {folder for folder in possible if any(_is_below(place, folder) for place in places)}
        except (FileNotFoundError, ProcessLookupError):
            continue
        except OSError:
            # Of those who have died meanwhile a zombie tells nothing either.
            if start_of(int(process.name)) == began:
                used |= possible
    return used


def _is_below(link: Path, folder: Path) -> bool:
    try:
        target = os.readlink(link)
    except FileNotFoundError:
        return False
    return target == str(folder) or target.startswith(f"{folder}/")
