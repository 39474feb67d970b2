"""Every scheduler that comes with Fleetest, and the one on the page, does what a scheduler must do."""

import re
from pathlib import Path

from fleetest.scheduling import SimpleScheduler
from fleetest.task_scheduler import TaskScheduler
from fleetest.testing.scheduler_conformance import SchedulerConformance

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "write-a-scheduler.md"


class TestTaskScheduler(SchedulerConformance):
    def make(self):
        return TaskScheduler()


class TestSimpleScheduler(SchedulerConformance):
    def make(self):
        return SimpleScheduler()


class TestTheOneOnThePage(SchedulerConformance):
    def make(self):
        code = re.search(r"```python\n(# shortest_first\.py\n.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[1]
        names = {}
        exec(code, names)
        return names["ShortestFirst"]()
