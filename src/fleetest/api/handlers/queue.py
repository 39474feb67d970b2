"""What waits, and why: by reason."""

from __future__ import annotations

from collections.abc import Sequence

from fleetest.api import answers
from fleetest.api.context import Context
from fleetest.api.live_index import tasks_of
from fleetest.api.paging import portions
from fleetest.api.route import Call, Route
from fleetest.core.entities import Task
from fleetest.core.lifecycle import TaskState
from fleetest.transport.identity import Role

EXAMPLES_MAX = 10


class QueueRoutes:
    def __init__(self, context: Context) -> None:
        self._context = context

    def routes(self) -> Sequence[Route]:
        return [
            Route("GET", "/api/v1/queue", Role.VIEW, "What waits, grouped by the reason.", self.show, answers.Queue,
                  shared_s=0.0, tag="queue"),
        ]  # fmt: skip

    async def show(self, call: Call) -> answers.Queue:
        """Costs a look at every task. Tasks of one class and priority wait for one reason: one of them is asked why."""
        groups: dict[str, answers.WaitingGroup] = {}
        waiting = 0
        for run in list(self._context.fleet.state.cluster.runs.values()):
            reasons: dict[object, str] = {}
            for name, suite in run.suites.items():
                if not suite.is_settled:
                    _add(
                        groups,
                        f"suite {name!r} is being collected" if name else "the suite is being collected",
                        run.run_id,
                    )
            async for portion in portions(tasks_of(run)):
                for task in portion:
                    if task.state is not TaskState.QUEUED and task.state is not TaskState.PENDING:
                        continue
                    waiting += 1
                    kind = self._kind_of(task)
                    reason = reasons.get(kind)
                    if reason is None:
                        reason = reasons[kind] = self._context.fleet.state.why(run.run_id, task.task_id)
                    _add(groups, reason, run.run_id, task)
        ordered = sorted(groups.values(), key=lambda group: (-group.count, group.reason))
        return answers.Queue(waiting=waiting, groups=ordered)

    def _kind_of(self, task: Task) -> object:
        if task.state is TaskState.PENDING:
            return min(task.waits_for, default="")
        if not task.group.keep_together:
            return (task.task_class, task.priority)
        return (task.task_class, task.priority, task.group)


def _add(groups: dict[str, answers.WaitingGroup], reason: str, run_id: str, task: Task | None = None) -> None:
    group = groups.get(reason)
    if group is None:
        group = groups[reason] = answers.WaitingGroup(reason=reason, count=0, runs=[], examples=[])
    if run_id not in group.runs and len(group.runs) < EXAMPLES_MAX:
        group.runs.append(run_id)
    if task is not None:
        group.count += 1
        if len(group.examples) < EXAMPLES_MAX:
            group.examples.append(answers.TaskRef(run_id=run_id, task_id=task.task_id))
