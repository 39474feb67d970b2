"""The recorder: takes records off the hot path and brings them into the history, whatever happens to the process.

Everything goes through a spool file. A recorder that does not ``keep_open`` holds the database only briefly, at the
start and at the end, because while one process has it open no other can. What it cannot bring in stays in its spool
for whoever opens the history next.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from fleetest.storage.history_database import HistoryLocked, HistoryTooSlow, HistoryUnusable, explain, open_history
from fleetest.storage.history_ingest import SpoolRejected, damage, ingest_orphans, ingest_spool
from fleetest.storage.history_queries import HistoryQueries
from fleetest.storage.history_rows import encode_records
from fleetest.storage.records import Record, RunEnded
from fleetest.storage.spool import SpoolReader, SpoolWriter, pending_spools
from fleetest.storage.spool import spool_directory as spool_directory_of

if TYPE_CHECKING:
    import duckdb

T = TypeVar("T")
_log = logging.getLogger("fleetest.history")

QUEUED_RECORDS_MAX = 1_000_000
_LINGER_S = 0.25
"""How long the writing thread lets records gather; a killed process loses no more than these."""
_LOCK_WAIT_S = 0.3
_LOCK_WAIT_KEEP_OPEN_S = 1.0
_ORPHANS_BUDGET_S = 0.5
"""Of one test run's time, for what other runs left behind."""
_RETRY_S = 15.0
"""Until a recorder that keeps the file open tries again, and looks for spools of others."""
_BACKOFF_MIN_S, _BACKOFF_MAX_S = 2.0, 60.0
"""After an error of the database, twice as long each time."""
_ROTATE_BYTES = 8 * 1024 * 1024


class HistoryRecorder:
    """A ``HistorySink`` with one thread of its own. Nothing but that thread touches a file or imports DuckDB."""

    def __init__(self, path: Path, *, spool_directory: Path | None = None, keep_open: bool = False) -> None:
        """``spool_directory``: default ``spool.spool_directory(path)``. ``keep_open``: hold the file until ``close``.

        Never raises for trouble with the file: see ``close`` and ``trouble``.
        """
        # The process may change its directory while this works.
        self._path = path = path.absolute()
        self._spool_directory = spool_directory.absolute() if spool_directory else spool_directory_of(path)
        self._keep_open = keep_open
        self._queue: deque[Record] = deque()
        self._unspooled: deque[tuple[str, bytes]] = deque()
        """Lines of the spool that could not be written yet."""
        self._unspooled_records = 0
        self._wake = threading.Event()
        self._hurry = threading.Event()
        self._closing = threading.Event()
        self._loaded = threading.Event()
        self._is_idle = False
        self._flushes: deque[threading.Event] = deque()
        self._durations: dict[str, float] = {}
        self._slowness: Mapping[str, float] | None = None
        """By worker, as of when the durations were loaded."""
        self._notices: list[str] = []
        self._logged: set[str] = set()
        self._records_lost = 0
        self._spool: SpoolWriter | None = None
        self._own_lines: SpoolReader | None = None
        self._is_ingested = False
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._connection_lock = threading.Lock()
        self._is_unusable = False
        self._retry_at = 0.0
        self._backoff_s = _BACKOFF_MIN_S
        self._trouble = ""
        """With the database."""
        self._spool_trouble = ""
        self._unmended = ""
        """Trouble with the database of one that keeps it open; gone when it is over."""
        self._thread = threading.Thread(target=self._run, name="fleetest-history", daemon=True)
        self._thread.start()

    # Any thread ------------------------------------------------------------------------------------------------

    def record(self, *records: Record) -> None:
        if len(self._queue) >= QUEUED_RECORDS_MAX:
            self._records_lost += len(records)
            return
        self._queue.extend(records)
        if self._is_idle:
            self._wake.set()
        if records and type(records[-1]) is RunEnded:
            # While the user's process still writes its reports, the run is brought in.
            self._hurry.set()

    def expected_durations(self, suite: str, wait_s: float) -> Mapping[str, float]:
        """Seconds on a typical machine by task id, for all suites: ids carry their suite's name."""
        self._loaded.wait(wait_s)
        return self._durations

    def slowness(self) -> Mapping[str, float]:
        return self._slowness or {}

    @property
    def trouble(self) -> str:
        """Why records do not reach the database at the moment, in one line; empty if they do."""
        return self._spool_trouble or self._trouble

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything recorded before is in the spool, and with ``keep_open`` in the database if it works."""
        done = threading.Event()
        self._flushes.append(done)
        self._hurry.set()
        self._wake.set()
        return self._thread.is_alive() and done.wait(timeout_s)

    def query(self, question: Callable[[HistoryQueries], T], timeout_s: float | None = None) -> T:
        """Ask the open history (``keep_open`` only) on the calling thread, for at most ``timeout_s``.

        Raises HistoryUnusable if it is not open, HistoryTooSlow.
        """
        import duckdb

        with self._connection_lock:
            if self._connection is None:
                raise HistoryUnusable(self.trouble or f"history {self._path} is not open")
            cursor = self._connection.cursor()
        timer = threading.Timer(timeout_s, cursor.interrupt) if timeout_s is not None else None
        try:
            if timer is not None:
                timer.start()
            return question(HistoryQueries(cursor, self._slowness))
        except duckdb.InterruptException as error:
            raise HistoryTooSlow(f"the history did not answer within {timeout_s:g} s: ask for less") from error
        except duckdb.Error as error:
            raise explain(self._path, error) from error
        finally:
            if timer is not None:
                timer.cancel()
                timer.join()
            cursor.close()

    def close(self) -> list[str]:
        self._closing.set()
        self._hurry.set()
        self._wake.set()
        self._thread.join()
        unwritten = self._unspooled_records + len(self._queue) if self._spool_trouble else 0
        for count, why in ((self._records_lost, "queue full"), (unwritten, self._spool_trouble)):
            if count:
                self._notice(f"history: {count} records were lost: {why}")
        if self._unmended:
            self._notice(self._unmended)
        notices, self._notices = self._notices, []
        return notices

    # The writing thread ----------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._spool_queued()
            self._start()
            self._loaded.set()
            while not self._closing.is_set():
                self._wait_for_work()
                self._work()
            self._finish()
        except Exception as error:
            self._trouble = f"internal error, records stay in {self._spool_directory}: {error!r}"
            self._notice(f"history: {self._trouble}")
            self._log_once(f"history: {self._trouble}")
        finally:
            self._loaded.set()
            self._disconnect()
            if self._spool is not None:
                self._spool.close(remove=False)
                self._spool = None
            if self._own_lines is not None:
                self._own_lines.close()
            self._answer_flushes(list(self._flushes))

    def _start(self) -> None:
        """Load expected durations, bring in what others left behind."""
        if not (self._keep_open or self._path.exists() or pending_spools(self._spool_directory)):
            self._loaded.set()
            return
        if not self._connect():
            return
        self._with_database(self._load_durations)
        self._loaded.set()
        self._spool_queued()
        self._with_database(self._ingest_orphans)
        if self._keep_open:
            self._note_success()
        else:
            self._disconnect()

    def _wait_for_work(self) -> None:
        self._wake.clear()
        self._is_idle = True
        if not (self._queue or self._unspooled or self._flushes or self._closing.is_set()):
            # Only one that keeps the file open has something to do without being told: to retry, to bring in orphans.
            self._wake.wait(max(0.0, min(_RETRY_S, self._retry_at - time.monotonic())) if self._keep_open else None)
        self._is_idle = False
        # Records come in many small calls: one line for all of them is cheaper for both threads.
        self._hurry.wait(_LINGER_S)
        self._hurry.clear()

    def _work(self) -> None:
        flushes = list(self._flushes)
        run_ended = self._spool_queued()
        if self._keep_open:
            self._bring_in(run_ended)
        elif run_ended:
            self._finish()
            self._disconnect()
        elif self._spool is not None and not self._path.exists():
            # Creating the file takes longer than everything else at the end of a short run.
            self._connect()
            self._disconnect()
        self._answer_flushes(flushes)

    def _bring_in(self, run_ended: bool) -> None:
        due = time.monotonic() >= self._retry_at
        if self._connection is None and due:
            self._connect()
        if self._connection is None:
            return
        self._with_database(self._ingest_own)
        if run_ended:
            self._with_database(self._load_durations)
        if due and self._connection is not None:
            self._retry_at = time.monotonic() + _RETRY_S
            self._with_database(self._ingest_orphans)
        self._note_success()

    def _note_success(self) -> None:
        """If nothing that was tried has closed the database, it works."""
        if self._connection is None:
            return
        if self._trouble:
            _log.warning("history %s works again", self._path)
            self._logged.clear()
        self._trouble = self._unmended = ""
        self._backoff_s = _BACKOFF_MIN_S

    def _finish(self) -> None:
        self._spool_queued()
        if self._connection is None and self._spool is not None and not self._spool.is_empty:
            self._connect()
        if self._connection is None:
            return
        self._with_database(self._ingest_own)
        self._remove_spool_if_ingested()
        self._with_database(self._ingest_orphans)
        self._note_success()

    def _answer_flushes(self, flushes: list[threading.Event]) -> None:
        for done in flushes:
            self._flushes.remove(done)
            done.set()

    # Spool -----------------------------------------------------------------------------------------------------

    def _spool_queued(self) -> bool:
        """Move everything queued into the spool. Returns whether a run ended with it.

        What does not fit on the disk waits, and what comes after it, until it does.
        """
        if not self._write_unspooled() or not self._queue:
            return False
        records = [self._queue.popleft() for _ in range(len(self._queue))]
        self._unspooled.extend(encode_records(records))
        self._unspooled_records = len(records)
        self._write_unspooled()
        return any(isinstance(record, RunEnded) for record in records)

    def _write_unspooled(self) -> bool:
        if not self._unspooled:
            return True
        try:
            spool = self._spool
            if spool is None:
                self._ignore_by_git()
                spool = self._spool = SpoolWriter(self._spool_directory, resumable=self._keep_open)
                self._own_lines = SpoolReader(spool.path)
            while self._unspooled:
                spool.append(*self._unspooled[0])
                self._unspooled.popleft()
        except OSError as error:
            self._spool_trouble = f"cannot write to {self._spool_directory}: {error.strerror or error}"
            self._log_once(f"history: {self._spool_trouble}: records wait in memory until this is mended")
            return False
        if self._spool_trouble:
            _log.warning("history: %s is written again", self._spool_directory)
            self._logged.clear()
        self._spool_trouble, self._unspooled_records = "", 0
        return True

    def _ignore_by_git(self) -> None:
        directory = self._path.parent
        if directory.name != ".fleetest":
            return
        try:
            directory.mkdir(parents=True)
        except FileExistsError:
            return  # since an earlier run, or another process was faster
        (directory / ".gitignore").write_text("*\n", encoding="utf-8")

    def _remove_spool_if_ingested(self) -> None:
        if self._spool is not None and self._own_lines is not None and self._is_ingested:
            self._own_lines.close()
            self._spool.close(remove=True)
            self._spool = self._own_lines = None

    # Database --------------------------------------------------------------------------------------------------

    def _connect(self) -> bool:
        if self._is_unusable:
            return False
        self._retry_at = time.monotonic() + _RETRY_S
        wait_s = _LOCK_WAIT_KEEP_OPEN_S if self._keep_open else _LOCK_WAIT_S
        try:
            connection = open_history(self._path, lock_wait_s=wait_s)
        except HistoryLocked as error:
            # No news for the user: the records are in the spool, and the holder or the next one brings them in.
            self._trouble = str(error)
            return False
        except HistoryUnusable as error:
            self._give_up(error)
            return False
        with self._connection_lock:
            self._connection = connection
        return True

    def _disconnect(self) -> None:
        with self._connection_lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            import duckdb

            try:
                connection.close()
            except duckdb.Error as error:
                self._give_up(explain(self._path, error))

    def _with_database(self, work: Callable[[duckdb.DuckDBPyConnection], None]) -> None:
        """Do ``work`` if the database is open; if it fails, close it and leave the records in their spools."""
        if self._connection is None:
            return
        import duckdb

        try:
            work(self._connection)
        except SpoolRejected as error:
            self._give_up(explain(self._path, error))
            self._disconnect()
            self._let_go_of_spool()
        except duckdb.Error as error:
            self._give_up(explain(self._path, error))
            self._disconnect()

    def _give_up(self, error: HistoryUnusable) -> None:
        """Write no more to what may be broken: close it, and only if it is to be kept open try a fresh start later.

        A full disk, a file that was moved: many a trouble is mended while a coordinator goes on.
        """
        if self._keep_open:
            self._retry_at = time.monotonic() + self._backoff_s
            self._backoff_s = min(2.0 * self._backoff_s, _BACKOFF_MAX_S)
            self._trouble = f"{error}; records are kept in {self._spool_directory} until that is mended"
            self._unmended = self._trouble
            self._log_once(self._trouble)
        elif not self._is_unusable:
            self._is_unusable = True
            self._trouble = str(error)
            self._notice(f"{error} (this run's records are kept in {self._spool_directory})")

    def _let_go_of_spool(self) -> None:
        """The database refuses what is in it: as anybody's orphan it will be put aside, and what follows is new."""
        if self._keep_open and self._spool is not None and self._own_lines is not None:
            self._own_lines.close()
            self._spool.close(remove=False)
            self._spool = self._own_lines = None

    def _log_once(self, text: str) -> None:
        if self._keep_open and text not in self._logged:
            self._logged.add(text)
            _log.error("%s", text)

    def _notice(self, text: str) -> None:
        if text not in self._notices:
            self._notices.append(text)

    def _load_durations(self, connection: duckdb.DuckDBPyConnection) -> None:
        queries = HistoryQueries(connection)
        self._slowness = queries.slowness()
        self._durations = queries.expected_durations()

    def _ingest_orphans(self, connection: duckdb.DuckDBPyConnection) -> None:
        budget_s = None if self._keep_open else _ORPHANS_BUDGET_S
        for notice in ingest_orphans(connection, self._spool_directory, budget_s=budget_s):
            self._notice(notice)
            self._log_once(notice)

    def _ingest_own(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._is_ingested = False
        if self._own_lines is None or self._spool is None:
            return
        ingest_spool(connection, self._own_lines)
        for notice in damage(self._own_lines):
            self._notice(notice)
        self._own_lines.damaged_lines = 0
        self._is_ingested = True
        if self._spool.size_bytes > _ROTATE_BYTES:
            self._remove_spool_if_ingested()
