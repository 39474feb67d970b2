"""The seam between whoever reports a run (pytest's reporters, the suite report) and the fleet that executes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from fleetest.wire.messages import CoordinatorToClient, SubmitRun


class Fleet(Protocol):
    """A connected fleet, used from the client's main thread; embedded or remote alike."""

    @property
    def announcements(self) -> Sequence[str]:
        """Lines for the user: complete once it is open, and, with what ``close`` adds, once it is closed."""

    def submit(self, run: SubmitRun) -> None:
        """Start the run. Its messages follow from ``receive``."""

    def receive(self, timeout_s: float | None = None) -> Sequence[CoordinatorToClient]:
        """Wait for the next messages, in order; empty after ``timeout_s``. Interruptible by Ctrl-C.

        Raises LinkClosed (or the UserError behind it) if the fleet is gone.
        """

    def cancel(self, reason: str, *, kill: bool = False, quiet: bool = False) -> None:
        """Cancel the submitted run (see ``core.events.RunCancelled``); RunFinished still follows.

        Returns when the coordinator has taken it in, or does not answer for some seconds.
        """

    def close(self) -> list[str]:
        """End everything that was started for this fleet. Returns lines for the user (trouble with the history)."""
