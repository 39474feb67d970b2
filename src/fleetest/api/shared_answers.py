"""Answers that many ask for at once, made once: what looking costs does not grow with how many look.

An answer is given again for as long as making it was dear: all of them together may take a small part of a processor.
The split that then keeps them freshest gives each a life in proportion to the root of its cost. A cheap one is made
anew nearly every time; only a large fleet with many screens makes answers that are seconds old, and says so (``Age``).
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec
from aiohttp import hdrs, web

from fleetest.api.route import Call, Public, Route
from fleetest.core import commands, events
from fleetest.transport.gate import Pass
from fleetest.transport.identity import Role

BUDGET = 0.02
"""Part of a processor for making answers, while more is asked for than that."""
AGE_MAX_S = 10.0
"""Of an answer that is given again, whatever it cost."""
KEPT_MAX = 128
KEPT_BYTES_MAX = 32 * 1024 * 1024
_encoder = msgspec.json.Encoder()


@dataclass(slots=True, eq=False)
class _Kept:
    """One answer, made or being made. ``as_of``: how many changes there had been."""

    began_at: float
    as_of: int
    making: asyncio.Task[bytes] = field(init=False)
    cost_s: float = 0.0

    @property
    def size(self) -> int:
        is_made = self.making.done() and not self.making.cancelled() and self.making.exception() is None
        return len(self.making.result()) if is_made else 0


class SharedAnswers:
    """``changes`` counts what happened; ``clock`` is monotonic; ``cpu`` the processor time of this thread."""

    def __init__(
        self,
        changes: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
        cpu: Callable[[], float] = time.thread_time,
    ) -> None:
        self._changes = changes
        self._clock = clock
        self._cpu = cpu
        self._kept: dict[str, _Kept] = {}
        """By path and query, the oldest first."""

    def around(self, route: Route) -> Route:
        """The route with answers that are shared, or one after which none of them holds any more."""
        if route.shared_s is not None:
            assert route.role is Role.VIEW, "what is shared is for everybody who may look"
            return dataclasses.replace(route, handler=partial(self._answer, route))
        if route.role in (Role.VIEW, Public.PUBLIC):
            return route
        return dataclasses.replace(route, handler=partial(self._change, route))

    def observe(self, event: events.Event, commanded: Sequence[commands.Command]) -> None:
        """Whoever has heard of a run's end must not be told of a time before it, by the run or by the list of runs."""
        for command in commanded:
            if type(command) is commands.RunFinished:
                runs = "/api/v1/runs"
                one = f"{runs}/{command.run_id}"
                for key in [key for key in self._kept if key.startswith(one) or key.partition("?")[0] == runs]:
                    del self._kept[key]

    async def _change(self, route: Route, call: Call) -> Any:
        try:
            return await route.handler(call)
        finally:
            self._kept.clear()

    async def _answer(self, route: Route, call: Call) -> web.Response:
        key = call.request.raw_path
        kept = self._kept.get(key)
        if kept is None or self._is_over(kept, route):
            kept = self._begin(key, route, call)
        body = await asyncio.shield(kept.making)
        response = web.Response(status=route.status, body=body, content_type="application/json")
        if kept.as_of != self._changes():
            response.headers[hdrs.AGE] = str(math.ceil(self._clock() - kept.began_at))
        return response

    def _is_over(self, kept: _Kept, route: Route) -> bool:
        if not kept.making.done():
            return False
        roots = sum(math.sqrt(each.cost_s) for each in self._kept.values())
        life_s = max(route.shared_s or 0.0, math.sqrt(kept.cost_s) * roots / BUDGET)
        return self._clock() - kept.began_at >= min(life_s, AGE_MAX_S)

    def _begin(self, key: str, route: Route, call: Call) -> _Kept:
        # What one asker may see and another may not cannot get in: nobody is told who asks.
        anybody = dataclasses.replace(call, passed=Pass(None))
        self._kept.pop(key, None)
        kept = self._kept[key] = _Kept(self._clock(), self._changes())
        kept.making = asyncio.get_running_loop().create_task(self._make(kept, route, anybody))
        kept.making.add_done_callback(lambda making: self._made(key, kept))
        self._make_room()
        return kept

    async def _make(self, kept: _Kept, route: Route, call: Call) -> bytes:
        metered = _Metered(route.handler(call), self._cpu)
        value = await metered
        began = self._cpu()
        body = _encoder.encode(value)
        kept.cost_s = metered.cost_s + self._cpu() - began
        kept.as_of = kept.as_of if call.as_of is None else call.as_of
        return body

    def _made(self, key: str, kept: _Kept) -> None:
        if kept.making.cancelled() or kept.making.exception() is not None:
            self._forget(key, kept.began_at)
        else:
            # By its time, so that the timer does not hold an answer that is not kept any more.
            asyncio.get_running_loop().call_later(AGE_MAX_S, self._forget, key, kept.began_at)

    def _make_room(self) -> None:
        size = sum(each.size for each in self._kept.values())
        while len(self._kept) > KEPT_MAX or size > KEPT_BYTES_MAX:
            size -= self._kept.pop(next(iter(self._kept))).size

    def _forget(self, key: str, began_at: float) -> None:
        kept = self._kept.get(key)
        if kept is not None and kept.began_at == began_at:
            del self._kept[key]


class _Metered:
    """Awaits ``work`` and adds up the processor time of its own steps, not of what others do meanwhile."""

    def __init__(self, work: Awaitable[Any], cpu: Callable[[], float]) -> None:
        self._work = work.__await__()
        self._cpu = cpu
        self.cost_s = 0.0

    def __await__(self) -> Generator[Any, Any, Any]:
        step, given = self._work.send, None
        while True:
            began = self._cpu()
            try:
                wanted = step(given)
            except StopIteration as end:
                return end.value
            finally:
                self.cost_s += self._cpu() - began
            try:
                step, given = self._work.send, (yield wanted)
            except BaseException as error:
                step, given = self._work.throw, error
