"""Collect, fork, run, report, finish: on every interpreter that is there."""

from __future__ import annotations

import os
from typing import Any

from fleetest.processes.frames import from_portable

NOTHING = 0xFFFFFFFF

_SUITE = """
    import os, sys, unittest, pytest

    def test_pass(): pass
    def test_fail(): assert 1 == 2
    def test_skip(): pytest.skip("why")
    @pytest.mark.skip(reason="mark")
    def test_skip_mark(): pass
    @pytest.mark.xfail
    def test_xfail(): assert 0
    @pytest.mark.xfail
    def test_xpass(): pass
    @pytest.mark.xfail(strict=True)
    def test_xpass_strict(): pass
    @pytest.fixture
    def broken(): raise ValueError("setup")
    def test_setup_error(broken): pass
    @pytest.fixture
    def broken_later():
        yield
        raise ValueError("teardown")
    def test_teardown_error(broken_later): pass
    def test_fail_and_teardown_error(broken_later): assert 0
    def test_prints(): print("hello")
    def test_property(record_property): record_property("a", (1, b"x"))
    @pytest.mark.parametrize("x", [1, 2])
    def test_param(x): assert x
    class TestUnit(unittest.TestCase):
        def test_unit(self): pass
        def test_unit_fail(self): self.fail("no")
        @unittest.skip("s")
        def test_unit_skip(self): pass
    class TestClass:
        def test_method(self, tmp_path, request):
            assert request.config.workerinput["workerid"] in str(tmp_path)
            assert len(request.session.items) == 20
    def test_worker(worker_id, testrun_uid):
        assert worker_id == os.environ["PYTEST_XDIST_WORKER"] and worker_id[:2] == "gw"
        assert os.environ["PYTEST_XDIST_TESTRUNUID"] == testrun_uid
        assert os.environ["PYTEST_XDIST_WORKER_COUNT"] == "2"
    def test_no_thread_left():
        import threading
        assert threading.active_count() == 1
"""
_EXPECTED = {
    "test_pass": "passed",
    "test_fail": "failed",
    "test_skip": "skipped",
    "test_skip_mark": "skipped",
    "test_xfail": "xfailed",
    "test_xpass": "xpassed",
    "test_xpass_strict": "failed",
    "test_setup_error": "error",
    "test_teardown_error": "error",
    "test_fail_and_teardown_error": "failed",
    "test_prints": "passed",
    "test_property": "passed",
    "test_param[1]": "passed",
    "test_param[2]": "passed",
    "TestUnit::test_unit": "passed",
    "TestUnit::test_unit_fail": "failed",
    "TestUnit::test_unit_skip": "skipped",
    "TestClass::test_method": "passed",
    "test_worker": "passed",
    "test_no_thread_left": "passed",
}


def test_every_verdict_forked(start: Any, verdicts: Any, any_python: str) -> None:
    program = start(_SUITE, python=any_python)
    collected = program.collect()
    assert program.frames[0]["type"] == "hello"
    assert collected["start_method"] == "fork", collected["reason"]
    first, second = program.fork(0), program.fork(1)
    count = len(collected["items"])
    rows = first.run(*range(0, count, 2)) + second.run(*range(1, count, 2))
    found = {node_id.partition("::")[2]: verdict for node_id, verdict in _by_id(program, verdicts(rows)).items()}
    assert found == _EXPECTED
    compact = {program.ids[row[1]].partition("::")[2] for row in rows if row[0] == "passed"}
    assert compact >= {"test_pass", "test_param[1]", "TestUnit::test_unit", "TestClass::test_method"}
    assert not compact & {"test_prints", "test_property", "test_fail"}
    for queue in (first, second):
        assert queue.end() == [["finished"]]
    program.finish()
    assert program.process.returncode == 0
    assert {(frame["slot"], frame["status"]) for frame in program.frames if frame["type"] == "exited"} == {
        (0, 0),
        (1, 0),
    }


def test_every_verdict_spawned(start: Any, verdicts: Any, any_python: str) -> None:
    program = start(_SUITE, python=any_python, mode="runner", runner_id="gw7")
    collected = program.collect()
    assert collected["start_method"] == "spawn"
    (queue,) = program.queues
    rows = queue.run(*range(len(collected["items"])))
    found = {node_id.partition("::")[2]: verdict for node_id, verdict in _by_id(program, verdicts(rows)).items()}
    # Nobody gave it a base temporary directory that names it.
    assert found.pop("TestClass::test_method") == "failed"
    assert found == {name: verdict for name, verdict in _EXPECTED.items() if name != "TestClass::test_method"}
    assert queue.end() == [["finished"]]
    program.process.wait()
    assert program.process.returncode == 0


def _by_id(program: Any, found: dict[int, str]) -> dict[str, str]:
    return {program.ids[position]: verdict for position, verdict in found.items()}


def test_items_carry_what_the_plan_needs(start: Any) -> None:
    program = start(
        """
        import pytest
        pytestmark = pytest.mark.slow

        @pytest.mark.fleet(gpus=1, requires="cuda>=12")
        class TestIt:
            @pytest.mark.fleet("a", (1, 2), lock=b"x")
            @pytest.mark.xdist_group("g")
            def test_one(self): pass
        @pytest.mark.xdist_group(name="h")
        def test_two(): pass
        def test_three(): pass
        """,
    )
    collected = program.collect()
    one, two, three = collected["items"]
    assert one[:4] == ["test_it.py::TestIt::test_one", "test_it.py", 6, "TestIt.test_one"]
    assert one[6] == "g"
    assert one[7] == [
        [["a", {"$tuple": [1, 2]}], {"lock": {"$bytes": "eA=="}}],
        [[], {"gpus": 1, "requires": "cuda>=12"}],
    ]
    assert (two[6], two[7]) == ("h", [])
    assert (three[6], three[7]) == (None, [])
    keywords = set(one[5]) | set(collected["parents"][one[4]])
    assert {"test_one", "TestIt", "test_it.py", "slow", "fleet", "xdist_group"} <= keywords
    assert two[4] == three[4] != one[4]


def test_report_holds_text_and_data(start: Any) -> None:
    program = start("def test_fail():\n    print('out')\n    assert 1 == 2, 'lone \\udc80'\n")
    program.collect()
    ((tag, position, verdict, *_, reports),) = program.fork().run(0)
    assert (tag, position, verdict) == ("reported", 0, "failed")
    call = reports[1]
    data = from_portable(call["data"])
    assert data["$report_type"] == "TestReport"
    assert data["nodeid"] == "test_it.py::test_fail"
    assert "\\udc80" in call["text"]
    assert ("Captured stdout call", "out\n") in data["sections"]


def test_a_skip_says_why(start: Any) -> None:
    program = start("import pytest\ndef test_it(): pytest.skip('no such machine')\n")
    program.collect()
    ((*_, reports),) = program.fork().run(0)
    assert reports[1]["text"] == "Skipped: no such machine"


def test_ready_brings_the_capture_files(start: Any) -> None:
    program = start(
        """
        import os
        def test_dies():
            os.write(1, b"last words")
            os.write(2, b"and worries")
            os._exit(3)
        """
    )
    program.collect()
    queue = program.fork()
    queue.put(0)
    assert queue.row()[0] == "ready"
    out, err = queue.results.descriptors
    assert queue.row()[:2] == ["started", 0]
    assert queue.row() is None
    assert os.pread(out, 100, 0) == b"last words"
    assert os.pread(err, 100, 0) == b"and worries"
    assert program.receive("exited")["status"] >> 8 == 3


def test_plugins_of_the_environment_stay_inert(start: Any, verdicts: Any) -> None:
    program = start(_SUITE, "-n", "2", plugins=True)
    program.collect()
    rows = program.fork().run(program.position("test_worker"), program.position("test_pass"))
    assert list(verdicts(rows).values()) == ["passed", "passed"]
