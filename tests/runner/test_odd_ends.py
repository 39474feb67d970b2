"""Tests that end in odd ways cost themselves, and say why; nothing else is lost."""

from __future__ import annotations

import os
import select
import signal
from pathlib import Path
from typing import Any

import pytest

from fleetest.processes.frames import from_portable

NOTHING = 0xFFFFFFFF
# Against a hang of what is tested, never waited for.
_HANG_S = 60.0

_DEADLY = """
    import ctypes, os, signal, pytest
    def test_before(): pass
    def test_exit(): os._exit(0)
    def test_segfault(): ctypes.string_at(0)
    def test_kill_group(): os.killpg(0, signal.SIGKILL)
    def test_after(tmp_path): assert "popen-gw0" in str(tmp_path)
"""


@pytest.mark.parametrize(
    ("name", "status"),
    [("test_exit", 0), ("test_segfault", signal.SIGSEGV), ("test_kill_group", signal.SIGKILL)],
)
def test_a_dying_runner_loses_only_its_running_test(start: Any, name: str, status: int) -> None:
    program = start(_DEADLY)
    program.collect()
    queue = program.fork()
    deadly = program.position(name)
    queue.put(0, deadly, program.position("test_after"))
    rows = queue.rows_until("finished")
    assert [row and row[:2] for row in rows[1:]] == [["started", 0], ["passed", 0], ["started", deadly], None]
    exited = program.receive("exited")
    assert exited == {"type": "exited", "slot": 0, "pid": queue.pid, "status": exited["status"]}
    assert exited["status"] & 0x7F == status
    # What it had not read is still in its queue.
    assert queue.take_back() == [program.position("test_after")]
    stacks = (program.scratch / f"gw0-{queue.pid}.stacks").read_text()
    assert ("Segmentation fault" in stacks and name in stacks) == (name == "test_segfault")
    # A replacement of the same name goes on.
    (row,) = program.fork().run(program.position("test_after"))
    assert row[0] == "passed"


def test_odd_but_survivable(start: Any, any_python: str) -> None:
    program = start(
        """
        import builtins, gc, json, os, socket, struct, sys, time
        def test_sys_exit(): sys.exit(3)
        def test_close(): os.close(0); os.close(1); os.close(2)
        def test_after_close(): pass
        def test_chdir(tmp_path): os.chdir(str(tmp_path))
        def test_environ(): os.environ = {}
        def test_replace():
            os.fork = os.getpid = os._exit = json.dumps = None
            json.JSONEncoder = socket.socket = socket.SCM_RIGHTS = struct.Struct = None
            time.time = time.perf_counter = lambda: 0
        def test_fail_after_replace(): assert 0, "reason"
        def test_stdout():
            sys.stdout = sys.stderr = None
        def test_clear_modules():
            sys.modules.pop("json")
        def test_last(): pass
        """,
        python=any_python,
    )
    program.collect()
    queue = program.fork()
    rows = queue.run(*range(10))
    found = {program.ids[row[1]].partition("::")[2]: row[2] if row[0] == "reported" else "passed" for row in rows}
    assert found["test_sys_exit"] == "failed"
    assert found["test_fail_after_replace"] == "failed"
    assert found["test_last"] == "passed"
    assert len(found) == 10


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("pytest.exit('stop it', returncode=9)", ["exit", "exit", "stop it", 9]),
        ("pytest.exit('stop it')", ["exit", "exit", "stop it", None]),
        ("raise KeyboardInterrupt", ["exit", "interrupted", "", 2]),
        ("raise KeyboardInterrupt('why')", ["exit", "interrupted", "why", 2]),
    ],
)
def test_exit_from_a_test(start: Any, body: str, expected: list[Any]) -> None:
    program = start(f"import pytest\ndef test_1():\n    {body}\ndef test_2(): pass\n")
    program.collect()
    queue = program.fork()
    queue.put(0, 1)
    rows = queue.end()
    assert rows[0][0] == "ready"
    assert rows[1][:2] == ["started", 0]
    assert rows[2:] == [expected, ["finished"]]


def test_internal_error_in_a_runner(start: Any) -> None:
    program = start(
        {
            "conftest.py": "def pytest_runtest_logstart(): raise ValueError('broken plugin')\n",
            "test_it.py": "def test(): pass",
        }
    )
    program.collect()
    queue = program.fork()
    queue.put(0)
    rows = queue.end()
    assert rows[2][:2] == ["exit", "internal_error"]
    assert "broken plugin" in rows[2][2]
    assert rows[2][3] == 3


def test_reports_with_anything_in_them(start: Any) -> None:
    program = start(
        {
            "conftest.py": """
            import pytest
            class Odd:
                def __repr__(self): raise RuntimeError("no repr")
            class Text(str): pass
            @pytest.hookimpl(hookwrapper=True)
            def pytest_runtest_makereport(item, call):
                report = (yield).get_result()
                if call.when == "call" and item.name == "test_extras":
                    recursive = []
                    recursive.append(recursive)
                    report.odd = Odd()
                    report.values = [float("nan"), float("inf"), 10**30, {1: (2,)}, b"x", Text("t"), {"$a": 1}, {1, 2}]
                    report.recursive = recursive
                if call.when == "call" and item.name == "test_broken":
                    report.longrepr = Odd()
                    report.outcome = "failed"
            """,
            "test_it.py": """
            def test_extras(): pass
            def test_broken(): pass
            def test_keyword(request):
                request.node.add_marker("added")
            def test_property(record_property):
                record_property("x", object())
            """,
        }
    )
    program.collect()
    rows = program.fork().run(0, 1, 2, 3)
    extras, broken, keyword, prop = [row for row in rows if row[0] != "warning"]
    assert (extras[0], extras[2]) == ("reported", "passed")
    data = from_portable(extras[-1][1]["data"])
    assert data["values"] == ["nan", "inf", repr(10**30), {1: (2,)}, b"x", "t", {"$a": 1}, "{1, 2}"]
    assert "whose repr raised RuntimeError" in data["odd"]
    assert (broken[0], broken[2]) == ("reported", "failed")
    assert from_portable(broken[-1][1]["data"])["outcome"] == "failed"
    # A mark that was added while it ran is not lost in a compact row.
    assert keyword[0] == "reported"
    assert "added" in from_portable(keyword[-1][2]["data"])["keywords"]
    assert prop[0] == "reported"


def test_ids_with_surrogates(start: Any) -> None:
    program = start(
        """
        import pytest
        def pytest_generate_tests(metafunc):
            metafunc.parametrize("x", [1, 2], ids=["\\u00e9-\\U0001f600", "b"])
        def test_it(x, request): pass
        """
    )
    program.collect()
    assert len(program.ids) == 2
    (row,) = program.fork().run(0)
    assert row[0] == "passed"


def test_stacks_on_demand(start: Any, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")
    program = start(
        """
        import os
        def test_hangs_here():
            with open(os.path.join(os.path.dirname(__file__), "..", "gate")): pass
        """
    )
    program.collect()
    queue = program.fork()
    queue.put(0, NOTHING)
    queue.rows_until("started")
    gate = os.open(tmp_path / "gate", os.O_RDWR)
    os.close(gate)
    stacks = program.scratch / f"gw0-{queue.pid}.stacks"
    os.kill(queue.pid, signal.SIGRTMIN + 7)
    with open(tmp_path / "gate", "w", encoding="utf-8"):
        pass
    rows = queue.rows_until("idle")
    assert rows[-1] == ["idle"]
    # The handler ran in the signalled process before that could go on.
    assert "Current thread" in stacks.read_text()


def _read(descriptor: int) -> bytes:
    ready, _, _ = select.select([descriptor], [], [], _HANG_S)
    assert ready, "somebody who should be dead holds it open"
    return os.read(descriptor, 1)


def _ends_with_its_worker(program: Any, alive_path: Path) -> None:
    """Whoever executes the test, and lets this fifo know, is dead soon after control is closed."""
    alive = os.open(alive_path, os.O_RDONLY)
    try:
        assert _read(alive) == b"x"
        program.control.socket.close()
        assert _read(alive) == b""
    finally:
        os.close(alive)
    program.process.wait()


def test_the_worker_is_gone(start: Any, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "alive")
    program = start(
        """
        import os, subprocess, sys
        def test_with_a_child():
            folder = os.path.join(os.path.dirname(__file__), "..")
            # Both hold the fifo open for writing: its reader sees the end when both are dead.
            descriptor = os.open(os.path.join(folder, "alive"), os.O_WRONLY)
            child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE,
                pass_fds=[descriptor])
            os.write(descriptor, b"x")
            child.wait()
        """
    )
    program.collect()
    queue = program.fork()
    queue.put(0)
    _ends_with_its_worker(program, tmp_path / "alive")
    assert queue.rows_until("finished")[-1] is None


_BLOCKED = """
    import os
    def block():
        folder = os.path.join(os.path.dirname(__file__), "..")
        descriptor = os.open(os.path.join(folder, "alive"), os.O_WRONLY)
        os.write(descriptor, b"x")
        with open(os.path.join(folder, "gate")): pass
"""


@pytest.mark.parametrize("where", ["collection", "spawned runner"])
def test_the_worker_is_gone_while_nobody_reads_control(start: Any, tmp_path: Path, where: str) -> None:
    os.mkfifo(tmp_path / "alive")
    os.mkfifo(tmp_path / "gate")
    if where == "collection":
        program = start(_BLOCKED + "    block()\n")
    else:
        program = start(_BLOCKED + "    def test_it(): block()\n", mode="runner", runner_id="gw0")
        program.collect()
        program.queues[0].put(0)
    _ends_with_its_worker(program, tmp_path / "alive")
    assert program.process.returncode == -signal.SIGKILL


def test_a_forked_child_that_strays_is_no_second_runner(start: Any, verdicts: Any) -> None:
    program = start(
        """
        import multiprocessing, os, sys
        def test_child_raises():
            if os.fork() == 0:
                raise ValueError("in the child")
            assert os.wait()[1] != 0
        def test_child_exits():
            if os.fork() == 0:
                sys.exit(0)
            os.wait()
        def test_pool():
            context = multiprocessing.get_context("fork")
            with context.Pool(1) as pool:
                assert pool.map(abs, [-1, 2]) == [1, 2]
        def test_last(): pass
        """,
    )
    program.collect()
    queue = program.fork()
    rows = queue.run(0, 1, 2, 3)
    assert verdicts(rows) == {0: "passed", 1: "passed", 2: "passed", 3: "passed"}
    assert queue.end() == [["finished"]]
