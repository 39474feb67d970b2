"""May this process be forked? Answers with the reason why not."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional

# Their thread pools are closed before a fork and opened again after it, by handlers that they register themselves.
_FORK_AWARE_LIBRARIES = ("openblas", "libmkl_", "libblis")


def why_not_fork() -> Optional[str]:
    """A reason that holds on any suite: threads are alive or CUDA is initialised. None if forking is safe.

    The worker id and the choice of the user are not looked at here.
    """
    torch = sys.modules.get("torch")
    if torch is not None:
        try:
            if torch.cuda.is_initialized():
                return "CUDA is initialised after collection"
        except Exception:
            # A half imported or replaced torch cannot have initialised anything.
            pass
    python_threads = _other_python_threads()
    if python_threads:
        shown = ", ".join(repr(name) for name in python_threads[:3])
        more = "" if len(python_threads) <= 3 else " and %d more" % (len(python_threads) - 3)
        return "threads are alive after collection: %s%s" % (shown, more)
    return _native_threads()


def _other_python_threads() -> list[str]:
    threading = sys.modules.get("threading")
    if threading is None:
        return []
    own = threading.get_ident()
    return [thread.name for thread in threading.enumerate() if thread.ident != own]


def _native_threads() -> Optional[str]:
    try:
        count = len(os.listdir("/proc/self/task")) - 1
    except OSError:
        # No such folder on this system: nothing can be known.
        return None
    if count <= 0:
        return None
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
            libraries = {line.rsplit("/", 1)[-1].strip() for line in maps if "/" in line}
    except OSError:
        libraries = set()
    pools = sum(any(known in library for known in _FORK_AWARE_LIBRARIES) for library in libraries)
    allowed = pools * max((os.cpu_count() or 1) - 1, 1)
    if count <= allowed:
        return None
    return "%d native threads are alive after collection" % count
