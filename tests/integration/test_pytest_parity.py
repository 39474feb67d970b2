"""``pytest --fleet`` beside plain pytest, where plugins and less common options meet it."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree

import pytest

from fleetest.client.replay import Replayer
from fleetest.core.model import AttemptResult, LeaseId, TaskId, Verdict
from fleetest.wire.messages import ItemInfo, Outcome

pytest_plugins = ["pytester"]

_NO_CACHE = ("-p", "no:cacheprovider", "--fleet-history=none")


def test_output_past_the_capture_keeps_its_stream(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys
        def test_it():
            print("for stdout")
            print("for stderr", file=sys.stderr)
        """
    )
    result = pytester.runpytest_subprocess("-s", "--fleet=1", *_NO_CACHE)
    assert "for stdout" in result.stdout.str()
    assert "for stderr" in result.stderr.str()
    assert "for stderr" not in result.stdout.str()


def test_output_past_the_capture_is_seen_without_a_terminal_reporter(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(): print('for stdout')")
    result = pytester.runpytest_subprocess("-s", "-p", "no:terminal", "--fleet=1", *_NO_CACHE)
    assert "for stdout" in result.stdout.str()
    assert result.ret == 0


def test_a_session_that_a_plugin_stops_reads_as_in_plain_pytest(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        def pytest_runtest_logreport(report): pass
        def pytest_runtest_teardown(item): item.session.shouldstop = "enough of this"
        """
    )
    pytester.makepyfile("def test_it(): pass")
    for fleet in ("no", "1"):
        result = pytester.runpytest_subprocess(f"--fleet={fleet}", *_NO_CACHE)
        assert result.ret == 2
        result.stdout.fnmatch_lines(["*! Interrupted: enough of this !*", "*1 passed*"])
        assert "KeyboardInterrupt" not in result.stdout.str()


def test_an_internal_error_of_a_runner_is_in_the_junit_file(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("def pytest_collection_modifyitems(items): raise RuntimeError('hook broke')")
    pytester.makepyfile("def test_it(): pass")
    result = pytester.runpytest_subprocess("--fleet=1", "--junitxml=it.xml", *_NO_CACHE)
    assert result.ret == 3
    result.stdout.fnmatch_lines(["INTERNALERROR> *RuntimeError: hook broke"])
    (case,) = ElementTree.parse(pytester.path / "it.xml").getroot().iter("testcase")
    assert (case.get("classname"), case.get("name")) == ("pytest", "internal")
    assert "hook broke" in str(case[0].text)


def test_a_key_of_workerinput_that_only_xdist_sets_is_one_clear_line(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        def pytest_configure(config):
            if hasattr(config, "workerinput"):
                config.seed = config.workerinput["seed_of_the_controller"]
        """
    )
    pytester.makepyfile("def test_it(): pass")
    result = pytester.runpytest_subprocess("--fleet=1", *_NO_CACHE)
    assert result.ret == 4
    result.stderr.fnmatch_lines(["ERROR: *conftest.py:3 reads workerinput?'seed_of_the_controller'?,*--fleet=no"])
    assert "INTERNALERROR" not in result.stdout.str()


def test_a_missing_key_of_workerinput_that_is_handled_harms_nobody(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        def pytest_configure(config):
            if not hasattr(config, "workerinput"):
                return
            try:
                config.workerinput["mine"]
            except KeyError:
                config.mine = config.workerinput.get("mine", 3)
            assert "mine" not in config.workerinput
        def pytest_collection_modifyitems(items):
            {}["another"]
        """
    )
    pytester.makepyfile("def test_it(): pass")
    result = pytester.runpytest_subprocess("--fleet=1", *_NO_CACHE)
    assert result.ret == 3
    result.stdout.fnmatch_lines(["INTERNALERROR> KeyError: 'another'"])


def test_stepwise_is_refused_with_the_way_out(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(): pass")
    result = pytester.runpytest_subprocess("--sw", "--fleet=2")
    assert result.ret == 4
    assert result.stderr.str().startswith("fleetest: --stepwise ")
    assert pytester.runpytest_subprocess("--sw", "--fleet=2", "--fleet=no").ret == 0


FIXTURES = """
    import logging
    import pytest

    @pytest.fixture
    def thing():
        logging.getLogger("own").warning("from the fixture")
        return 1

    def test_it(thing):
        logging.getLogger("own").warning("from the test")
"""


@pytest.mark.parametrize("flag", ["--setup-plan", "--setup-only"])
def test_plans_of_fixtures_are_those_of_plain_pytest(pytester: pytest.Pytester, flag: str) -> None:
    pytester.makepyfile(FIXTURES)
    result = pytester.runpytest_subprocess(flag, "--fleet=2", *_NO_CACHE)
    result.stdout.fnmatch_lines(["*SETUP    F thing", "*::test_it (fixtures used: *thing)*", "*TEARDOWN F thing"])


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_fixtures_are_shown_as_they_are_set_up(pytester: pytest.Pytester, start_method: str) -> None:
    pytester.makepyfile(FIXTURES)
    result = pytester.runpytest_subprocess(
        "--setup-show", "--fleet=1", f"--fleet-start-method={start_method}", *_NO_CACHE
    )
    result.stdout.fnmatch_lines(["*SETUP    F thing", "*::test_it (fixtures used: *thing)*", "*TEARDOWN F thing*"])
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_live_logs_are_shown_once_and_name_their_test(pytester: pytest.Pytester, start_method: str) -> None:
    pytester.makepyfile(FIXTURES)
    result = pytester.runpytest_subprocess(
        "--log-cli-level=WARNING", "--fleet=1", f"--fleet-start-method={start_method}", *_NO_CACHE
    )
    result.stdout.fnmatch_lines(
        [
            "*- live log setup gw0 *::test_it -*",
            "WARNING*from the fixture",
            "*- live log call gw0 *::test_it -*",
            "WARNING*from the test",
            "*PASSED*::test_it*",
        ]
    )
    assert result.stdout.str().count("from the test") == 1


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_the_log_file_has_every_record_and_nothing_of_an_earlier_run(
    pytester: pytest.Pytester, start_method: str
) -> None:
    pytester.makepyfile(
        """
        import logging
        import pytest

        @pytest.mark.parametrize("number", range(20))
        def test_it(number):
            logging.getLogger("own").warning("record %d", number)
        """
    )
    log = pytester.path / "logs" / "it.txt"
    for _ in range(2):
        result = pytester.runpytest_subprocess(
            f"--log-file={log}", "--fleet=3", f"--fleet-start-method={start_method}", *_NO_CACHE
        )
        result.assert_outcomes(passed=20)
        records = sorted(int(line.split()[-1]) for line in log.read_text().splitlines())
        assert records == list(range(20))


def test_a_log_file_that_cannot_be_written_is_an_error_as_in_plain_pytest(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(): pass")
    pytester.mkdir("directory")
    plain = pytester.runpytest_subprocess("--log-file=directory", "--fleet=no", *_NO_CACHE)
    result = pytester.runpytest_subprocess("--log-file=directory", "--fleet=1", *_NO_CACHE)
    assert plain.ret != 0
    assert result.ret != 0
    assert "IsADirectoryError" in result.stdout.str() + result.stderr.str()


def test_reporters_find_the_configuration_in_deselected_items(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        def pytest_deselected(items):
            assert items[0].config.pluginmanager is not None
        """
    )
    pytester.makepyfile("def test_a(): pass\ndef test_b(): pass\n")
    result = pytester.runpytest_subprocess("-k", "test_a", "--fleet=1", *_NO_CACHE)
    result.assert_outcomes(passed=1, deselected=1)


def test_a_test_with_failed_subtests_fails_as_in_plain_pytest(pytester: pytest.Pytester) -> None:
    pytest.importorskip("_pytest.subtests")
    pytester.makepyfile(
        """
        import unittest

        def test_it(subtests):
            for number in range(3):
                with subtests.test(number=number):
                    assert number != 1

        class TestUnit(unittest.TestCase):
            def test_unit(self):
                for number in range(3):
                    with self.subTest(number=number):
                        self.assertNotEqual(number, 1)
        """
    )
    plain = pytester.runpytest_subprocess("--fleet=no", *_NO_CACHE).parseoutcomes()
    result = pytester.runpytest_subprocess("--fleet=2", *_NO_CACHE)
    assert result.parseoutcomes() == plain
    result.stdout.fnmatch_lines(["*_ test_it _*", "contains 1 failed subtest"])


class Recorder:
    def __init__(self) -> None:
        self.reports: list[pytest.TestReport] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.reports.append(report)


def test_reports_of_a_kind_that_only_the_runner_knows_do_not_end_the_run(pytester: pytest.Pytester) -> None:
    """A plugin of the runner's environment makes them, or a newer pytest: what they have in common is replayed."""
    config = pytester.parseconfig()
    recorder = Recorder()
    config.pluginmanager.register(recorder)
    data = {
        "$report_type": "SomebodysReport",
        "nodeid": "test_it.py::test",
        "location": {"$tuple": ["test_it.py", 0, "test"]},
        "keywords": {"test": 1},
        "outcome": "failed",
        "longrepr": {"of": "its own kind"},
        "when": "call",
        "sections": [{"$tuple": ["Captured stdout call", "printed"]}],
        "duration": 0.25,
        "somebodys": 1,
    }
    pairs = [{"data": {"$dict": [list(pair) for pair in data.items()]}, "text": "assert somebody"}]
    replayer = Replayer(config, "a" * 32)
    task = TaskId("0")
    item = ItemInfo(node_id="test_it.py::test", path="test_it.py", line=0, domain="test", keywords=("test",))
    replayer.add_items([task], [item])
    result = AttemptResult(
        lease_id=LeaseId("1"), verdict=Verdict.FAILED, started_at=1.0, reports=json.dumps(pairs).encode()
    )
    replayer.outcome(Outcome(task_id=task, attempt=1, verdict=Verdict.FAILED, result=result, is_final=True))
    (report,) = recorder.reports
    assert (report.outcome, report.when, report.longreprtext) == ("failed", "call", "[fleet]\nassert somebody")
    assert report.capstdout == "printed"


@pytest.mark.parametrize("ci", [True, False])
def test_the_short_summary_is_that_of_plain_pytest(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, ci: bool
) -> None:
    """On a CI system pytest prints messages whole there: of what has none, nothing."""
    pytester.makepyfile(
        test_all="""
        import pytest
        def documented():
            '''
            >>> 1
            2
            '''
        def test_lacks(nobody_has_it): pass
        def test_asserts(): assert [1] == [2], "a message\\nof two lines"
        def test_fails(): pytest.fail("in words", pytrace=False)
        @pytest.mark.xfail(strict=True, reason="a reason")
        def test_passes(): pass
        """,
        test_broken="import nobody_has_this",
    )
    if ci:
        monkeypatch.setenv("CI", "true")
    options = ("--doctest-modules", "--continue-on-collection-errors", "--maxfail=9", "-p", "no:cacheprovider")

    def summary(*args: str) -> set[str]:
        lines = pytester.runpytest_subprocess(*options, *args).outlines
        start = next(number for number, line in enumerate(lines) if "short test summary info" in line)
        return set(lines[start:-1])

    plain = summary()
    assert len(plain) > 6
    assert summary("--fleet=2") == plain
