"""The history, asked from the event loop: on few threads, for a bounded time, its troubles as problems."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from fleetest.api.fleet import History
from fleetest.storage.history_database import HistoryTooSlow, HistoryUnusable
from fleetest.storage.history_queries import HistoryQueries
from fleetest.transport.problems import Problem

T = TypeVar("T")

HISTORY_UNUSABLE = "history_unusable"
"""Code of the problem while the database cannot be asked."""
QUESTION_TIMEOUT_S = 5.0
FLUSH_TIMEOUT_S = 2.0
THREADS = 2
WAITING_MAX = 64
"""Questions that wait for a thread; further ones are refused."""


class Past:
    """``history`` None: there is none, and every question says so."""

    def __init__(self, history: History | None) -> None:
        self._history = history
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="fleetest-api-history")
        self._waiting = 0

    @property
    def trouble(self) -> str:
        return self._history.trouble if self._history is not None else "this coordinator keeps no history"

    @property
    def exists(self) -> bool:
        return self._history is not None

    async def ask(self, question: Callable[[HistoryQueries], T], *, is_fresh: bool = False) -> T:
        """``is_fresh``: what was recorded until now is to be seen. Raises Problem 503."""
        history = self._history
        if history is None:
            raise Problem(503, "no_history", f"{self.trouble}: only live runs can be shown")
        if self._waiting >= WAITING_MAX:
            raise Problem(
                503, "history_busy", "too many questions wait for the history: try again", {"Retry-After": "2"}
            )

        def work() -> T:
            if is_fresh:
                history.flush(FLUSH_TIMEOUT_S)
            return history.query(question, QUESTION_TIMEOUT_S)

        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except HistoryTooSlow as error:
            raise Problem(503, "history_too_slow", str(error)) from error
        except HistoryUnusable as error:
            raise Problem(503, HISTORY_UNUSABLE, str(error), {"Retry-After": "15"}) from error
        finally:
            self._waiting -= 1

    def close(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)
