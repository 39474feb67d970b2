"""The list of mutations does not rot: each text is still there, each test too, and README.md shows the list."""

from __future__ import annotations

import ast

import pytest

from support import TESTS
from support.mutation_list import MUTATIONS, Mutation

import run_mutations

README = (TESTS / "README.md").read_text()


def test_every_text_to_be_replaced_is_there_once() -> None:
    what_to_do = "say in tests/support/mutation_list.py what it is now; the test that is named there must notice it"
    assert run_mutations.misplaced() == [], what_to_do


@pytest.mark.parametrize("old", ["never written anywhere", "import"])
def test_a_text_that_is_gone_or_ambiguous_is_found(old: str) -> None:
    mutation = Mutation("c", "w", "core/matching.py", old, "", "test_scheduler.py", "T.t")
    assert len(run_mutations.misplaced([mutation])) == 1


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: f"{mutation.test_file}-{mutation.category}")
def test_the_named_test_exists(mutation: Mutation) -> None:
    tree = ast.parse((TESTS / mutation.test_file).read_text())
    names = {
        f"{node.name}.{child.name}"
        for node in tree.body
        if isinstance(node, ast.ClassDef)
        for child in node.body
        if isinstance(child, ast.FunctionDef)
    }
    assert mutation.test in names


def test_every_class_of_tests_has_a_mutation() -> None:
    classes = {
        (file, node.name)
        for file in ("test_scheduler.py", "test_health_monitor.py", "test_load_balancer.py", "test_integration.py")
        for node in ast.parse((TESTS / file).read_text()).body
        if isinstance(node, ast.ClassDef) and node.name.endswith("Tests")
    }
    assert classes - {(mutation.test_file, mutation.test.partition(".")[0]) for mutation in MUTATIONS} == set()


def test_the_list_is_in_the_readme() -> None:
    assert run_mutations.table() in README, "print it with: python tests/run_mutations.py --list"
