"""A runner that is an interpreter of its own and collects for itself, for suites that cannot be forked."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fleetest.processes import frames
from fleetest.processes.launch import start_template_early
from fleetest.processes.process_groups import describe_returncode
from fleetest.processes.runner import Runner
from fleetest.processes.suite_plan import task_ids_of
from fleetest.processes.template_process import TemplateProcess


class SpawnedRunner(Runner):
    """Its positions are known when it has collected; that of a test that it lacks never is."""

    def __init__(self, runner_id: str, scratch: Path, on_change: Callable[[], None], *, suite_name: str) -> None:
        super().__init__(runner_id, scratch, None, on_change)
        self._suite_name = suite_name
        self._process: TemplateProcess | None = None
        self._failure = ""

    def launch(
        self,
        python: str,
        start: Mapping[str, Any],
        on_output: Callable[[str, bytes], None],
        on_gone: Callable[[SpawnedRunner], None],
    ) -> None:
        """Start the process. If that fails, it has exited with the trouble said."""
        self._on_gone = on_gone
        try:
            started = start_template_early(python)
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            on_gone(self)
            self.channel.handed_over()
            self.has_exited(None, f"cannot start {python}: {reason}")
            return
        self._process = TemplateProcess(
            started, on_frame=self._take_frame, on_output=on_output, on_end=self._process_ended
        )
        self.pid = self._process.pid
        self._process.send(start, self.channel.far_ends)
        self.channel.handed_over()

    def _take_frame(self, frame: frames.ControlFrame) -> None:
        if isinstance(frame, frames.Collected):
            ids = task_ids_of(self._suite_name, frame.items)
            self.collected({task_id: position for position, task_id in enumerate(ids)})
        elif isinstance(frame, frames.Failed):
            self._failure = f"runner {self.runner_id} could not collect ({frame.kind}): {frame.text}"

    def _process_ended(self, returncode: int | None) -> None:
        assert self._process is not None
        failure = self._failure
        if not failure and self.positions is None:
            detail = f": {self._process.trouble}" if self._process.trouble else ""
            failure = f"runner {self.runner_id} {describe_returncode(returncode)} before it had collected{detail}"
        self._on_gone(self)
        assert returncode is not None
        self.has_exited(-returncode if returncode < 0 else returncode << 8, failure)
