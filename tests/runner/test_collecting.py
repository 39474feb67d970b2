"""What collection says reaches the worker as pytest would have said it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fleetest.processes.frames import from_portable

_TEST = "def test_it(): pass\n"


@pytest.mark.parametrize(
    ("files", "args", "kind", "text", "status"),
    [
        ({"test_it.py": _TEST}, ["absent.py"], "usage_error", "file or directory not found: absent.py", 4),
        ({"test_it.py": _TEST}, ["test_it.py::test_no"], "usage_error", "not found:", 4),
        ({"test_it.py": _TEST}, ["--no-such-option"], "usage_error", "unrecognized arguments: --no-such-option", 4),
        ({"test_it.py": _TEST}, ["-k", "a b ("], "usage_error", "Wrong expression passed to '-k'", 4),
        ({"conftest.py": "import absent_module"}, [], "usage_error", "ImportError while loading conftest", 4),
        ({"test_it.py": "def test("}, [], "collection_errors", "1 error during collection", 2),
        (
            {"test_a.py": "raise ValueError", "test_b.py": "import absent"},
            [],
            "collection_errors",
            "2 errors during collection",
            2,
        ),
        (
            {"conftest.py": "import pytest\ndef pytest_collection(): pytest.exit('enough', 7)"},
            [],
            "exit",
            "enough",
            7,
        ),
        ({"test_it.py": "raise KeyboardInterrupt"}, [], "interrupted", "", 2),
        (
            {"conftest.py": "def pytest_collection_modifyitems(): raise ValueError('broken plugin')"},
            [],
            "internal_error",
            "broken plugin",
            3,
        ),
        (
            {"conftest.py": "def pytest_collection_modifyitems(session): session.shouldstop = 'enough'"},
            ["--version"],
            "internal_error",
            "pytest ended with exit status 0 before any test could run",
            0,
        ),
    ],
)
def test_failures(start: Any, files: dict[str, str], args: list[str], kind: str, text: str, status: int) -> None:
    program = start(files, *args)
    failed = program.receive("failed", "collected")
    assert (failed["type"], failed.get("kind")) == ("failed", kind), failed
    assert text in failed["text"]
    assert not failed["text"].startswith("ERROR")
    assert failed["exit_status"] == status
    assert program.control.receive() is None
    program.process.wait()
    assert "INTERNALERROR" not in program.output()


@pytest.mark.parametrize(
    ("files", "args", "text"),
    [
        ({"conftest.py": "import absent_module"}, [], "ImportError while loading conftest"),
        ({}, ["--no-such-option"], "unrecognized arguments: --no-such-option"),
        ({}, ["absent.py"], "file or directory not found: absent.py"),
    ],
)
def test_usage_errors_on_every_version(
    start: Any, any_python: str, files: dict[str, str], args: list[str], text: str
) -> None:
    failed = start(files, *args, python=any_python).receive("failed", "collected")
    assert (failed["type"], failed["kind"], failed["exit_status"]) == ("failed", "usage_error", 4)
    assert text in failed["text"]


def test_collect_reports_come_as_they_happen(start: Any) -> None:
    program = start(
        {
            "test_a.py": "import pytest\npytest.skip('not here', allow_module_level=True)",
            "test_b.py": "raise ValueError('broken module')",
            "test_c.py": _TEST,
        },
        "--continue-on-collection-errors",
    )
    collected = program.collect()
    reports = [from_portable(frame["report"]) for frame in program.frames if frame["type"] == "collect_report"]
    assert [(report["$report_type"], report["nodeid"], report["outcome"]) for report in reports] == [
        ("CollectReport", "test_a.py", "skipped"),
        ("CollectReport", "test_b.py", "failed"),
    ]
    assert "broken module" in str(reports[1]["longrepr"])
    assert [item[0] for item in collected["items"]] == ["test_c.py::test_it"]
    (row,) = program.fork().run(0)
    assert row[0] == "passed"


def test_selection_is_pytests(start: Any) -> None:
    program = start(
        {
            "pytest.ini": "[pytest]\nmarkers = slow\n",
            "test_it.py": "import pytest\ndef test_a(): pass\n@pytest.mark.slow\ndef test_b(): pass\ndef test_c(): pass\n",
            "conftest.py": """
            import warnings
            def pytest_report_collectionfinish(items): return ["one", "%d items" % len(items)]
            def pytest_collection_finish(): warnings.warn("from collection")
            """,
        },
        "-m",
        "not slow",
        "-k",
        "not test_c",
    )
    collected = program.collect()
    assert program.ids == ["test_it.py::test_a"]
    assert sorted(collected["deselected"]) == ["test_it.py::test_b", "test_it.py::test_c"]
    assert collected["report_lines"] == ["one", "1 items"]
    warnings = [frame["warning"] for frame in program.frames if frame["type"] == "warning"]
    (warning,) = [warning for warning in warnings if warning["message"] == "from collection"]
    assert (warning["category"], warning["when"]) == ("UserWarning", "collect")
    assert warning["filename"].endswith("conftest.py")


def test_last_failed_is_read_and_never_written(start: Any, tmp_path: Path) -> None:
    suite = tmp_path / "suite"
    suite.mkdir()
    (suite / "pytest.ini").touch()
    (suite / "test_it.py").write_text("def test_a(): assert 0\ndef test_b(): assert 0\n")
    cache = suite / ".pytest_cache" / "v" / "cache" / "lastfailed"
    cache.parent.mkdir(parents=True)
    cache.write_text('{"test_it.py::test_b": true}')
    program = start(suite, "-p", "cacheprovider", "--lf")
    program.collect()
    assert program.ids == ["test_it.py::test_b"]
    queue = program.fork()
    queue.run(0)
    queue.end()
    program.finish()
    assert cache.read_text() == '{"test_it.py::test_b": true}'


def test_nothing_collected(start: Any) -> None:
    program = start({})
    assert program.collect()["items"] == []
    program.finish()
    assert program.process.returncode == 0


def test_doctests_and_import_modes(start: Any, verdicts: Any) -> None:
    program = start(
        {
            "module.py": '''
            def double(x):
                """
                >>> double(2)
                4
                >>> double(3)
                7
                """
                return 2 * x
            ''',
            "notes.txt": ">>> 1 + 1\n2\n",
        },
        "--doctest-modules",
        "--doctest-glob=*.txt",
        "--import-mode=importlib",
    )
    program.collect()
    found = verdicts(program.fork().run(0, 1))
    assert {program.ids[position]: verdict for position, verdict in found.items()} == {
        "module.py::module.double": "failed",
        "notes.txt::notes.txt": "passed",
    }


def test_an_interpreter_without_pytest_says_so(start: Any, tmp_path: Path) -> None:
    blocker = tmp_path / "blocker"
    blocker.mkdir()
    (blocker / "pytest.py").write_text("raise ImportError('No module named pytest')")
    import sys

    program = start(_TEST, path_entries=[str(blocker), *sys.path])
    failed = program.receive("failed")
    assert failed["kind"] == "no_pytest"
    assert "No module named pytest" in failed["text"]


def test_fleet_settings_where_fleetest_is_not_installed(start: Any, any_python: str) -> None:
    program = start(
        {
            "pytest.ini": """
            [pytest]
            addopts = --fleet 4 --fleet-quiet --strict-markers --strict-config
            fleet_history = no
            """.replace("            ", ""),
            "test_it.py": """
            import pytest
            @pytest.mark.fleet(gpus=1)
            @pytest.mark.xdist_group("a")
            def test_it(): pass
            """,
        },
        python=any_python,
    )
    program.collect()
    (row,) = program.fork().run(0)
    assert row[0] == "passed"


def test_show_and_live_logging_need_a_terminal(start: Any, verdicts: Any) -> None:
    program = start(
        "import logging\ndef test_it(tmp_path): logging.warning('x')\n",
        "--setup-show",
        "-o",
        "log_cli=true",
        "-v",
    )
    program.collect()
    assert verdicts(program.fork().run(0)) == {0: "passed"}


def test_environment_directory_and_path(start: Any, verdicts: Any, tmp_path: Path) -> None:
    extra = tmp_path / "extra"
    extra.mkdir()
    (extra / "only_there.py").touch()
    import sys

    program = start(
        """
        import os, sys
        import only_there
        def test_it(pytestconfig):
            assert os.environ["SOME_NAME"] == "value"
            assert os.getcwd() == os.path.dirname(__file__) == str(pytestconfig.invocation_params.dir)
            assert sys.argv == ["-c"] and "" not in sys.path
            assert not any("fleetest" in name for name in sys.modules if name[0] != "_")
        """,
        environment={"SOME_NAME": "value"},
        path_entries=[str(extra), *sys.path],
    )
    program.collect()
    assert verdicts(program.fork().run(0)) == {0: "passed"}
