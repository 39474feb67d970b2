"""One coordinator at a time has a data directory: two would give out the same epochs and keep each other's runs."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from fleetest.errors import ExitStatus, UserError

LOCK_NAME = "coordinator.lock"


class DataLock:
    """Held from the start until ``close``, or until this process is dead, however it died.

    Raises UserError if another process has the directory, or nobody can write to it.
    """

    def __init__(self, data_directory: Path) -> None:
        path = data_directory / LOCK_NAME
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}") from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # For whoever comes next; a full disk is no reason not to start.
            with suppress(OSError):
                os.ftruncate(self._descriptor, 0)
                os.write(self._descriptor, b"%d\n" % os.getpid())
        except BlockingIOError as error:
            holder = os.read(self._descriptor, 32).decode("ascii", "replace").strip()
            self.close()
            who = f" (process {holder})" if holder.isdecimal() else ""
            message = (
                f"another coordinator{who} uses the data directory {data_directory}: stop it,"
                " or give this one a directory of its own with --data"
            )
            raise UserError(message, ExitStatus.REFUSED) from error
        except OSError as error:
            self.close()
            raise UserError(f"cannot lock {path}: {error.strerror}") from error

    def close(self) -> None:
        os.close(self._descriptor)
