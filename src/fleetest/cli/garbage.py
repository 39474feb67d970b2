"""When a process that serves a fleet looks for garbage that only Python's cyclic collector can free."""

from __future__ import annotations

import asyncio
import gc
from typing import NoReturn

FULL_EVERY_S = 600.0
_NEVER = 2**31 - 1


def spare_what_lives_long() -> None:
    """Let automatic collections look at young objects only. For a process of our own, once it is set up.

    A run of a million tests is millions of objects that live until it is over: by itself Python would look through
    all of them again and again while leases come and go. What the core lets go of is freed by reference counts alone;
    what others leave in cycles after it has grown old is found by ``collect_now_and_then``.
    """
    gc.collect()
    gc.freeze()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, _NEVER)


async def collect_now_and_then(every_s: float = FULL_EVERY_S) -> NoReturn:
    """Collect everything at this interval, until cancelled."""
    while True:
        await asyncio.sleep(every_s)
        gc.collect()
