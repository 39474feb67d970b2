"""Cursors and bounded scans: a page costs what it shows, and a long scan lets the event loop breathe."""

from __future__ import annotations

import asyncio
import base64
import bisect
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Annotated, Any, TypeVar

import msgspec

from fleetest.transport.problems import Problem

PAGE_MAX = 1000
TEXT_MAX = 256
Limit = Annotated[int, msgspec.Meta(ge=1, le=PAGE_MAX, description="Entries at most.")]
Text = Annotated[str, msgspec.Meta(max_length=TEXT_MAX, description="Looked for as it is, without case.")]
Cursor = Annotated[str, msgspec.Meta(max_length=4000, description="`next_cursor` of the page before.")]
SCANNED_AT_ONCE = 1000

T = TypeVar("T")


def make_cursor(*parts: object) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(parts)).decode().rstrip("=")


def read_cursor(cursor: str | None, kind: Any) -> Any:
    """The parts as a tuple of ``kind``; None for the first page. Raises Problem 400."""
    if not cursor:
        return None
    try:
        encoded = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        return msgspec.json.decode(encoded, type=kind)
    except (ValueError, msgspec.MsgspecError):
        raise Problem(400, "bad_cursor", "this cursor was not made here: begin without one") from None


def one_of(given: str, known: Sequence[str], name: str) -> list[str]:
    """The comma-separated words of ``given``, each once. Raises Problem 400 for one that is not known."""
    words = list(dict.fromkeys(word for word in given.split(",") if word))
    for word in words:
        if word not in known:
            raise Problem(400, "bad_parameter", f"{name}: {word[:50]!r} is none of {', '.join(known)}")
    return words


async def portions(items: Sequence[T], start: int = 0) -> AsyncIterator[Sequence[T]]:
    """All ``items`` from ``start`` on, some at a time; in between others get their turn."""
    for first in range(start, len(items), SCANNED_AT_ONCE):
        yield items[first : first + SCANNED_AT_ONCE]
        await asyncio.sleep(0)


async def first_ones(items: Sequence[T], count: int, *, wanted: Callable[[T], bool]) -> list[T]:
    """The first ``count`` wanted items of what is in order already."""
    found: list[T] = []
    async for portion in portions(items):
        for item in portion:
            if wanted(item):
                found.append(item)
                if len(found) == count:
                    return found
    return found


async def smallest(
    items: Sequence[T],
    count: int,
    *,
    wanted: Callable[[T], bool],
    key: Callable[[T], tuple[Any, int]],
    after: tuple[Any, int] | None,
) -> list[T]:
    """The first ``count`` wanted items by ``key`` that come after ``after``.

    Only the best are kept at any time: many short-lived tuples would wake the garbage collector, which then looks at
    everything the coordinator knows.
    """
    keys: list[tuple[Any, int]] = []
    best: list[T] = []
    async for portion in portions(items):
        for item in portion:
            if not wanted(item):
                continue
            its_key = key(item)
            if (after is not None and not after < its_key) or (len(keys) == count and not its_key < keys[-1]):
                continue
            place = bisect.bisect_left(keys, its_key)
            keys.insert(place, its_key)
            best.insert(place, item)
            if len(keys) > count:
                keys.pop()
                best.pop()
    return best
