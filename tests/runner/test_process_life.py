"""What a forked process is and leaves: base temporary directory, handlers, random states, warnings."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def test_base_temporary_directories(start: Any, verdicts: Any, tmp_path: Path, any_python: str) -> None:
    program = start(
        "def test_it(tmp_path, tmp_path_factory):\n    (tmp_path_factory.getbasetemp() / 'mark').touch()\n",
        f"--basetemp={tmp_path / 'base'}",
        python=any_python,
    )
    assert program.collect()["basetemp"] == str(tmp_path / "base")
    for slot in (0, 1):
        queue = program.fork(slot)
        assert verdicts(queue.run(0)) == {0: "passed"}
        queue.end()
    program.finish()
    assert sorted(path.name for path in (tmp_path / "base").iterdir()) == [".fleetest-run", "popen-gw0", "popen-gw1"]
    assert (tmp_path / "base" / "popen-gw1" / "mark").exists()


def test_without_temporary_directories(start: Any, verdicts: Any) -> None:
    program = start("def test_it(): pass\n", "-p", "no:tmpdir")
    assert program.collect()["basetemp"] is None
    assert verdicts(program.fork().run(0)) == {0: "passed"}


def test_exit_handlers_run_where_they_were_registered(start: Any, tmp_path: Path, any_python: str) -> None:
    program = start(
        """
        import atexit, os, tempfile
        shared = tempfile.TemporaryDirectory()
        notes = os.path.join(os.path.dirname(__file__), "notes")
        def note(text):
            with open(notes, "a") as file:
                file.write(text + " %d\\n" % os.path.isdir(shared.name))
        atexit.register(note, "template")
        class Thing: pass
        def test_it():
            import weakref
            atexit.register(note, "runner")
            global thing
            thing = Thing()
            weakref.finalize(thing, note, "finalizer")
            assert os.path.isdir(shared.name)
        """,
        python=any_python,
    )
    program.collect()
    for slot in (0, 1):
        queue = program.fork(slot)
        queue.run(0)
        queue.end()
    program.finish()
    notes = (tmp_path / "suite" / "notes").read_text().splitlines()
    assert sorted(notes[:4]) == ["finalizer 1", "finalizer 1", "runner 1", "runner 1"]
    assert notes[4:] == ["template 1"]


def test_random_states_differ_between_runners(start: Any) -> None:
    program = start(
        """
        import random, secrets, uuid
        def test_it(record_property):
            record_property("drawn", random.random())
        """
    )
    program.collect()
    drawn = {str(program.fork(slot).run(0)[0][-1][0]["data"]) for slot in (0, 1)}
    assert len(drawn) == 2


def test_warnings_of_tests(start: Any) -> None:
    program = start(
        """
        import warnings, pytest
        class OwnWarning(UserWarning): pass
        def test_warns(): warnings.warn(OwnWarning("careful"))
        @pytest.mark.filterwarnings("error")
        def test_error(): warnings.warn("bad")
        """
    )
    program.collect()
    warning, passed, failed = program.fork().run(0, 1)
    assert warning[0] == "warning"
    expected = {"message": "careful", "category": "OwnWarning", "module": "test_it", "when": "runtest"}
    assert expected.items() <= warning[1].items()
    assert warning[1]["nodeid"] == program.ids[0]
    assert passed[0] == "passed"
    assert failed[2] == "failed"


def test_the_runner_leads_a_session_and_holds_no_foreign_descriptors(start: Any, verdicts: Any) -> None:
    program = start(
        """
        import os, stat
        def test_it():
            assert os.getsid(0) == os.getpid() == os.getpgid(0)
            sockets = [fd for fd in map(int, os.listdir("/proc/self/fd"))
                if os.path.exists("/proc/self/fd/%d" % fd) and stat.S_ISSOCK(os.fstat(fd).st_mode)]
            assert len(sockets) == 2
            assert not any(os.get_inheritable(fd) for fd in sockets)
        """
    )
    program.collect()
    first, second = program.fork(0), program.fork(1)
    assert verdicts(first.run(0)) == verdicts(second.run(0)) == {0: "passed"}


def test_hooks_of_the_session_run_once_per_process(start: Any, tmp_path: Path) -> None:
    program = start(
        {
            "conftest.py": """
            import os
            def note(text):
                with open(os.path.join(os.path.dirname(__file__), "notes"), "a") as notes:
                    notes.write(text + os.environ.get("PYTEST_XDIST_WORKER", "") + "\\n")
            def pytest_configure(): note("configure")
            def pytest_sessionstart(): note("sessionstart")
            def pytest_sessionfinish(exitstatus): note("sessionfinish%d" % exitstatus)
            def pytest_unconfigure(): note("unconfigure")
            """,
            "test_it.py": "def test_it(): assert 0\n",
        },
        start_method="fork",
    )
    program.collect()
    queue = program.fork()
    queue.run(0)
    queue.end()
    program.finish()
    assert (tmp_path / "suite" / "notes").read_text().split() == [
        "configure",
        "sessionstart",
        "sessionfinish1gw0",
        "unconfiguregw0",
    ]


def test_plugins_talk_through_workerinput_and_workeroutput(start: Any) -> None:
    program = start(
        {
            "conftest.py": """
            def pytest_configure(config):
                config.seed = config.workerinput["seed"]
            def pytest_sessionfinish(session):
                session.config.workeroutput["answer"] = (session.config.seed + 1,)
            """,
            "test_it.py": "def test_it(): pass\n",
        },
        workerinput={"seed": 41},
    )
    program.collect()
    queue = program.fork()
    queue.run(0)
    assert queue.end() == [["finished", {"answer": {"$tuple": [42]}}]]


def test_peak_memory_is_that_of_the_test(start: Any) -> None:
    program = start(
        """
        def test_much(): bytearray(200_000_000)
        def test_little(): pass
        """
    )
    program.collect()
    much, little = program.fork().run(0, 1)
    assert much[7] - little[7] > 150_000
