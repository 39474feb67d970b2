"""The runs that are not finished: how they are taken in, who follows them, how they end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from fleetest.core import commands, events
from fleetest.core.model import RunId, WorkerId
from fleetest.errors import RemoteProtocolError
from fleetest.live_run import ClientLink, ExpectedDurations, LiveRun, Shell
from fleetest.storage import records
from fleetest.storage.records import HistorySink
from fleetest.wire import messages as wire
from fleetest.wire.checks import check_submission
from fleetest.worker_peers import WorkerPeers

if TYPE_CHECKING:
    from fleetest.core.cluster_state import ClusterState

EXPECTED_DURATIONS_WAIT_S = 0.3


class LiveRuns:
    """Belongs to the coordinator, its shell. ``history`` is only asked: what is to be kept, the shell records."""

    def __init__(
        self,
        shell: Shell,
        state: ClusterState,
        workers: WorkerPeers,
        history: HistorySink | None,
        client_grace_s: float,
    ) -> None:
        self._shell, self._state, self._workers, self._history = shell, state, workers, history
        self._client_grace_s = client_grace_s
        self._runs: dict[RunId, LiveRun] = {}

    @property
    def by_id(self) -> Mapping[RunId, LiveRun]:
        return self._runs

    def take_in(self, submission: wire.SubmitRun, client: ClientLink | None, submitter: str) -> None:
        """``client`` None: nobody follows it. ``submitter``: the id of its token. Raises RemoteProtocolError."""
        limits = self._state.cluster.limits
        check_submission(submission, limits.tasks_per_run)
        run_id = submission.run_id
        if run_id in self._runs:
            raise RemoteProtocolError(f"run {run_id} exists already")
        run = LiveRun(self._shell, submission, client, self._load_expected(), limits.tasks_per_run, submitter)
        self._runs[run_id] = run
        directory = next((suite.directory for suite in submission.suites if isinstance(suite, wire.PytestSuite)), "")
        self._shell.record(records.RunStarted(run_id, run.submitted_at, submission.title, submission.owner, directory))
        names = tuple(str(worker_id) for worker_id in self._workers.by_id)
        slots = sum(worker.hello.slots for worker in self._workers.by_id.values())
        run.tell(wire.RunAccepted(run_id=run_id, workers=names, slots=slots))
        suites = tuple(suite.name for suite in submission.suites)
        self._shell.apply(
            events.RunSubmitted(
                run_id,
                suites,
                submission.owner,
                submission.priority,
                wait_for_workers_s=submission.wait_for_workers_s,
                weight=submission.weight,
            )
        )
        run.plan_commands()

    def _load_expected(self) -> ExpectedDurations | None:
        """The history's thread may still be opening its file: another thread waits for it, the loop does not."""
        if self._history is None:
            return None
        loop = asyncio.get_running_loop()
        known = self._history.expected_durations("", 0.0)
        if not known:
            try:
                loading = loop.run_in_executor(None, self._history.expected_durations, "", EXPECTED_DURATIONS_WAIT_S)
            except RuntimeError:
                return None  # No thread to be had here: they are only hints.
            # The first to be called back, before any plan that waits for the durations.
            loading.add_done_callback(lambda _: self._recall_slowness())
            return loading
        self._recall_slowness()
        loaded: ExpectedDurations = loop.create_future()
        loaded.set_result(known)
        return loaded

    def _recall_slowness(self) -> None:
        slowness = self._history.slowness() if self._history is not None else None
        if slowness:
            self._shell.apply(events.SlownessRecalled({WorkerId(name): slow for name, slow in slowness.items()}))

    # Who comes and goes --------------------------------------------------------------------------------------

    def worker_back(self, worker_id: WorkerId, *, is_same_session: bool) -> None:
        for run in list(self._runs.values()):
            run.worker_back(worker_id, is_same_session=is_same_session)

    def worker_gone(self, worker_id: WorkerId) -> None:
        for run in list(self._runs.values()):
            run.worker_gone(worker_id)

    def client_left(self, run_ids: Iterable[RunId], *, said_goodbye: bool) -> None:
        """Its runs that are not finished are cancelled: at once, or after a grace if it may have more to say."""
        for run_id in run_ids:
            run = self._runs.get(run_id)
            if run is None:
                continue
            run.client_left()
            if said_goodbye:
                self._abandon(run_id)
            else:
                asyncio.get_running_loop().call_later(self._client_grace_s, self._abandon, run_id)

    def _abandon(self, run_id: RunId) -> None:
        if run_id in self._runs:
            self._shell.apply(events.RunCancelled(run_id, "the client went away", kill=True))

    # The end -------------------------------------------------------------------------------------------------

    def cancel(self, run_id: RunId, reason: str, *, kill: bool, quiet: bool) -> None:
        """Nothing happens if it is over."""
        run = self._runs.get(run_id)
        if run is not None:
            run.outcome = "cancelled"
            self._shell.apply(events.RunCancelled(run_id, reason, kill=kill, quiet=quiet))

    def finished(self, command: commands.RunFinished) -> None:
        """The core says so."""
        run = self._runs.pop(command.run_id)
        counts = {verdict.value: count for verdict, count in command.counts.items()}
        self._shell.record(records.RunEnded(run.run_id, time.time(), counts, run.outcome))
        run.finish(counts)

    def abandon_all(self) -> None:
        """The coordinator stops: history is told how far they came, nobody else is told anything."""
        for run_id in self._runs:
            run = self._state.cluster.runs.get(run_id)
            counts = {verdict.value: count for verdict, count in run.counts.items()} if run is not None else {}
            self._shell.record(records.RunEnded(run_id, time.time(), counts, "abandoned"))
        self._runs.clear()
