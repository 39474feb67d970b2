"""Questions to a disk that may hang, as one behind a network does: nobody waits for it longer than they want to."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Generic, TypeVar

T = TypeVar("T")
ANSWER_WITHIN_S = 5.0


class DiskQuestion(Generic[T]):
    """A blocking question, asked on a thread of its own, one at a time: a disk that hangs holds one thread and no end
    of the process. Belongs to an event loop."""

    def __init__(self, question: Callable[[], T]) -> None:
        self._question = question
        self._asked: asyncio.Future[T] | None = None

    async def ask(self, timeout_s: float = ANSWER_WITHIN_S) -> T:
        """The answer; whoever asks while it is awaited gets the same one. Raises asyncio.TimeoutError."""
        if self._asked is None or self._asked.done():
            asked: asyncio.Future[T] = asyncio.get_running_loop().create_future()
            # Of an error that comes when nobody waits for it any more, nothing is said.
            asked.add_done_callback(lambda asked: asked.exception())
            threading.Thread(target=self._work, args=(asked,), name="fleetest-disk", daemon=True).start()
            self._asked = asked
        await asyncio.wait({self._asked}, timeout=timeout_s)
        if not self._asked.done():
            raise asyncio.TimeoutError
        return self._asked.result()

    def _work(self, asked: asyncio.Future[T]) -> None:
        try:
            tell = partial(asked.set_result, self._question())
        except Exception as error:
            tell = partial(asked.set_exception, error)
        with suppress(RuntimeError):  # The loop is closed: nobody waits any more.
            asked.get_loop().call_soon_threadsafe(tell)
