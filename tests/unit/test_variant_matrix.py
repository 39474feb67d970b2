"""The table of tests and values at the end of a run."""

from fleetest.client.variant_matrix import LISTED_MAX, ROWS_MAX, VariantMatrix
from fleetest.core.model import TaskId, TaskSpec, Verdict


def planned(tests: int) -> VariantMatrix:
    matrix = VariantMatrix()
    for number in range(tests):
        for value in ("3.9", "3.12"):
            variant = f"python={value}"
            matrix.plan([TaskSpec(TaskId(f"t{number} @ {variant}"), variant=variant)])
            matrix.note(TaskId(f"t{number} @ {variant}"), Verdict.PASSED)
    return matrix


def test_without_variants_there_is_no_table():
    matrix = VariantMatrix()
    matrix.plan([TaskSpec(TaskId("t"))])
    matrix.note(TaskId("t"), Verdict.PASSED)
    assert matrix.tables() == []


def test_a_row_per_test_and_a_column_per_value():
    matrix = planned(2)
    matrix.note(TaskId("t1 @ python=3.12"), Verdict.NOT_RUN)
    matrix.plan([TaskSpec(TaskId("other @ gpu=H100"), variant="gpu=H100")])
    (name, lines), (other, other_lines) = matrix.tables()
    assert (name, other) == ("python", "gpu")
    assert [line.split("  ") for line in lines][1][0] == "t0"
    assert [line.split() for line in lines] == [
        ["3.9", "3.12"],
        ["t0", "passed", "passed"],
        ["t1", "passed", "NOT", "RUN"],
        ["successful", "2", "of", "2", "1", "of", "2"],
    ]
    assert other_lines[1].split() == ["other", "-"]


def test_of_many_tests_only_those_are_listed_that_failed_somewhere():
    matrix = planned(ROWS_MAX + 1)
    matrix.note(TaskId("t7 @ python=3.9"), Verdict.FAILED)
    ((_, lines),) = matrix.tables()
    assert [line.split()[0] for line in lines] == ["3.9", "t7", f"({ROWS_MAX}", "successful"]


def test_a_table_has_an_end():
    matrix = planned(3 * LISTED_MAX)
    for number in range(3 * LISTED_MAX):
        matrix.note(TaskId(f"t{number} @ python=3.9"), Verdict.FAILED)
    ((_, lines),) = matrix.tables()
    assert len(lines) == LISTED_MAX + 3
    assert f"({2 * LISTED_MAX} not listed: and more)" in lines
