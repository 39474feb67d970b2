"""Who asks for the worker id before there are runners is noticed, and threads too: such suites are not forked."""

from __future__ import annotations

import os
from typing import Any

import pytest

_TEST = "def test_it(): pass\n"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import os\nWORKER = os.environ.get('PYTEST_XDIST_WORKER')", "conftest.py:2 reads PYTEST_XDIST_WORKER"),
        ("import os\nif 'PYTEST_XDIST_WORKER' in os.environ: pass", "conftest.py:2 reads PYTEST_XDIST_WORKER"),
        ("from os import getenv\n\ngetenv('PYTEST_XDIST_WORKER', 'x')", "conftest.py:3 reads PYTEST_XDIST_WORKER"),
        (
            "from os import environ\ntry: environ['PYTEST_XDIST_WORKER']\nexcept KeyError: pass",
            "conftest.py:2 reads PYTEST_XDIST_WORKER",
        ),
        (
            "def pytest_configure(config):\n    config.workerinput['workerid']",
            'conftest.py:2 reads workerinput["workerid"]',
        ),
        (
            "def pytest_configure(config):\n    config.workerinput.get('workerid')",
            'conftest.py:2 reads workerinput["workerid"]',
        ),
        (
            "def pytest_configure(config):\n    dict(config.workerinput)",
            'conftest.py:2 reads workerinput["workerid"]',
        ),
        (
            "def pytest_configure(config):\n    {**config.workerinput}",
            'conftest.py:2 reads workerinput["workerid"]',
        ),
    ],
)
def test_early_reads_are_noticed(start: Any, code: str, reason: str) -> None:
    program = start({"conftest.py": code, "test_it.py": _TEST})
    collected = program.collect()
    assert collected["start_method"] == "spawn"
    assert collected["reason"] == f"{reason} before runners exist"


def test_a_suite_that_must_not_be_forked_is_not(start: Any) -> None:
    program = start({"conftest.py": "import os\nos.getenv('PYTEST_XDIST_WORKER')", "test_it.py": _TEST})
    reason = program.collect()["reason"]
    with pytest.raises(AssertionError, match="fork_failed"):
        program.fork()
    assert program.frames[-1] == {"type": "fork_failed", "slot": 0, "reason": reason}
    program.finish()
    assert program.process.returncode == 0


def test_fork_asked_for_wins(start: Any, verdicts: Any) -> None:
    program = start(
        {"conftest.py": "import os\nos.getenv('PYTEST_XDIST_WORKER')", "test_it.py": _TEST}, start_method="fork"
    )
    assert program.collect()["start_method"] == "fork"
    assert verdicts(program.fork().run(0)) == {0: "passed"}


def test_spawn_asked_for_wins(start: Any) -> None:
    collected = start(_TEST, start_method="spawn").collect()
    assert (collected["start_method"], collected["reason"]) == ("spawn", "asked for")


def test_harmless_reads_do_not_count(start: Any, verdicts: Any, any_python: str) -> None:
    program = start(
        {
            "conftest.py": """
            import os, pytest
            COPY = dict(os.environ)
            COUNT = os.environ["PYTEST_XDIST_WORKER_COUNT"]
            def pytest_configure(config):
                assert config.workerinput["workercount"] == 2
                assert "workerid" in config.workerinput
            @pytest.fixture(scope="session")
            def name(request):
                return os.environ["PYTEST_XDIST_WORKER"], request.config.workerinput["workerid"]
            """,
            "test_it.py": """
            import os
            def test_it(name, worker_id):
                assert name == ("gw4", "gw4") and worker_id == "gw4"
                assert os.getenv("PYTEST_XDIST_WORKER") == "gw4"
                assert type(os.environ).__module__ == "os" and type(os.environ).__name__ == "_Environ"
            """,
        },
        python=any_python,
    )
    assert program.collect()["start_method"] == "fork"
    assert verdicts(program.fork(0, "gw4").run(0)) == {0: "passed"}


def test_a_spawned_runner_has_its_id_from_the_beginning(start: Any, verdicts: Any, tmp_path: Any) -> None:
    program = start(
        {
            "conftest.py": """
            import os
            WORKER = os.environ["PYTEST_XDIST_WORKER"]
            def pytest_configure(config):
                config.found = WORKER, config.workerinput["workerid"]
            """,
            "test_it.py": """
            def test_it(request, worker_id, tmp_path):
                assert request.config.found == ("gw2", "gw2") and worker_id == "gw2"
                assert tmp_path.parent.name == "popen-gw2"
            """,
        },
        mode="runner",
        runner_id="gw2",
        basetemp=str(tmp_path),
    )
    program.collect()
    assert verdicts(program.queues[0].run(0)) == {0: "passed"}


def test_threads_forbid_a_fork(start: Any) -> None:
    program = start(
        """
        import threading
        thread = threading.Thread(target=threading.Event().wait, name="poller", daemon=True)
        thread.start()
        def test_it(): pass
        """
    )
    collected = program.collect()
    assert collected["start_method"] == "spawn"
    assert collected["reason"] == "threads are alive after collection: 'poller'"


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="native threads are seen in /proc only")
def test_native_threads_forbid_a_fork(start: Any) -> None:
    program = start(
        """
        import _thread
        gate = _thread.allocate_lock()
        gate.acquire()
        _thread.start_new_thread(gate.acquire, ())
        def test_it(): pass
        """
    )
    collected = program.collect()
    assert collected["start_method"] == "spawn"
    assert collected["reason"] == "1 native threads are alive after collection"


def test_a_read_through_pytest_xdist_is_its_callers(start: Any) -> None:
    pytest.importorskip("xdist")
    code = "import xdist\ndef pytest_sessionstart(session):\n    xdist.get_xdist_worker_id(session)\n"
    collected = start({"conftest.py": code, "test_it.py": _TEST}, "-p", "xdist").collect()
    assert collected["reason"] == 'conftest.py:3 reads workerinput["workerid"] before runners exist'


def test_asking_whether_this_is_a_worker_is_no_read_of_its_id(start: Any) -> None:
    pytest.importorskip("xdist")
    code = "import xdist\ndef pytest_sessionstart(session):\n    assert xdist.is_xdist_worker(session)\n"
    assert start({"conftest.py": code, "test_it.py": _TEST}, "-p", "xdist").collect()["start_method"] == "fork"
