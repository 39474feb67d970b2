"""End with the worker also while nobody reads the control socket: during collection, and in a spawned runner."""

from __future__ import annotations

import os
import select
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Optional

_O_ASYNC = getattr(os, "O_ASYNC", 0)


class OrphanGuard:
    """Has the kernel signal this process when something happens on the control socket.

    The handler looks what it was: if the other end is closed, this process group is killed; a frame is left for whoever
    reads later. Where the system has no such signal, the guard does nothing.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, 0)
        self._old_handler: Optional[Any] = None
        self._is_active = False
        try:
            import fcntl

            self._old_handler = signal.signal(signal.SIGIO, self._look)
            fcntl.fcntl(descriptor, fcntl.F_SETOWN, os.getpid())
            fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) | _O_ASYNC)
            self._is_active = True
        except (ImportError, AttributeError, OSError):
            # A system without it: such a process ends when it next writes.
            return
        # It may have happened before.
        self._look(0, None)

    def stop(self) -> None:
        """From now on the socket is read, and its end noticed that way."""
        if not self._is_active:
            return
        import fcntl

        self._is_active = False
        flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL)
        fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags & ~_O_ASYNC)
        if signal.getsignal(signal.SIGIO) == self._look:
            signal.signal(signal.SIGIO, signal.SIG_DFL if self._old_handler is None else self._old_handler)

    def _look(self, signal_number: int, frame: Any) -> None:
        if self._is_active and self._poll.poll(0):
            if os.getpgrp() == os.getpid():
                os.killpg(0, signal.SIGKILL)
            os._exit(1)
