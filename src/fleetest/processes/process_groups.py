"""Signals to whole process groups and sessions, and what the ways of dying are called."""

from __future__ import annotations

import os
import signal
from pathlib import Path


def signal_group(group: int, number: int) -> bool:
    """Send a signal to every process of the group; False if there is none. Never our own group."""
    assert group > 1, group
    assert group != os.getpgrp()
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def kill_session(*leaders: int) -> None:
    """Kill whatever is left of the sessions that these started: their own groups and groups made inside them.

    Looks at every process of the machine once, which costs about 20 microseconds for each.
    """
    for leader in leaders:
        signal_group(leader, signal.SIGKILL)
    for process in _session_members(frozenset(leaders)):
        try:
            os.kill(process, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue


def _session_members(sessions: frozenset[int]) -> list[int]:
    members = []
    try:
        names = os.listdir("/proc")
    except OSError:
        return []
    for name in names:
        if not name.isdigit():
            continue
        try:
            stat = Path("/proc", name, "stat").read_bytes()
        except OSError:
            continue
        # The name of the program, in parentheses, may hold anything: the fields are counted from its end.
        fields = stat[stat.rfind(b")") + 2 :].split()
        if fields[0] != b"Z" and int(fields[3]) in sessions:
            members.append(int(name))
    return members


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def describe_status(status: int) -> str:
    """Words for a status as ``os.waitpid`` gives it: ``was killed by SIGSEGV`` or ``ended with exit status 3``."""
    if os.WIFSIGNALED(status):
        return f"was killed by {signal_name(os.WTERMSIG(status))}"
    return f"ended with exit status {os.WEXITSTATUS(status)}"


def describe_returncode(returncode: int | None) -> str:
    """The same for ``Popen.returncode``."""
    if returncode is None:
        return "ended"
    if returncode < 0:
        return f"was killed by {signal_name(-returncode)}"
    return f"ended with exit status {returncode}"


def was_killed(status: int) -> bool:
    """True if it died of SIGKILL."""
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
