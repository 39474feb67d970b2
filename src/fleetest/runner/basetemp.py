"""A base temporary directory that the user named (``--basetemp``), which several templates of a run may see."""

from __future__ import annotations

import contextlib
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterator

_MARKER = ".fleetest-run"


def share_basetemp(config: Any, run_uid: str) -> None:
    """Let only the first template of this run empty it, as pytest would: the others find what runners have there.

    Several workers of a machine see the same directory, and so do those of several machines on a shared file system.
    """
    factory: Any = getattr(config, "_tmp_path_factory", None)
    given = getattr(factory, "_given_basetemp", None)
    if given is None or factory._basetemp is not None:
        return
    marker = given / _MARKER
    with _locked(given.parent):
        if _text_of(marker) == run_uid:
            factory._basetemp = given.resolve()
        else:
            factory.getbasetemp()
            marker.write_text(run_uid)


def _text_of(path: Any) -> str:
    try:
        return str(path.read_text())
    except (OSError, ValueError):
        return ""


@contextlib.contextmanager
def _locked(directory: Any) -> Iterator[None]:
    """Alone among templates; not alone where there are no locks (some shared file systems), or no such directory."""
    import fcntl

    descriptor = -1
    try:
        with contextlib.suppress(OSError):
            descriptor = os.open(str(directory), os.O_RDONLY | os.O_CLOEXEC)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        if descriptor != -1:
            os.close(descriptor)
