"""The history's tables and views, and the statements that fill them.

Append-only: no row is ever updated. A run has a row when it starts and another when it ends; views join them. The
columns are described in ``docs/reference/history-schema.md``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from fleetest.core.model import Verdict

SCHEMA_VERSION = 1
VERSION_TABLE = "fleetest_schema"

TIMESTAMP = "TIMESTAMP"
"""Wall time in UTC; travels as integer microseconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Table:
    """One table that is filled from spools. ``columns``: name to DuckDB type, in order."""

    name: str
    columns: Mapping[str, str]

    def create_statement(self) -> str:
        columns = ", ".join(f"{name} {kind}" for name, kind in self.columns.items())
        return f"CREATE TABLE {self.name} ({columns})"

    def insert_statement(self) -> str:
        """Takes one parameter: a JSON array of batches, each an object of column name to array of values.

        Arrays per column instead of an object per row: a quarter of the time, half of the text.
        """
        structure = json.dumps([{name: [_json_type(kind)] for name, kind in self.columns.items()}])
        values = ", ".join(_value(name, kind) for name, kind in self.columns.items())
        unnested = ", ".join(f"unnest(batch.{name}) AS {name}" for name in self.columns)
        return (
            f"INSERT INTO {self.name} SELECT {values} FROM (SELECT {unnested} FROM "
            f"(SELECT unnest(from_json(?::JSON, '{structure}')) AS batch))"
        )


def _json_type(kind: str) -> str:
    return "BIGINT" if kind == TIMESTAMP else kind


def _value(name: str, kind: str) -> str:
    return f"make_timestamp({name})" if kind == TIMESTAMP else name


TABLES = {
    table.name: table
    for table in (
        Table(
            "run_starts",
            {
                "run_id": "VARCHAR",
                "started_at": TIMESTAMP,
                "title": "VARCHAR",
                "owner": "VARCHAR",
                "directory": "VARCHAR",
            },
        ),
        Table(
            "run_ends",
            {
                "run_id": "VARCHAR",
                "ended_at": TIMESTAMP,
                "outcome": "VARCHAR",
                "counts": "MAP(VARCHAR, BIGINT)",
            },
        ),
        Table(
            "planned_tasks",
            {
                "run_id": "VARCHAR",
                "task_id": "VARCHAR",
                "suite": "VARCHAR",
                "group_name": "VARCHAR",
                "position": "BIGINT",
            },
        ),
        Table(
            "attempts",
            {
                "run_id": "VARCHAR",
                "task_id": "VARCHAR",
                "attempt": "INTEGER",
                "verdict": "VARCHAR",
                "is_final": "BOOLEAN",
                "worker": "VARCHAR",
                "runner": "VARCHAR",
                "slot": "INTEGER",
                "started_at": TIMESTAMP,
                "duration_s": "DOUBLE",
                "setup_s": "DOUBLE",
                "call_s": "DOUBLE",
                "teardown_s": "DOUBLE",
                "cpu_s": "DOUBLE",
                "peak_memory_bytes": "BIGINT",
                "output": "VARCHAR",
                "traceback": "VARCHAR",
                "reason": "VARCHAR",
                "artifacts": "VARCHAR[]",
            },
        ),
        Table(
            "worker_sightings",
            {
                "worker": "VARCHAR",
                "host": "VARCHAR",
                "slots": "INTEGER",
                "seen_at": TIMESTAMP,
                "attributes": "MAP(VARCHAR, VARCHAR[])",
                "resources": "MAP(VARCHAR, DOUBLE)",
            },
        ),
    )
}

# map_extract, because what counts[...] gives is not the same in all versions of DuckDB.
_COUNTS = ",\n    ".join(
    f"coalesce(map_extract(ends.counts, '{verdict.value}')[1], 0) AS {verdict.value}" for verdict in Verdict
)

_VIEWS = (
    f"""
CREATE VIEW runs AS
SELECT
    starts.run_id, starts.started_at, ends.ended_at,
    epoch(ends.ended_at - starts.started_at) AS duration_s,
    starts.title, starts.owner, starts.directory,
    coalesce(ends.outcome, 'unfinished') AS outcome,
    coalesce(list_sum(map_values(ends.counts)), 0)::BIGINT AS tests,
    {_COUNTS}
FROM (
    SELECT run_id, min(started_at) AS started_at, arg_min(title, started_at) AS title,
        arg_min(owner, started_at) AS owner, arg_min(directory, started_at) AS directory
    FROM run_starts GROUP BY run_id
) AS starts
LEFT JOIN (
    SELECT run_id, max(ended_at) AS ended_at, arg_max(outcome, ended_at) AS outcome,
        arg_max(counts, ended_at) AS counts
    FROM run_ends GROUP BY run_id
) AS ends ON ends.run_id = starts.run_id
""",
    """
CREATE VIEW tasks AS
SELECT
    planned.run_id, planned.task_id, planned.suite, planned.group_name, planned.position,
    done.verdict, coalesce(done.attempts, 0) AS attempts, done.duration_s, done.worker, done.reason
FROM planned_tasks AS planned
LEFT JOIN (
    SELECT run_id, task_id,
        arg_max(verdict, attempt) FILTER (WHERE is_final) AS verdict,
        count(DISTINCT attempt) FILTER (WHERE started_at IS NOT NULL) AS attempts,
        arg_max(duration_s, attempt) FILTER (WHERE is_final) AS duration_s,
        arg_max(worker, attempt) FILTER (WHERE is_final) AS worker,
        arg_max(reason, attempt) FILTER (WHERE is_final) AS reason
    FROM attempts GROUP BY run_id, task_id
) AS done ON done.run_id = planned.run_id AND done.task_id = planned.task_id
""",
    """
CREATE VIEW workers AS
SELECT
    worker, min(seen_at) AS first_seen_at, max(seen_at) AS last_seen_at,
    arg_max(host, seen_at) AS host, arg_max(slots, seen_at) AS slots,
    arg_max(attributes, seen_at) AS attributes, arg_max(resources, seen_at) AS resources
FROM worker_sightings GROUP BY worker
""",
)

CREATE_STATEMENTS = (
    f"CREATE TABLE {VERSION_TABLE} (version INTEGER, created_at TIMESTAMP, created_by VARCHAR)",
    # Which lines of which spool are in: written in the transaction that inserts them, hence exactly once.
    "CREATE TABLE ingested_spools (spool_id VARCHAR, through_line BIGINT, ingested_at TIMESTAMP)",
    *(table.create_statement() for table in TABLES.values()),
    *_VIEWS,
)

INSERT_STATEMENTS = {name: table.insert_statement() for name, table in TABLES.items()}

END_ABANDONED_RUNS = """
INSERT INTO run_ends
SELECT starts.run_id, make_timestamp(?), 'abandoned', (
    SELECT map_from_entries(list((verdict, verdicts)))
    FROM (
        SELECT verdict, count(*) AS verdicts FROM attempts
        WHERE attempts.run_id = starts.run_id AND is_final GROUP BY verdict
    )
)
FROM run_starts AS starts
WHERE list_contains(?, starts.run_id) AND starts.run_id NOT IN (SELECT run_id FROM run_ends)
"""
