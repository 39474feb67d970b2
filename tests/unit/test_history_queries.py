"""Every query gives what a naive model in Python gives."""

from __future__ import annotations

import re
import statistics
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime, timezone
from itertools import pairwise
from pathlib import Path

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetest.core.model import AttemptResult, LeaseId, Verdict
from fleetest.storage.history_database import open_history
from fleetest.storage.history_ingest import ingest_orphans
from fleetest.storage.history_queries import HistoryQueries
from fleetest.storage.history_rows import encode_records
from fleetest.storage.history_schema import TABLES
from fleetest.storage.records import AttemptRecorded, RunEnded, RunStarted, TasksPlanned
from fleetest.storage.spool import SpoolWriter

FAILING = {"failed", "error", "timeout", "crashed", "oom"}
TASKS = ("a.py::one", "a.py::two", "b.py::three")
EPOCH_S = 1_700_000_000

executions = st.tuples(
    st.sampled_from([Verdict.PASSED, Verdict.PASSED, Verdict.FAILED, Verdict.CRASHED, Verdict.SKIPPED]),
    st.integers(0, 1000).map(lambda n: n / 64),
)
run_plans = st.lists(st.dictionaries(st.sampled_from(TASKS), st.lists(executions, max_size=3)), max_size=6)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[duckdb.DuckDBPyConnection, Path]]:
    directory = tmp_path_factory.mktemp("history")
    connection = open_history(directory / "history.duckdb")
    yield connection, directory / "spool"
    connection.close()


def fill(opened: tuple[duckdb.DuckDBPyConnection, Path], records: list[object]) -> HistoryQueries:
    connection, spools = opened
    for table in TABLES:
        connection.execute(f"DELETE FROM {table}")
    writer = SpoolWriter(spools, resumable=True)
    for table, payload in encode_records(records):  # type: ignore[arg-type]
        writer.append(table, payload)
    writer.close(remove=False)
    assert ingest_orphans(connection, spools) == []
    return HistoryQueries(connection)


def build(plans: list[dict[str, list[tuple[Verdict, float]]]]) -> tuple[list[object], list[AttemptRecorded]]:
    """Records of runs, and among them the attempts in the order of their start."""
    records: list[object] = []
    attempts: list[AttemptRecorded] = []
    for number, plan in enumerate(plans):
        run_id = f"run{number}"
        records.append(RunStarted(run_id, EPOCH_S + number * 100.0, "", "", ""))
        records.append(TasksPlanned(run_id, [(task_id, "", "", i) for i, task_id in enumerate(plan)]))
        for task_id, executed in plan.items():
            for attempt, (verdict, duration_s) in enumerate(executed, 1):
                started_at = EPOCH_S + number * 100.0 + attempt
                attempts.append(
                    AttemptRecorded(
                        run_id, task_id, attempt, verdict, attempt == len(executed), "w", "gw0", 0,
                        f"{run_id} {attempt}", AttemptResult(LeaseId(1), verdict, started_at, duration_s),
                    )
                )  # fmt: skip
        records.extend(record for record in attempts if record.run_id == run_id)
        records.append(RunEnded(run_id, EPOCH_S + number * 100.0 + 50))
    return records, attempts


@settings(max_examples=25)
@given(plans=run_plans)
def test_answers_are_those_of_a_naive_model(opened: tuple[duckdb.DuckDBPyConnection, Path], plans: list) -> None:  # type: ignore[type-arg]
    records, attempts = build(plans)
    queries = fill(opened, records)
    by_task: dict[str, list[AttemptRecorded]] = defaultdict(list)
    for record in attempts:
        by_task[record.task_id].append(record)

    assert queries.expected_durations() == {
        task_id: d for task_id in by_task if (d := _expected_s(by_task[task_id])) is not None
    }
    assert {row[0]: row[1:3] for row in queries.slowest(10).rows} == {
        task_id: (len(passed), statistics.median(passed))
        for task_id in by_task
        if (passed := _passed_durations(by_task[task_id]))
    }
    medians = [row[2] for row in queries.slowest(10).rows]
    assert medians == sorted(medians, reverse=True)
    assert {row[0]: row[1:6] for row in queries.flakiest(10).rows} == {
        task_id: flaky for task_id in by_task if (flaky := _flaky(by_task[task_id]))
    }
    scores = [row[1] for row in queries.flakiest(10).rows]
    assert scores == sorted(scores, reverse=True)
    for task_id in TASKS:
        assert [(row[1], row[3], row[4]) for row in queries.failures(task_id, 100).rows] == _failures(by_task[task_id])
    assert [row[0] for row in queries.runs(4).rows] == [f"run{n}" for n in reversed(range(len(plans)))][:4]
    for number, plan in enumerate(plans):
        assert {row[0]: row[1:3] for row in queries.tasks(f"run{number}").rows} == {
            task_id: (executed[-1][0].value if executed else None, len(executed)) for task_id, executed in plan.items()
        }


def _passed_durations(records: list[AttemptRecorded]) -> list[float]:
    return [record.result.duration_s for record in records if record.result and record.verdict is Verdict.PASSED]


def _expected_s(records: list[AttemptRecorded]) -> float | None:
    passed = _passed_durations(records)
    return statistics.median(passed[-5:]) if passed else None


def _flaky(records: list[AttemptRecorded]) -> tuple[float, int, int, int, int] | None:
    told = [record for record in records if record.verdict in FAILING | {"passed"}]
    failed = [record.verdict is not Verdict.PASSED for record in told]
    if not any(failed) or all(failed):
        return None
    changes = sum(before != after for before, after in pairwise(failed))
    runs = len({record.run_id for record in told})
    return changes / (len(failed) - 1), len(failed), failed.count(False), failed.count(True), runs


def _failures(records: list[AttemptRecorded]) -> list[tuple[str, int, str]]:
    return [(r.run_id, r.attempt, r.verdict.value) for r in reversed(records) if r.verdict in FAILING]


def test_the_flakiest_comes_first(opened: tuple[duckdb.DuckDBPyConnection, Path]) -> None:
    passed, failed = (Verdict.PASSED, 1.0), (Verdict.FAILED, 1.0)
    records, _ = build([{"a.py::broke": [passed, passed, failed, failed], "z.py::flips": [passed, failed, passed]}])
    assert [row[:2] for row in fill(opened, records).flakiest(10).rows] == [
        ("z.py::flips", 1.0),
        ("a.py::broke", pytest.approx(1 / 3)),
    ]


def test_failures_come_first_in_a_run(opened: tuple[duckdb.DuckDBPyConnection, Path]) -> None:
    verdicts = [Verdict.PASSED, Verdict.NOT_RUN, Verdict.SKIPPED, Verdict.ERROR, Verdict.PASSED, Verdict.FAILED]
    queries = fill(
        opened,
        [
            RunStarted("r1", 1.0, "", "", ""),
            TasksPlanned("r1", [(f"t{i}", "", "", i) for i in range(len(verdicts) + 1)]),
            *[AttemptRecorded("r1", f"t{i}", 1, v, True, "", "", None, "", None) for i, v in enumerate(verdicts)],
        ],
    )
    assert [row[0] for row in queries.tasks("r1").rows] == ["t3", "t5", "t1", "t6", "t0", "t2", "t4"]


def test_a_failure_says_when_and_a_part_of_an_id_is_enough(
    opened: tuple[duckdb.DuckDBPyConnection, Path],
) -> None:
    records, _ = build([{"a.py::one": [(Verdict.FAILED, 1.0)], "a.py::one_more": [(Verdict.FAILED, 1.0)]}])
    queries = fill(opened, records)
    at = datetime.fromtimestamp(EPOCH_S + 1, timezone.utc).replace(tzinfo=None)
    assert [(row[0], row[2]) for row in queries.failures("a.py::one", 10).rows] == [(at, "a.py::one")]
    assert sorted(row[2] for row in queries.failures("py::on", 10).rows) == ["a.py::one", "a.py::one_more"]
    assert queries.failures("a.py::o_e", 10).rows == []
    assert queries.knows_task("::one")
    assert not queries.knows_task("a%")


def test_runs_are_found_by_the_beginning_of_their_id(opened: tuple[duckdb.DuckDBPyConnection, Path]) -> None:
    queries = fill(opened, [RunStarted(run_id, at, "", "", "") for run_id, at in [("ab1", 3.0), ("ab2", 2.0)]])
    assert queries.run_ids("ab", 5) == ["ab1", "ab2"]
    assert queries.run_ids("ab2", 5) == ["ab2"]
    assert queries.run_ids("latest", 5) == ["ab1"]
    assert queries.run_ids("%", 5) == []


def test_the_last_final_verdict_and_the_first_start_win(opened: tuple[duckdb.DuckDBPyConnection, Path]) -> None:
    """A coordinator that restarted may tell something twice: views still have one row per thing."""
    queries = fill(
        opened,
        [
            RunStarted("r1", 1.0, "first", "", ""),
            RunStarted("r1", 2.0, "second", "", ""),
            TasksPlanned("r1", [("t", "", "", 0)]),
            AttemptRecorded("r1", "t", 1, Verdict.FAILED, True, "", "", None, "", None),
            AttemptRecorded("r1", "t", 2, Verdict.PASSED, True, "", "", None, "", None),
            RunEnded("r1", 3.0, {"failed": 1}, "abandoned"),
            RunEnded("r1", 4.0, {"passed": 1}),
        ],
    )
    answer = queries.runs(10)
    row = dict(zip(answer.columns, answer.rows[0], strict=True))
    assert len(answer.rows) == 1
    assert (row["title"], row["outcome"], row["passed"], row["failed"]) == ("first", "finished", 1, 0)
    assert [row[:2] for row in queries.tasks("r1").rows] == [("t", "passed")]


DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("view", ["runs", "tasks", "attempts", "workers"])
def test_the_schema_page_names_every_column(opened: tuple[duckdb.DuckDBPyConnection, Path], view: str) -> None:
    page = (DOCS / "reference" / "history-schema.md").read_text(encoding="utf-8")
    section = page.split(f"### `{view}`")[1].split("\n##")[0]
    columns = [row[0] for row in opened[0].execute(f"DESCRIBE {view}").fetchall()]
    assert [column for column in columns if f"`{column}`" not in section] == []


def test_the_sql_on_the_how_to_page_works(opened: tuple[duckdb.DuckDBPyConnection, Path]) -> None:
    page = (DOCS / "how-to" / "query-history.md").read_text(encoding="utf-8")
    statements = re.findall(r"```sql\n(.*?)```", page, re.DOTALL)
    assert len(statements) == 4
    for statement in statements:
        opened[0].execute(statement).fetchall()
