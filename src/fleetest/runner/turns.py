"""Turns at collecting: where several workers share a machine, no more templates collect at once than it has processors.

All at once would all be ready at the end of the common work, and each would compile the modules that none has kept
yet. In turn the first are ready, and execute, while the others still collect, with what the first have compiled.
"""

from __future__ import annotations

import os
import tempfile
import time

try:
    import fcntl

    can_lock = True
except ImportError:
    # Not on this system: nobody waits.
    can_lock = False

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional

_PATIENCE_S = 0.5
"""A collection may take minutes, and may wait rather than compute: nobody stands behind it for longer than this."""
_LOOK_AGAIN_S = 0.004


class Turn:
    """Somebody's turn, or leave to go without one. It ends with ``release``, or with the process."""

    def __init__(self, descriptor: Optional[int]) -> None:
        self._descriptor = descriptor

    def release(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            try:
                os.close(descriptor)
            except OSError:
                # The suite has closed everything.
                pass


def take_turn(patience_s: float = _PATIENCE_S) -> Turn:
    """Wait for one, at most ``patience_s``."""
    descriptor = _open()
    if descriptor is None:
        return Turn(None)
    places = os.cpu_count() or 1
    deadline = time.monotonic() + patience_s
    while not _lock_one(descriptor, places):
        if time.monotonic() >= deadline:
            break
        time.sleep(_LOOK_AGAIN_S)
    return Turn(descriptor)


def _open() -> Optional[int]:
    """A file of this user that all of his templates on this machine open; None where there can be none."""
    if not can_lock:
        return None
    known = tempfile.tempdir
    path = os.path.join(tempfile.gettempdir(), "fleetest-turns-%d" % os.getuid())
    # Python asks the environment only once, and plugins of the suite may still set it, as in plain pytest.
    tempfile.tempdir = known
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError:
        # Somebody else's file, or no room: that is no reason not to collect.
        return None


def _lock_one(descriptor: int, places: int) -> bool:
    # One byte is one place. Such locks are of the process: what it forks meanwhile does not hold them.
    for place in range(places):
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
        except OSError:
            continue
        return True
    return False
