"""Notice whoever asks for the worker id before there are runners: each runner would have to see another answer."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Optional, Tuple

WORKER = "PYTEST_XDIST_WORKER"
WORKER_COUNT = "PYTEST_XDIST_WORKER_COUNT"
RUN_UID = "PYTEST_XDIST_TESTRUNUID"

_PACKAGE = __name__.rpartition(".")[0]
# Whoever calls these is the reader, not they.
_TRANSPARENT = ("os", "_collections_abc", "collections.abc", "collections", "xdist", _PACKAGE)


class EarlyReads:
    """Remembers the first early read of a worker id: ``first`` is ``file:line reads NAME ...`` or None."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self.first: Optional[str] = None

    def note(self, name: str) -> None:
        if self.first is not None:
            return
        frame: Optional[Any] = sys._getframe(1)
        while frame is not None and _belongs_to(frame, _TRANSPARENT):
            frame = frame.f_back
        if frame is None or _belongs_to(frame, ("_pytest", "pluggy")):
            return
        path = frame.f_code.co_filename
        prefix = self._directory.rstrip(os.sep) + os.sep
        if path.startswith(prefix):
            path = path[len(prefix) :]
        self.first = "%s:%d reads %s before runners exist" % (path, frame.f_lineno, name)


def _belongs_to(frame: Any, packages: Any) -> bool:
    module = frame.f_globals.get("__name__") or ""
    return any(module == package or module.startswith(package + ".") for package in packages)


class WorkerInput(dict):  # type: ignore[type-arg]
    """``config.workerinput``. While ``reads`` is set, reading ``workerid`` is noted there."""

    reads: Optional[EarlyReads] = None
    lacking: Optional[Tuple[Any, str]] = None
    """The last key that was read and that nobody has put here, and ``file:line reads workerinput[key]``."""

    def __missing__(self, key: Any) -> Any:
        frame: Optional[Any] = sys._getframe(1)
        while frame is not None and _belongs_to(frame, _TRANSPARENT):
            frame = frame.f_back
        if frame is not None:
            self.lacking = key, "%s:%d reads workerinput[%r]" % (frame.f_code.co_filename, frame.f_lineno, key)
        raise KeyError(key)

    def _read(self, key: Any) -> None:
        if self.reads is not None and key == "workerid":
            self.reads.note('workerinput["workerid"]')

    def __getitem__(self, key: str) -> Any:
        self._read(key)
        return dict.__getitem__(self, key)

    def get(self, key: str, default: Any = None) -> Any:
        self._read(key)
        return dict.get(self, key, default)

    # Whoever takes all takes the id with it; ``dict(workerinput)`` comes through here because ``__iter__`` is ours.

    def __iter__(self) -> Any:
        return dict.__iter__(self)

    def items(self) -> Any:
        self._read("workerid")
        return dict.items(self)

    def values(self) -> Any:
        self._read("workerid")
        return dict.values(self)

    def copy(self) -> Any:
        self._read("workerid")
        return dict.copy(self)


_reads: Optional[EarlyReads] = None
_plain_environ: Any = type(os.environ)


class _GuardedEnviron(_plain_environ):  # type: ignore[misc]
    """``os.environ`` that notes who asks for the worker id; everything else is inherited, ``get`` and ``in`` too."""

    def __getitem__(self, key: Any) -> Any:
        if key == WORKER and _reads is not None:
            _reads.note(WORKER)
        return super().__getitem__(key)


def guard_environment(reads: EarlyReads) -> None:
    """Note early reads of the worker id in ``os.environ`` (the same object, so that no earlier reference escapes)."""
    global _reads
    _reads = reads
    try:
        os.environ.__class__ = _GuardedEnviron
    except TypeError:
        # Somebody's own mapping was put in its place: nothing can be noticed there.
        pass


def release_environment() -> None:
    """End what ``guard_environment`` began."""
    global _reads
    _reads = None
    environ: Any = os.environ
    if type(environ) is _GuardedEnviron:
        environ.__class__ = _plain_environ
