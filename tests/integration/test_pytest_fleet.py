"""``pytest --fleet`` beside plain pytest: the same outcomes, the same words, the same exit statuses."""

from __future__ import annotations

import gc
import os
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

EVERY_KIND = {
    "conftest.py": """
        import pytest

        @pytest.fixture(scope="session")
        def session_thing():
            return ["session"]

        @pytest.fixture(scope="module")
        def module_thing(session_thing):
            return [*session_thing, "module"]
    """,
    "test_kinds.py": """
        import os, sys, unittest, warnings
        import pytest

        def test_passes(module_thing):
            assert module_thing == ["session", "module"]

        def test_fails():
            print("printed before failing")
            left, right = {"a": 1}, {"a": 2}
            assert left == right

        @pytest.mark.skip(reason="not today")
        def test_skipped(): pass

        def test_skips_itself():
            pytest.skip("inside")

        @pytest.mark.xfail(reason="known")
        def test_xfails(): assert 0

        @pytest.mark.xfail(reason="fixed")
        def test_xpasses(): pass

        @pytest.fixture
        def broken(): raise RuntimeError("in setup")

        def test_setup_error(broken): pass

        @pytest.fixture
        def breaks_late():
            yield
            raise RuntimeError("in teardown")

        def test_teardown_error(breaks_late): pass

        @pytest.mark.parametrize("value", [1, "text", None, ("a", 2)], ids=repr)
        def test_parametrised(value): pass

        def test_warns():
            warnings.warn("mind the gap", UserWarning)

        class TestClass:
            @classmethod
            def setup_class(cls): cls.seen = []
            def test_first(self): self.seen.append(1)
            def test_second(self): assert self.seen == [1]

        class TestUnit(unittest.TestCase):
            def setUp(self): self.x = 1
            def test_ok(self): self.assertEqual(self.x, 1)
            def test_not_ok(self): self.assertEqual(self.x, 2)
            @unittest.skip("unit skip")
            def test_skip(self): pass

        def test_tmp_path(tmp_path):
            (tmp_path / "file").write_text("x")

        def test_properties(record_property):
            record_property("answer", 42)
    """,
    "sub/test_doc.py": """
        def double(x):
            '''
            >>> double(2)
            4
            >>> double(3)
            7
            '''
            return 2 * x
    """,
}


def make_suite(pytester: pytest.Pytester, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        path = pytester.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = text.splitlines()
        indent = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
        path.write_text("\n".join(line[indent:] for line in lines) + "\n")


def outcomes(junit: Path) -> dict[tuple[str, str], list[str]]:
    """Outcome tags by test from a JUnit file."""
    cases = ElementTree.parse(junit).getroot().iter("testcase")
    found: dict[tuple[str, str], list[str]] = {}
    for case in cases:
        tags = sorted(child.tag for child in case if child.tag in ("failure", "error", "skipped", "properties"))
        found.setdefault((case.get("classname", ""), case.get("name", "")), []).extend(tags or ["passed"])
    return found


def summary_counts(result: pytest.RunResult) -> dict[str, int]:
    return {word: count for word, count in result.parseoutcomes().items() if word != "seconds"}


def run_both(pytester: pytest.Pytester, *args: str, fleet: str = "2") -> tuple[pytest.RunResult, pytest.RunResult]:
    plain = pytester.runpytest_subprocess(*args, "--junitxml=plain.xml", "-p", "no:cacheprovider")
    fleeted = pytester.runpytest_subprocess(*args, "--junitxml=fleet.xml", "-p", "no:cacheprovider", "--fleet", fleet)
    return plain, fleeted


@pytest.mark.parametrize("capture", ["fd", "sys", "no", "tee-sys"])
def test_every_kind_of_outcome_is_that_of_plain_pytest(pytester: pytest.Pytester, capture: str) -> None:
    make_suite(pytester, EVERY_KIND)
    plain, fleeted = run_both(pytester, "--doctest-modules", f"--capture={capture}", "-o", "junit_family=xunit1")
    assert outcomes(pytester.path / "fleet.xml") == outcomes(pytester.path / "plain.xml")
    assert summary_counts(fleeted) == summary_counts(plain)
    assert fleeted.ret == plain.ret == 1
    if capture != "no":
        # Failures are told with the same assertion introspection and captured output.
        fleeted.stdout.fnmatch_lines(["*printed before failing*"])
    fleeted.stdout.fnmatch_lines(["*Differing items:*", "*UserWarning: mind the gap*"])


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_both_start_methods_agree(pytester: pytest.Pytester, start_method: str) -> None:
    make_suite(pytester, EVERY_KIND)
    run_both(pytester, "--doctest-modules")
    pytester.runpytest_subprocess(
        "--doctest-modules", "--junitxml=other.xml", "--fleet", "3", "--fleet-start-method", start_method
    )
    assert outcomes(pytester.path / "other.xml") == outcomes(pytester.path / "plain.xml")


@pytest.mark.parametrize(
    ("text", "args", "status"),
    [
        ("def test(): pass", (), 0),
        ("def test(): assert 0", (), 1),
        ("def test(): raise KeyboardInterrupt", (), 2),
        ("import missing_module_of_nobody", (), 2),
        ("def test(): pass", ("no/such/path.py",), 4),
        ("def test(): pass", ("test_it.py::nothing",), 4),
        ("def test(): pass", ("--no-such-option",), 4),
        ("x = 1", (), 5),
        ("def test(): pass", ("-k", "nothing_matches"), 5),
        ("import pytest\ndef test(): pytest.exit('enough', returncode=7)", (), 7),
        ("import pytest\npytest.exit('at import', returncode=9)", (), 2),
    ],
)
def test_exit_statuses_are_those_of_plain_pytest(
    pytester: pytest.Pytester, text: str, args: tuple[str, ...], status: int
) -> None:
    (pytester.path / "test_it.py").write_text(text + "\n")
    plain, fleeted = run_both(pytester, *args)
    assert (int(plain.ret), int(fleeted.ret)) == (status, status)


def test_an_internal_error_of_a_plugin_ends_with_status_3(pytester: pytest.Pytester) -> None:
    make_suite(
        pytester,
        {
            "conftest.py": """
                def pytest_runtest_setup(item): pass
                def pytest_runtest_protocol(item, nextitem):
                    raise RuntimeError("plugin broke")
            """,
            "test_it.py": "def test(): pass",
        },
    )
    result = pytester.runpytest_subprocess("--fleet", "2")
    assert result.ret == 3
    result.stdout.fnmatch_lines(["INTERNALERROR> *plugin broke*"])


def test_collection_errors_read_as_in_plain_pytest(pytester: pytest.Pytester) -> None:
    make_suite(pytester, {"test_bad.py": "import missing_module_of_nobody", "test_good.py": "def test(): pass"})
    plain, fleeted = run_both(pytester)
    assert summary_counts(fleeted) == summary_counts(plain) == {"errors": 1}
    for result in (plain, fleeted):
        result.stdout.fnmatch_lines(
            [
                "collected 1 item / 1 error",
                "*ERROR collecting test_bad.py*",
                "*No module named 'missing_module_of_nobody'",
                "*Interrupted: 1 error during collection*",
            ]
        )
    going_on = pytester.runpytest_subprocess("--fleet", "2", "--continue-on-collection-errors")
    going_on.assert_outcomes(passed=1, errors=1)


BROKEN = "import missing_module_of_nobody"
SOUND = "import warnings\nwarnings.warn('of the import')\ndef test_1(): pass\ndef test_2(): pass\n"
BROKEN_INSIDE = """
import pytest

def test_1(): pass
class TestBroken:
    @pytest.mark.parametrize("missing", [1])
    def test_it(self): pass
class TestSound:
    def test_it(self): pass
"""


@pytest.mark.parametrize(
    ("args", "sources"),
    [
        (["-x"], [BROKEN, BROKEN]),
        (["--maxfail=2"], [BROKEN, BROKEN, BROKEN]),
        (["-x"], [SOUND, BROKEN, SOUND]),
        (["-x"], [BROKEN_INSIDE]),
        (["-x", "--continue-on-collection-errors"], [SOUND, BROKEN, SOUND]),
        # Nothing is collected after the error: pytest stops in another way, or after one test.
        (["-x"], [SOUND, BROKEN]),
        (["-x", "--continue-on-collection-errors"], [SOUND, BROKEN]),
        (["--maxfail=2", "--continue-on-collection-errors"], [SOUND, BROKEN]),
    ],
    ids=["two", "three", "between", "inside", "between, go on", "last", "last, go on", "not too many"],
)
def test_fail_fast_holds_during_collection_as_in_plain_pytest(
    pytester: pytest.Pytester, args: list[str], sources: list[str]
) -> None:
    make_suite(pytester, {f"test_{number}.py": source for number, source in enumerate(sources)})
    plain, fleeted = run_both(pytester, *args)
    assert fleeted.ret == plain.ret
    assert summary_counts(fleeted) == summary_counts(plain)
    assert collection_lines(fleeted) == collection_lines(plain)


def collection_lines(result: pytest.RunResult) -> list[str]:
    """How many were collected, and why pytest stopped."""
    return [line for line in result.outlines if line.startswith(("collected ", "!!!"))]


@pytest.mark.parametrize(("flag", "failures"), [("-x", 1), ("--maxfail=2", 2)])
def test_fail_fast_reports_exactly_as_many_failures(pytester: pytest.Pytester, flag: str, failures: int) -> None:
    (pytester.path / "test_it.py").write_text("".join(f"def test_{n}(): assert 0\n" for n in range(20)))
    result = pytester.runpytest_subprocess("--fleet", "2", flag)
    assert result.ret == 1
    result.assert_outcomes(failed=failures)
    result.stdout.fnmatch_lines([f"*stopping after {failures} failures*"])


def test_fail_fast_stops_at_a_test_that_nobody_can_run(pytester: pytest.Pytester) -> None:
    nobody = "import pytest\n@pytest.mark.fleet(requires='cuda>=99')\ndef test_it(): pass\n"
    others = "".join(f"def test_{n}(): pass\n" for n in range(20))
    make_suite(pytester, {"test_a.py": others, "test_b.py": nobody})
    result = pytester.runpytest_subprocess("--fleet", "2", "-x")
    assert result.ret == 1
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*no worker has cuda>=99*", "*stopping after 1 failures*"])


def test_last_failed_first_and_only(pytester: pytest.Pytester) -> None:
    make_suite(pytester, {"test_it.py": "def test_a(): pass\ndef test_b(): assert 0\ndef test_c(): pass\n"})
    assert pytester.runpytest_subprocess("--fleet", "2").ret == 1
    only = pytester.runpytest_subprocess("--fleet", "2", "--lf")
    only.assert_outcomes(failed=1)
    only.stdout.fnmatch_lines(["run-last-failure: rerun previous 1 failure*"])
    pytester.runpytest_subprocess("--fleet", "1", "--ff", "-v").stdout.fnmatch_lines(
        ["*FAILED*test_b*", "*PASSED*test_a*"]
    )


def test_selection_and_settings(pytester: pytest.Pytester) -> None:
    make_suite(
        pytester,
        {
            "pytest.ini": "[pytest]\nmarkers = slow: takes long\n",
            "a/test_same.py": "import pytest\n@pytest.mark.slow\ndef test_slow(): pass\ndef test_quick(): pass\n",
            "b/test_same.py": "def test_other(request): assert request.config.getini('console_output_style') == 'count'\n",
        },
    )
    both = ("--import-mode=importlib", "-o", "console_output_style=count")
    pytester.runpytest_subprocess("--fleet", "2", *both).assert_outcomes(passed=3)
    marked = pytester.runpytest_subprocess("--fleet", "2", *both, "-m", "not slow")
    marked.assert_outcomes(passed=2, deselected=1)
    marked.stdout.fnmatch_lines(["collected 3 items / 1 deselected / 2 selected"])
    pytester.runpytest_subprocess("--fleet", "2", *both, "-k", "quick").assert_outcomes(passed=1, deselected=2)
    rooted = pytester.runpytest_subprocess("--fleet", "2", *both, "--rootdir", "a", "a")
    rooted.stdout.fnmatch_lines(["rootdir: */a"])
    rooted.assert_outcomes(passed=2)


def test_durations_and_the_runner_are_named(pytester: pytest.Pytester) -> None:
    make_suite(pytester, {"test_it.py": "def test_a(): pass\ndef test_b(): pass\n"})
    result = pytester.runpytest_subprocess("--fleet", "2", "-v", "--durations=0", "-vv")
    result.stdout.re_match_lines([r"\[gw\d\].*PASSED.*test_it.py::test_[ab].*"])
    result.stdout.fnmatch_lines(["*slowest durations*", "*s call *test_it.py::test_*"])


def test_output_is_seen_live_without_capture(pytester: pytest.Pytester) -> None:
    make_suite(pytester, {"test_it.py": "def test_a(): print('seen from the runner')\n"})
    result = pytester.runpytest_subprocess("--fleet", "2", "-s")
    result.stdout.fnmatch_lines(["*seen from the runner*"])


def test_a_test_can_ask_where_it_runs(pytester: pytest.Pytester) -> None:
    make_suite(
        pytester,
        {
            "test_it.py": """
                import os, re
                def test_ids(worker_id, testrun_uid, request):
                    assert re.fullmatch(r"gw\\d", worker_id)
                    assert os.environ["PYTEST_XDIST_WORKER"] == worker_id
                    assert os.environ["PYTEST_XDIST_WORKER_COUNT"] == "2"
                    assert os.environ["PYTEST_XDIST_TESTRUNUID"] == testrun_uid
                    assert request.config.workerinput["workerid"] == worker_id
            """
        },
    )
    pytester.runpytest_subprocess("--fleet", "2").assert_outcomes(passed=1)


def test_a_reader_of_the_runner_id_before_the_fork_is_named(pytester: pytest.Pytester) -> None:
    make_suite(
        pytester,
        {
            "conftest.py": """
                import os
                RUNNER = os.environ.get("PYTEST_XDIST_WORKER", "master")
            """,
            "test_it.py": "import os\ndef test(request):\n    import conftest\n    assert conftest.RUNNER == os.environ['PYTEST_XDIST_WORKER']\n",
        },
    )
    result = pytester.runpytest_subprocess("--fleet", "2", "-p", "no:xdist")
    result.assert_outcomes(passed=1)
    result.stdout.re_match_lines([r"fleetest: .*conftest\.py:3.*"])


def test_a_bad_mark_is_a_collection_error_that_names_file_and_line(pytester: pytest.Pytester) -> None:
    make_suite(
        pytester,
        {
            "test_it.py": "import pytest\n\n@pytest.mark.fleet(gpu=1)\ndef test(): pass\n\n@pytest.mark.fleet(requires='cuda>>12')\ndef test_2(): pass\n"
        },
    )
    result = pytester.runpytest_subprocess("--fleet", "2", "--strict-markers")
    assert result.ret == 2
    result.stdout.re_match_lines(
        [r".*test_it\.py:[34].*gpu.*gpus.*", r".*test_it\.py:[67].*cuda>>12.*"], consecutive=False
    )


def test_hostile_tests_each_get_their_own_verdict(pytester: pytest.Pytester) -> None:
    make_suite(
        pytester,
        {
            "test_it.py": """
                import ctypes, os, signal, sys, time
                import pytest

                def test_before(): pass
                def test_exits():
                    print("last words")
                    os._exit(0)
                def test_between_1(): pass
                def test_segfaults(): ctypes.string_at(0)
                def test_between_2(): pass
                @pytest.mark.fleet(timeout=1)
                def test_hangs():
                    print("about to hang", flush=True)
                    time.sleep(600)
                def test_between_3(): pass
                def test_kills_its_group(): os.killpg(0, signal.SIGKILL)
                def test_between_4(): pass
                def test_prints_much():
                    sys.stdout.write("y" * 50_000_000)
                    assert 0
                def test_after(): pass
            """
        },
    )
    result = pytester.runpytest_subprocess("--fleet", "2", "--junitxml=fleet.xml", "-rA")
    assert result.ret == 1
    found = {name: tags for (_, name), tags in outcomes(pytester.path / "fleet.xml").items()}
    bad = {"test_exits", "test_segfaults", "test_hangs", "test_kills_its_group", "test_prints_much"}
    assert {name for name, tags in found.items() if tags != ["passed"]} == bad
    assert len(found) == 11
    assert all(len(tags) == 1 for tags in found.values())
    text = result.stdout.str()
    for evidence in ("last words", "SIGSEGV", "SIGKILL", "timeout", "test_hangs", "about to hang"):
        assert evidence in text
    assert len(text) < 10_000_000


def test_settings_may_live_in_the_ini_file(pytester: pytest.Pytester) -> None:
    make_suite(
        pytester,
        {
            "pytest.ini": "[pytest]\nfleet = 2\n",
            "test_it.py": "def test(worker_id): assert worker_id.startswith('gw')\n",
        },
    )
    pytester.runpytest_subprocess().assert_outcomes(passed=1)
    plain = pytester.runpytest_subprocess("--fleet", "0")
    plain.assert_outcomes(failed=1)


def test_a_bad_target_is_one_line(pytester: pytest.Pytester) -> None:
    make_suite(pytester, {"test_it.py": "def test(): pass\n"})
    result = pytester.runpytest_subprocess("--fleet", "several")
    assert result.ret == 4
    assert re.search(r"^fleetest: --fleet 'several' is none of", result.stderr.str(), re.MULTILINE)
    assert "Traceback" not in result.stderr.str() + result.stdout.str()


def test_no_process_of_ours_is_left(pytester: pytest.Pytester) -> None:
    make_suite(pytester, {"test_it.py": "import os\ndef test():\n    open(f'pid-{os.getpid()}', 'w').close()\n"})
    pytester.runpytest_subprocess("--fleet", "2").assert_outcomes(passed=1)
    [pid_file] = pytester.path.glob("pid-*")
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.name.removeprefix("pid-")), 0)


def test_the_client_takes_our_modules_as_installed_and_the_suite_as_pytest_rewrites_them(
    pytester: pytest.Pytester,
) -> None:
    make_suite(
        pytester,
        {
            "conftest.py": """
                import sys

                def pytest_unconfigure(config):
                    if not hasattr(config, "workerinput"):
                        loader = sys.modules["fleetest.client.pytest_session"].__spec__.loader
                        print("client:", type(loader).__name__)
            """,
            "test_it.py": """
                import sys

                def test_finders():
                    assert not [finder for finder in sys.meta_path if "fleetest" in type(finder).__module__]
                    assert "fleetest.testing" not in sys.modules
                    import fleetest.testing
                    assert type(fleetest.testing.__spec__.loader).__name__ == "AssertionRewritingHook"
            """,
        },
    )
    result = pytester.runpytest_subprocess("--fleet", "1", "-s")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["client: SourceFileLoader"])


def test_a_path_option_in_two_words_is_refused_before_it_moves_the_root_directory(pytester: pytest.Pytester) -> None:
    make_suite(pytester, {"test_it.py": "def test(): pass\n", "data/token": ""})
    result = pytester.runpytest_subprocess("--fleet", "1", "--fleet-data", "data")
    assert result.ret == 4
    assert result.stderr.str().startswith("fleetest: write --fleet-data=data as one word")


def test_exit_handlers_of_the_client_run_once_and_in_the_client(pytester: pytest.Pytester) -> None:
    make_suite(
        pytester,
        {
            "test_it.py": "def test(): pass\n",
            "client.py": """
                import atexit, os, pathlib, tempfile, sys
                import pytest

                client = os.getpid()

                def at_exit():
                    with open("exits", "a") as file:
                        file.write(f"{os.getpid() == client}\\n")

                atexit.register(at_exit)
                with tempfile.TemporaryDirectory() as kept:
                    status = pytest.main(["--fleet", "2", "test_it.py"])
                    assert pathlib.Path(kept).exists()
                sys.exit(status)
            """,
        },
    )
    result = pytester.runpython("client.py")
    assert result.ret == 0
    assert (pytester.path / "exits").read_text() == "True\n"


def test_a_retried_test_is_once_in_the_junit_file(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pathlib

        def test_second_time():
            mark = pathlib.Path(__file__).with_name("was-here")
            was_here = mark.exists()
            mark.touch()
            assert was_here

        def test_never():
            assert False
        """
    )
    result = pytester.runpytest_subprocess("--fleet", "2", "--fleet-retries=1", "--junitxml=fleet.xml")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*2 rerun*"])
    root = ElementTree.parse(pytester.path / "fleet.xml").getroot()
    cases = {case.get("name"): [part.tag for part in case] for case in root.iter("testcase")}
    assert cases == {"test_second_time": [], "test_never": ["failure"]}
    assert len(list(root.iter("testcase"))) == 2
    assert next(root.iter("testsuite")).get("tests") == "2"


@pytest.mark.skipif(not hasattr(gc, "freeze"), reason="this implementation cannot spare objects")
@pytest.mark.parametrize("form", ["program", "library"])
def test_only_the_program_spares_what_stays_and_what_a_conftest_leaves_open_is_written(
    pytester: pytest.Pytester, form: str
) -> None:
    make_suite(
        pytester,
        {
            "conftest.py": """
                import gc

                class Log:
                    def __init__(self):
                        self.file = open("log", "w")
                        self.itself = self
                        self.file.write("from a cycle")

                log = Log()

                def pytest_unconfigure(config):
                    with open("spared", "w") as file:
                        file.write(f"{gc.get_freeze_count()} {gc.isenabled()}")
            """,
            "test_it.py": "def test_it(): pass",
            "host.py": "import pytest\nraise SystemExit(pytest.main(['--fleet', '1']))\n",
        },
    )
    # The template and the runner load the conftest too: what the client writes comes last.
    result = pytester.runpytest_subprocess("--fleet", "1") if form == "program" else pytester.runpython("host.py")
    assert result.ret == 0
    spared, is_enabled = (pytester.path / "spared").read_text().split()
    assert int(spared) > 10_000 if form == "program" else spared == "0"
    assert is_enabled == str(form == "library")
    assert (pytester.path / "log").read_text() == "from a cycle"


def test_hypothesis_finds_the_random_numbers_of_a_trio_that_was_loaded_before(pytester: pytest.Pytester) -> None:
    """It asks the collector, and warns of what that passes over: with ``-W error`` no run would begin."""
    make_suite(
        pytester,
        {
            # What trio does as a plugin of Hypothesis.
            "trio.py": "import random\nNUMBERS = random.Random()\n",
            "conftest.py": "import hypothesis, trio\nhypothesis.register_random(trio.NUMBERS)\n",
            "test_it.py": "def test_it(): pass",
        },
    )
    for fleet in ("--fleet=no", "--fleet=1"):
        result = pytester.runpytest_subprocess("-p", "trio", "-W", "error", fleet)
        assert result.ret == 0, result.stdout
