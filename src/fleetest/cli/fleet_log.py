"""Runs and what went wrong in them, in the log for programs: a line each, bounded for every run."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from fleetest.core import commands, events
from fleetest.core.model import RunId

ATTEMPTS_MAX = 1000
"""Of one run: who wants them all asks the history."""
_REASON_CHARACTERS_MAX = 500
_log = logging.getLogger("fleetest.fleet")


class FleetLog:
    """Observes a coordinator. Attempts that passed are not told of: there may be thousands a second."""

    def __init__(self) -> None:
        _log.setLevel(logging.INFO)
        self._told: dict[RunId, int] = {}
        """Attempts of live runs that were told of."""

    def observe(self, event: events.Event, commanded: Sequence[commands.Command]) -> None:
        if type(event) is events.RunSubmitted:
            self._told.setdefault(event.run_id, 0)
            _tell("run_submitted", f"run {event.run_id} is submitted", run=event.run_id, owner=event.owner)
        for command in commanded:
            if type(command) is commands.PublishOutcomes:
                for outcome in command.outcomes:
                    if not (outcome.is_final and outcome.verdict.is_success):
                        self._attempt_ended(command.run_id, outcome)
            elif type(command) is commands.RunFinished:
                self._told.pop(command.run_id, None)
                counts = {verdict.value: count for verdict, count in command.counts.items() if count}
                _tell("run_finished", f"run {command.run_id} is over", run=command.run_id, counts=counts)

    def _attempt_ended(self, run_id: RunId, outcome: commands.TaskOutcome) -> None:
        told = self._told[run_id] = self._told.get(run_id, 0) + 1
        if told > ATTEMPTS_MAX:
            if told == ATTEMPTS_MAX + 1:
                _tell("attempts_left_out", f"no more attempts of run {run_id} are told of here", run=run_id)
            return
        verdict = outcome.verdict.value
        _tell(
            "attempt_ended",
            f"{outcome.task_id}: attempt {outcome.attempt}: {verdict}",
            run=run_id,
            test=outcome.task_id,
            attempt=outcome.attempt,
            lease=outcome.result.lease_id if outcome.result is not None else None,
            worker=outcome.worker_id,
            verdict=verdict,
            is_final=outcome.is_final,
            is_superseded=outcome.is_superseded,
            reason=outcome.reason[:_REASON_CHARACTERS_MAX],
        )


def _tell(event: str, message: str, **fields: object) -> None:
    _log.info("%s", message, extra={"fields": {"event": event, **fields}})
