"""An interpreter that waits for a run: pytest is imported already, and what of it shows is what a fresh one shows."""

from __future__ import annotations

import importlib
import logging
import os
import select
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Iterator, Optional, Tuple

    Stamp = Optional[Tuple[int, int, int, int]]

_UNUSED = 1


def get_ready(control_fd: int) -> None:
    """Import what every run needs, and return when there is a start frame to read (or nobody any more to send one).

    Ends the process if a fresh interpreter would not import the same now: then the worker starts one.
    """
    imports = _Imports()
    arrival = select.poll()
    arrival.register(control_fd, select.POLLIN)
    arrival.poll()
    if not imports.are_current():
        os._exit(_UNUSED)
    importlib.invalidate_caches()
    _restart_logging_clock()


class _Imports:
    """pytest, imported here and now, and where everything that is imported comes from."""

    def __init__(self) -> None:
        began = time.time()
        self._stamps: Dict[str, Stamp] = {}
        self._are_sound = all(map(os.path.isabs, sys.path))
        """Relative entries mean something else in the suite's directory."""
        try:
            import pytest  # noqa: F401

            from . import session_plugin  # noqa: F401

            _import_what_pytest_loads()
        except BaseException:
            # A fresh interpreter says so, to somebody who wants to know.
            self._are_sound = False
            return
        for path in _sources():
            self._stamps[path] = _stamp(path)
            # Something is being installed: half of what was imported may be of before.
            self._are_sound = self._are_sound and not _has_changed_since(began, path)

    def are_current(self) -> bool:
        return self._are_sound and all(_stamp(path) == stamp for path, stamp in self._stamps.items())


def _import_what_pytest_loads() -> None:
    """pytest's own plugins: it imports each of them at its start, unless the user disables one."""
    from _pytest import config

    for name in getattr(config, "default_plugins", ()):
        importlib.import_module("_pytest." + name)


def _sources() -> Iterator[str]:
    """The interpreter, the directories where it looks for modules, what they add to that, and every imported file."""
    yield sys.executable
    yield os.path.join(sys.prefix, "pyvenv.cfg")
    for entry in sys.path:
        yield entry
        try:
            names = os.listdir(entry)
        except OSError:
            # There need be no such directory; a zip file is one file.
            continue
        for name in names:
            if name.endswith(".pth"):
                yield os.path.join(entry, name)
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str):
            yield file


def _stamp(path: str) -> Stamp:
    """Changes whenever the file does, or the names in the directory; None if there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _has_changed_since(moment: float, path: str) -> bool:
    try:
        # Of an unpacked file the time of its change says nothing: that may come from the archive.
        return os.stat(path).st_ctime >= moment
    except OSError:
        return False


def _restart_logging_clock() -> None:
    """``relativeCreated`` of log records counts from the import of logging."""
    start = getattr(logging, "_startTime", None)
    if isinstance(start, int):
        logging._startTime = time.time_ns()  # type: ignore[attr-defined]
    elif start is not None:
        logging._startTime = time.time()  # type: ignore[attr-defined]
