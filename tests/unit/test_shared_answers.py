"""Answers that many ask for are made once, within a budget, and never tell one asker what another may see."""

import asyncio
import gc
import json
import weakref
from types import SimpleNamespace

import pytest

from fleetest.api.route import Call, Route
from fleetest.api.shared_answers import AGE_MAX_S, BUDGET, KEPT_MAX, SharedAnswers
from fleetest.core import commands, events
from fleetest.core.model import RunId
from fleetest.transport.gate import Pass
from fleetest.transport.identity import Identity, Role
from fleetest.transport.problems import Problem


class Desk:
    """Routes with one handler that costs what it is told, on clocks of its own."""

    def __init__(self) -> None:
        self.now = self.cpu = 0.0
        self.changes = 0
        self.cost_s = 0.0
        self.made: list[str] = []
        self.shared = SharedAnswers(lambda: self.changes, lambda: self.now, lambda: self.cpu)

    def route(self, role: Role = Role.VIEW, shared_s: float | None = 0.0, handler=None) -> Route:
        return self.shared.around(
            Route("GET", "/x", role, "A summary.", handler or self.handle, None, shared_s=shared_s)
        )

    async def handle(self, call: Call) -> dict[str, int]:
        self.made.append(call.request.raw_path)
        self.cpu += self.cost_s
        answer = {"number": len(self.made)}
        await asyncio.sleep(0)
        return answer

    async def ask(self, route: Route, path: str = "/x", role: Role = Role.VIEW):
        identity = Identity("t1", "somebody", role)
        return await route.handler(Call(SimpleNamespace(raw_path=path), Pass(identity), {}, None, None))


def number(response) -> int:
    return json.loads(response.body)["number"]


def test_what_is_asked_at_once_is_made_once():
    async def main():
        desk = Desk()
        route = desk.route()
        answers = await asyncio.gather(*(desk.ask(route, path) for path in ["/x", "/x", "/x?a=1", "/x"]))
        assert [number(each) for each in answers] == [1, 1, 2, 1]
        assert desk.made == ["/x", "/x?a=1"]

    asyncio.run(main())


def test_an_answer_lives_as_long_as_it_was_dear():
    async def main():
        desk = Desk()
        route = desk.route()
        desk.cost_s = 0.02
        for at, expected in [(0.0, 1), (0.5, 1), (0.99, 1), (1.0, 2), (1.5, 2), (2.0, 3)]:
            desk.now = at
            assert number(await desk.ask(route)) == expected
        desk.cost_s = 5.0
        desk.now = 3.0
        assert number(await desk.ask(route)) == 4
        desk.now = 3.0 + AGE_MAX_S - 0.1
        assert number(await desk.ask(route)) == 4
        desk.now = 3.0 + AGE_MAX_S
        assert number(await desk.ask(route)) == 5

    asyncio.run(main())


def test_at_least_for_as_long_as_its_route_says():
    async def main():
        desk = Desk()
        route = desk.route(shared_s=2.0)
        for at, expected in [(0.0, 1), (1.9, 1), (2.0, 2)]:
            desk.now = at
            assert number(await desk.ask(route)) == expected

    asyncio.run(main())


def test_all_answers_together_stay_within_the_budget():
    async def main():
        desk = Desk()
        route = desk.route()
        costs_s = {f"/x?number={each}": 0.001 * 4**each for each in range(4)}
        seconds = 100
        for tick in range(10 * seconds):
            desk.now = tick / 10
            for path, desk.cost_s in costs_s.items():
                await desk.ask(route, path)
        # Each is made once before anybody knows what it costs.
        assert desk.cpu <= BUDGET * seconds + 2 * sum(costs_s.values())
        made = {path: desk.made.count(path) for path in costs_s}
        assert made["/x?number=0"] > 3 * made["/x?number=3"] > 0

    asyncio.run(main())


def test_it_says_so_if_something_happened_since_it_was_made():
    async def main():
        desk = Desk()
        route = desk.route(shared_s=5.0)
        assert "Age" not in (await desk.ask(route)).headers
        desk.now = 1.2
        assert "Age" not in (await desk.ask(route)).headers
        desk.changes += 1
        assert (await desk.ask(route)).headers["Age"] == "2"
        desk.now = 5.0
        assert "Age" not in (await desk.ask(route)).headers

    asyncio.run(main())


def test_a_handler_may_say_that_it_tells_an_earlier_time():
    async def main():
        desk = Desk()
        desk.changes = 7

        async def earlier(call):
            call.as_of = 6
            return {}

        assert "Age" in (await desk.ask(desk.route(handler=earlier))).headers

    asyncio.run(main())


def test_no_answer_depends_on_who_asks():
    async def main():
        desk = Desk()

        async def who(call):
            return call.identity.name

        with pytest.raises(AssertionError):
            await desk.ask(desk.route(handler=who), role=Role.ADMIN)

    asyncio.run(main())


@pytest.mark.parametrize("role", [Role.SUBMIT, Role.ADMIN, Role.WORKER])
def test_what_not_everybody_may_see_is_not_shared(role):
    with pytest.raises(AssertionError, match="everybody"):
        Desk().route(role)


def test_after_a_change_everything_is_asked_anew():
    async def main():
        desk = Desk()
        looking, changing = desk.route(shared_s=5.0), desk.route(Role.ADMIN, shared_s=None)
        assert number(await desk.ask(looking)) == 1
        await desk.ask(changing)
        assert number(await desk.ask(looking)) == 3

    asyncio.run(main())


def test_who_has_heard_of_the_end_of_a_run_is_not_told_of_before():
    async def main():
        desk = Desk()
        route = desk.route(shared_s=5.0)
        runs = "/api/v1/runs"
        paths = [f"{runs}/r1", f"{runs}/r1/tasks?limit=5", runs, f"{runs}?limit=1", f"{runs}/r2"]
        for path in paths:
            await desk.ask(route, path)
        desk.shared.observe(events.DeadlineReached(), [commands.RunFinished(RunId("r1"), {})])
        for path in paths:
            await desk.ask(route, path)
        assert desk.made == [*paths, *paths[:4]]

    asyncio.run(main())


def test_what_failed_is_tried_again():
    async def main():
        desk = Desk()

        async def refuse(call):
            desk.made.append("")
            raise Problem(404, "unknown", "not there")

        route = desk.route(shared_s=5.0, handler=refuse)
        for _ in range(2):
            with pytest.raises(Problem, match="not there"):
                await desk.ask(route)
        assert len(desk.made) == 2

    asyncio.run(main())


def test_few_are_kept():
    async def main():
        desk = Desk()
        route = desk.route(shared_s=5.0)
        for count in range(2 * KEPT_MAX):
            await desk.ask(route, f"/x?number={count}")
        assert len(desk.shared._kept) == KEPT_MAX

    asyncio.run(main())


def test_what_is_not_kept_any_more_takes_no_memory():
    async def main():
        desk = Desk()
        looking, changing = desk.route(shared_s=5.0), desk.route(Role.ADMIN, shared_s=None)
        makings: weakref.WeakSet[asyncio.Task[bytes]] = weakref.WeakSet()
        for count in range(2 * KEPT_MAX):
            path = f"/x?number={count}"
            await desk.ask(looking, path)
            makings.add(desk.shared._kept[path].making)
        await asyncio.sleep(0)
        gc.collect()
        assert len(makings) == KEPT_MAX
        await desk.ask(changing)
        gc.collect()
        assert not makings

    asyncio.run(main())
