"""Errors have three homes.

* Our own mistake: ``AssertionError`` or :class:`InvariantViolation`; the process stops.
* The peer's mistake: :class:`RemoteProtocolError`; that link is closed, everything else goes on.
* The user's mistake: :class:`UserError`; one clear line (what, where, what to do) and a documented exit status.
"""

from __future__ import annotations

from enum import IntEnum


class ExitStatus(IntEnum):
    """Exit statuses of every Fleetest command; 0 to 5 are those of pytest."""

    OK = 0
    TESTS_FAILED = 1
    INTERRUPTED = 2
    INTERNAL_ERROR = 3
    USAGE_ERROR = 4
    NO_TESTS_COLLECTED = 5
    UNREACHABLE = 10  # the coordinator cannot be reached, or speaks another version
    REFUSED = 11  # no or wrong token, an insecure setting, or a data directory that is in use
    PORT_IN_USE = 12
    HISTORY_UNUSABLE = 13  # history file locked, newer, foreign or corrupt
    INTERPRETER_UNUSABLE = 14  # the interpreter given with --python cannot run pytest
    WORKER_UNFIT = 15  # this machine cannot fork, has no disk, or does not see the suite
    NOT_READY = 16  # the coordinator takes no new runs at the moment: its disk is nearly full


class FleetestError(Exception):
    """Base of every expected error."""


class UserError(FleetestError):
    """The user can mend it: ``str(error)`` is one line that says what, where and what to do.

    ``exit_status`` is what the command ends with.
    """

    def __init__(self, message: str, exit_status: ExitStatus = ExitStatus.USAGE_ERROR) -> None:
        super().__init__(message)
        self.exit_status = exit_status


class NotReady(UserError):
    """The coordinator takes no new runs at the moment; later it will."""

    def __init__(self, message: str) -> None:
        super().__init__(message, ExitStatus.NOT_READY)


class RemoteProtocolError(FleetestError):
    """The peer broke the protocol: its link is closed with this reason."""


class LinkClosed(FleetestError):
    """The link to the peer is closed; ``reason`` is the peer's or the network's."""

    def __init__(self, reason: str, code: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code


class InvariantViolation(FleetestError, AssertionError):
    """Our own mistake: the state is not what it must be. Carries the story of the task or worker."""

    def __init__(self, message: str, story: tuple[str, ...] = ()) -> None:
        super().__init__("\n".join([message, *story]))
        self.story = story
