"""A suite of which workers can import unlike parts: whatever happens, each module is planned or an error, once."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fleetest.core.model import RunId, TaskId, TaskSpec, WorkerId
from fleetest.core.suite_planning import (
    AdoptPlan,
    AskPlan,
    Ready,
    Step,
    SuitePlanning,
    Unavailable,
    fingerprint_of,
    is_within,
)
from fleetest.wire.messages import CollectionReports, ItemInfo, SuitePlan
from fleetest.wire.plan_parts import join_plans, join_reports

MODULES = ("a.py", "lab/b.py", "lab/c.py", "lab/deep/d.py", "lab/deep/e.py")
FOLDERS = ("lab", "lab/deep", ".")


def _topmost(nodes: frozenset[str]) -> frozenset[str]:
    """pytest tells of a folder that it cannot collect, and of nothing in it."""
    return frozenset(node for node in nodes if not is_within(node, nodes - {node}))


_unimported = st.frozensets(st.sampled_from(MODULES + FOLDERS), max_size=4).map(_topmost)


class Fleet:
    """Workers of which each lacks something; what they are asked waits in ``asked`` until it is answered."""

    def __init__(self, unimported: dict[WorkerId, frozenset[str]]) -> None:
        self.unimported = unimported
        self.planning = SuitePlanning()
        self.asked: list[WorkerId] = []
        self.drafts: list[tuple[SuitePlan, CollectionReports]] = []
        self.ready: dict[WorkerId, frozenset[TaskId]] = {}
        self.planned: list[str] = []
        self.errors: list[str] = []
        for worker_id in unimported:
            self.planning.expect(worker_id)

    def modules_of(self, worker_id: WorkerId) -> list[str]:
        return [module for module in MODULES if not is_within(module, self.unimported[worker_id])]

    def collects(self, worker_id: WorkerId) -> None:
        ids = map(TaskId, self.modules_of(worker_id))
        self.do(self.planning.collected(worker_id, fingerprint_of(ids), self.unimported[worker_id]))

    def answers(self, worker_id: WorkerId) -> None:
        ids = [TaskId(module) for module in self.modules_of(worker_id)]
        run_id = RunId("")
        if self.planning.is_open:
            reports = tuple(json.dumps({"nodeid": node}).encode() for node in sorted(self.unimported[worker_id]))
            items = [ItemInfo(task_id, task_id, 1, "", ()) for task_id in ids]
            tasks = [TaskSpec(task_id) for task_id in ids]
            plan = SuitePlan(run_id=run_id, suite="", fingerprint=fingerprint_of(ids), tasks=tasks, items=items)
            self.drafts.append((plan, CollectionReports(run_id=run_id, suite="", reports=reports)))
        self.do(self.planning.plan_arrived(worker_id, ids))

    def goes(self, worker_id: WorkerId) -> None:
        self.asked = [each for each in self.asked if each != worker_id]
        self.ready.pop(worker_id, None)
        self.do(self.planning.worker_gone(worker_id))

    def do(self, steps: list[Step]) -> None:
        for step in steps:
            if isinstance(step, AskPlan):
                assert self.planning.was_asked(step.worker_id)
                assert step.worker_id not in self.asked, "once"
                self.asked.append(step.worker_id)
            elif isinstance(step, Ready):
                self.ready[step.worker_id] = step.missing
            elif isinstance(step, AdoptPlan):
                assert not self.planned
                parts = list(zip(self.drafts, step.parts, strict=True))
                plan = join_plans([(plan, part.nodes) for (plan, _), part in parts])
                told = join_reports([((reports,), part.nodes) for (_, reports), part in parts])
                self.planned = [task.task_id for task in plan.tasks]
                self.errors = [json.loads(report)["nodeid"] for reports in told for report in reports.reports]
                assert [item.node_id for item in plan.items] == self.planned
                self.do(self.planning.adopted(plan.fingerprint, [task.task_id for task in plan.tasks]))
            else:
                assert isinstance(step, Unavailable), "nothing here refuses a suite"


@given(st.lists(_unimported, min_size=1, max_size=5), st.data())
def test_each_module_is_planned_or_an_error_whoever_fails_or_goes(lacks: list[frozenset[str]], data: Any) -> None:
    fleet = Fleet({WorkerId(f"w{number}"): unimported for number, unimported in enumerate(lacks)})
    collecting, alive = list(fleet.unimported), set(fleet.unimported)
    fates = ["answers"]
    is_undisturbed = data.draw(st.booleans(), label="undisturbed")
    if not is_undisturbed:
        fates += ["goes", "fails", "wait ends"]
    while collecting or fleet.asked:
        speakers = [*collecting, *(worker_id for worker_id in fleet.asked if worker_id not in collecting)]
        worker_id = data.draw(st.sampled_from(speakers), label="who")
        fate = data.draw(st.sampled_from(fates), label="does")
        if fate == "wait ends":
            fleet.do(fleet.planning.stop_waiting())
            continue
        was_collecting = worker_id in collecting
        if was_collecting:
            collecting.remove(worker_id)
        else:
            fleet.asked.remove(worker_id)
        if fate == "answers":
            (fleet.collects if was_collecting else fleet.answers)(worker_id)
            continue
        alive.discard(worker_id)
        if fate == "goes":
            fleet.goes(worker_id)
        else:
            fleet.ready.pop(worker_id, None)
            fleet.do(fleet.planning.failed(worker_id, "why", only_here=True))
    assert not fleet.planning.is_waiting, "nobody is left to wait for"
    assert fleet.planning.is_open == (not fleet.drafts)
    assert fleet.planning.is_open <= (not alive)
    if fleet.planning.is_open:
        return
    for module in MODULES:
        found = [error for error in fleet.errors if is_within(module, {error})]
        assert fleet.planned.count(module) + len(found) == 1, module
        if is_undisturbed:
            able = [worker_id for worker_id in fleet.unimported if module in fleet.modules_of(worker_id)]
            assert bool(able) == (module in fleet.planned)
    for worker_id in alive:
        assert fleet.ready[worker_id] == set(fleet.planned) - set(fleet.modules_of(worker_id))
