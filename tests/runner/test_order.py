"""Fixtures are set up and torn down as in plain pytest, whenever the worker tells what comes next."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

NOTHING = 0xFFFFFFFF

_CONFTEST = """
    import os, pytest

    def note(text):
        with open(os.path.join(os.path.dirname(__file__), "notes"), "a") as notes:
            notes.write(text + "\\n")

    @pytest.fixture(scope="session", autouse=True)
    def session_thing():
        note("+session")
        yield
        note("-session")

    @pytest.fixture(scope="module", autouse=True)
    def module_thing(request):
        note("+" + request.module.__name__)
        yield
        note("-" + request.module.__name__)

    @pytest.fixture(autouse=True)
    def function_thing(request):
        note(" +" + request.node.name)
        yield
        note(" -" + request.node.name)

    def pytest_sessionfinish(): note("sessionfinish")
    def pytest_unconfigure(): note("unconfigure")
"""
_MODULE = """
    def test_1(): pass
    def test_2(): pass
"""
_SUITE = {"conftest.py": _CONFTEST, "test_a.py": _MODULE, "test_b.py": _MODULE}


def _notes(tmp_path: Path) -> str:
    return " ".join((tmp_path / "suite" / "notes").read_text().split())


def test_next_item_is_asked_for_in_the_teardown(start: Any, tmp_path: Path, any_python: str) -> None:
    program = start(_SUITE, python=any_python)
    program.collect()
    queue = program.fork()
    queue.put(0)
    assert [row[0] for row in queue.rows_until("waiting")] == ["ready", "started", "waiting"]
    # The function's fixture goes with the teardown that waits now; the module's fate hangs on the answer.
    assert _notes(tmp_path) == "+session +test_a +test_1"
    queue.put(1)
    assert [row[:2] for row in queue.rows_until("waiting")] == [["passed", 0], ["started", 1], ["waiting", 1]]
    assert _notes(tmp_path) == "+session +test_a +test_1 -test_1 +test_2"
    queue.put(2)
    queue.rows_until("waiting")
    assert _notes(tmp_path) == "+session +test_a +test_1 -test_1 +test_2 -test_2 -test_a +test_b +test_1"
    queue.put(NOTHING)
    assert [row[:2] for row in queue.rows_until("idle")] == [["passed", 2], ["idle"]]
    assert _notes(tmp_path).endswith("+test_b +test_1 -test_1 -test_b -session")
    # It is ready for more, and sets up again what it needs.
    assert [row[1] for row in queue.run(3)] == [3]
    assert _notes(tmp_path).endswith("-session +session +test_b +test_2 -test_2 -test_b -session")
    assert queue.end() == [["finished"]]
    program.finish()
    assert _notes(tmp_path).endswith("-session sessionfinish unconfigure")


def test_end_of_the_queue_ends_the_session(start: Any, tmp_path: Path) -> None:
    program = start(_SUITE)
    program.collect()
    queue = program.fork()
    queue.put(0, 1)
    rows = queue.end()
    assert [row[0] for row in rows] == ["ready", "started", "passed", "started", "passed", "finished"]
    program.finish()
    assert _notes(tmp_path) == (
        "+session +test_a +test_1 -test_1 +test_2 -test_2 -test_a -session sessionfinish unconfigure"
    )


def test_queued_positions_are_taken_back(start: Any, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")
    program = start(
        """
        import os
        def test_slow():
            with open(os.path.join(os.path.dirname(__file__), "..", "gate")): pass
        def test_other(): pass
        def test_third(): pass
        """
    )
    program.collect()
    queue = program.fork()
    queue.put(0, 1, 2)
    queue.rows_until("started")
    assert queue.take_back() == [1, 2]
    queue.put(2, NOTHING)
    with open(tmp_path / "gate", "w", encoding="utf-8"):
        pass
    assert [row[:2] for row in queue.rows_until("idle") if row[0] == "passed"] == [["passed", 0], ["passed", 2]]


_VARIANTS = {
    "conftest.py": _CONFTEST
    + """
    @pytest.fixture(scope="session")
    def screen(fleet_variant):
        note("+<%s>" % fleet_variant)
        assert str(fleet_variant) == os.environ.get("FLEETEST_VARIANT", "")
        yield
        note("-<%s>" % fleet_variant)
""",
    "test_a.py": "def test_1(): pass\ndef test_2(): pass\ndef test_3(screen): pass\ndef test_4(screen): pass\n",
}
_VARIANT_MARK = 0x40000000


def test_between_values_of_a_capability_everything_is_torn_down(start: Any, tmp_path: Path, any_python: str) -> None:
    program = start(_VARIANTS, python=any_python)
    program.collect()
    queue = program.fork()
    variants = program.scratch / "gw0.variants"
    # All of it is queued at once; the value of a position is what was said last before it was written.
    variants.write_text('[0, "screen=never"]\n[0, "screen=ä"]\n[1, "screen=ä"]\n[2, "screen=b"]\n', encoding="utf-8")
    marked = [position | _VARIANT_MARK for position in (0, 1, 2)]
    rows = queue.run(*marked, 3)
    assert [row[:2] for row in rows] == [["passed", position] for position in range(4)]
    on, off = "+session +test_a", "-test_a -session"
    first = f"{on} +test_1 -test_1 +test_2 -test_2 {off}"
    second = "+session +<screen=b> +test_a +test_3 -test_3 -test_a -<screen=b> -session"
    assert _notes(tmp_path) == f"{first} {second} +session +<> +test_a +test_4 -test_4 -test_a -<> -session"
    # Beside tests that are for no value, where nothing looked at it, what is set up stays.
    (tmp_path / "suite" / "notes").unlink()
    with variants.open("a", encoding="utf-8") as file:
        file.write('[1, "screen=b"]\n')
    queue.run(0, 1 | _VARIANT_MARK)
    assert _notes(tmp_path) == f"{on} +test_1 -test_1 +test_2 -test_2 {off}"


def test_a_value_that_is_still_being_written_is_read_when_it_is_needed(start: Any, tmp_path: Path) -> None:
    """The worker appends for later positions while the runner reads, which may see a part of that."""
    program = start(_VARIANTS)
    program.collect()
    queue = program.fork()
    variants = program.scratch / "gw0.variants"
    variants.write_bytes(b'[2,"screen=a"]\n[3,"scr')
    assert [row[:2] for row in queue.run(2 | _VARIANT_MARK)] == [["passed", 2]]
    with variants.open("ab") as file:
        file.write(b'een=b"]\n')
    assert [row[:2] for row in queue.run(3 | _VARIANT_MARK)] == [["passed", 3]]
    assert [note for note in _notes(tmp_path).split() if note.startswith("+<")] == ["+<screen=a>", "+<screen=b>"]


def test_a_foreign_user_of_nextitem_gets_a_real_one(start: Any) -> None:
    program = start(
        {
            "conftest.py": """
            def pytest_runtest_teardown(item, nextitem):
                item.user_properties.append(("next", nextitem.name if nextitem is not None else None))
            """,
            "test_it.py": "def test_1(): pass\ndef test_2(): pass\n",
        }
    )
    program.collect()
    queue = program.fork()
    queue.put(0, 1, NOTHING)
    rows = [row for row in queue.rows_until("idle") if row[0] == "reported"]
    found = [dict(row[-1][2]["data"]["$dict"])["user_properties"] for row in rows]
    assert found == [[{"$tuple": ["next", "test_2"]}], [{"$tuple": ["next", None]}]]


def test_a_foreign_user_of_nextitem_keeps_what_is_set_up_while_the_queue_is_empty(start: Any) -> None:
    program = start(
        {
            "conftest.py": """
            import pytest

            @pytest.hookimpl(trylast=True)
            def pytest_runtest_protocol(item, nextitem): pass

            set_up = []
            @pytest.fixture(scope="session", autouse=True)
            def session():
                set_up.append(1)
            """,
            "test_it.py": "from conftest import set_up\ndef test_1(): pass\ndef test_2(): assert set_up == [1]\n",
        }
    )
    program.collect()
    queue = program.fork()
    queue.put(0)
    assert queue.rows_until("waiting", "passed")[-1] == ["waiting", 0]
    queue.put(1)
    assert [row[0] for row in queue.rows_until("waiting", "reported")][-3:] == ["passed", "started", "waiting"]
    queue.put(NOTHING)
    assert [row[:2] for row in queue.rows_until("idle") if row[0] in ("passed", "reported")] == [["passed", 1]]


def test_stopping_a_session_from_a_test_stops_its_runner(start: Any) -> None:
    program = start(
        """
        def test_1(request): request.session.shouldstop = "enough"
        def test_2(): pass
        """
    )
    program.collect()
    queue = program.fork()
    queue.put(0, 1)
    rows = queue.end()
    assert ["exit", "interrupted", "enough", 2] in rows
    assert [row[1] for row in rows if row[0] == "passed"] == [0]


def test_class_and_unittest_scopes(start: Any, verdicts: Any) -> None:
    program = start(
        """
        import unittest, pytest
        log = []
        class TestUnit(unittest.TestCase):
            @classmethod
            def setUpClass(cls): log.append("setUpClass")
            @classmethod
            def tearDownClass(cls): log.append("tearDownClass")
            def test_1(self): assert log == ["setUpClass"]
            def test_2(self): assert log == ["setUpClass"]
        class TestPlain:
            @pytest.fixture(scope="class", autouse=True)
            def thing(self):
                log.append("+class")
                yield
                log.append("-class")
            def test_1(self): assert log == ["setUpClass", "tearDownClass", "+class"]
            def test_2(self): assert log == ["setUpClass", "tearDownClass", "+class"]
        def test_after(): assert log[3:] == ["-class"]
        """
    )
    program.collect()
    queue = program.fork()
    assert set(verdicts(queue.run(0, 1, 2, 3, 4)).values()) == {"passed"}


def test_hooks_of_a_conftest_apply_to_its_own_folder_only(start: Any, tmp_path: Path) -> None:
    conftest = """
        import os
        HERE = os.path.basename(os.path.dirname(__file__))
        def pytest_runtest_setup(item): item.user_properties.append(("setup", HERE))
        def pytest_runtest_logreport(report): pass
    """
    test = "def test_1(): pass\ndef test_2(): pass\n"
    program = start({"a/conftest.py": conftest, "b/conftest.py": conftest, "a/test_a.py": test, "b/test_b.py": test})
    program.collect()
    rows = program.fork().run(0, 2, 1, 3)
    found = {program.ids[row[1]]: dict(row[-1][2]["data"]["$dict"])["user_properties"] for row in rows}
    assert found == {
        f"{folder}/test_{folder}.py::test_{number}": [{"$tuple": ["setup", folder]}]
        for folder in "ab"
        for number in (1, 2)
    }
