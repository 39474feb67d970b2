"""Which process a peer is, so that somebody on the same machine knows for certain that it has died.

An identity names the boot of the kernel, the namespace of process numbers, the number and the start time: it is never
that of another process, neither on another machine, nor in another container, nor later. Linux only: elsewhere it is
empty and nothing is known.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

_LOOK_MIN_S = 0.01
_LOOK_MAX_S = 0.5


def own_identity() -> str:
    """``boot:namespace:pid:start`` of this process; empty where that cannot be told."""
    place = _place()
    start = start_of(os.getpid())
    return f"{place}:{os.getpid()}:{start}" if place and start else ""


def is_alive(identity: str) -> bool:
    """True if the process lives and can be seen from here. Ask before its end is of interest: see ``wait_dead``."""
    here = _seen_from_here(identity)
    return here is not None and start_of(here[0]) == here[1]


def start_of_dead(identity: str) -> int | None:
    """When the process had started, in ticks of this boot, if it certainly lives no more; of one that cannot be seen
    from here nothing is certain, and of none while this process can open no more files."""
    here = _seen_from_here(identity)
    if here is None or not here[1].isdecimal():
        return None
    return int(here[1]) if start_of(here[0]) not in (None, here[1]) else None


def _seen_from_here(identity: str) -> tuple[int, str] | None:
    """Number and start of a process of this boot and namespace."""
    place, _, process = identity.rpartition(":")[0].rpartition(":")
    start = identity.rpartition(":")[2]
    return (int(process), start) if start and process.isdecimal() and place and place == _place() else None


async def wait_dead(identity: str, timeout_s: float) -> bool:
    """True as soon as the process, which was seen alive before, is dead; False if it is not within ``timeout_s``.

    A dying process closes its connections a little before it is dead, so its end is looked for again and again.
    """
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + timeout_s
    delay_s = _LOOK_MIN_S
    while start_of_dead(identity) is None:
        if loop.time() + delay_s > give_up_at:
            return False
        await asyncio.sleep(delay_s)
        delay_s = min(2 * delay_s, _LOOK_MAX_S)
    return True


def _place() -> str:
    """Where process numbers mean the same as here."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        namespace = os.readlink("/proc/self/ns/pid")
    except (OSError, ValueError):
        return ""
    return f"{boot}:{namespace.strip('pid:[]')}"


def start_of(pid: int) -> str | None:
    """When the process started, in ticks of this boot; empty if there is none, or it is a zombie; None if that cannot
    be told."""
    try:
        stat = Path("/proc", str(pid), "stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    except OSError:
        return None
    # The name of the program, in parentheses, may hold anything: the fields are counted from its end.
    fields = stat[stat.rfind(b")") + 2 :].split()
    return "" if fields[0] in (b"Z", b"X") else fields[19].decode("ascii")
