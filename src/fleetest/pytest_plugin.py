"""The pytest plugin: options, marks, and the decision whether this process is a client of a fleet.

Loaded by every pytest in the environment, so it imports nothing but pytest until ``--fleet`` is given.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    from fleetest.processes.launch import PrestartedTemplate

_MARK_DOC = (
    "fleet(gpus=, cpus=, memory=, resources=, requires=, prefer=, priority=, timeout=, retries=, backoff=, hedge=, "
    "lock=, group=, alone=, workers=, each=): where, when and how this test may run on a fleet"
)
_PRESTARTED = "_fleetest_prestarted_template"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fleetest", "run tests on a fleet")
    group.addoption(
        "--fleet",
        metavar="auto|N|URL",
        help="Run the tests on a fleet: 'auto' or N embedded runners, or a coordinator at ws://host:port or wss://host:port",
    )
    group.addoption(
        "--fleet-start-method",
        choices=("auto", "fork", "spawn"),
        help="How runners start: forked from one collection (default where safe) or each afresh",
    )
    group.addoption(
        "--fleet-python",
        metavar="PATH",
        help="(as one word, --fleet-python=PATH) Interpreter that collects and runs the tests",
    )
    group.addoption("--fleet-timeout", metavar="SECONDS", help="Timeout of tests that have none of their own")
    group.addoption(
        "--fleet-retries", metavar="N", help="Further attempts for failing tests that say nothing themselves"
    )
    group.addoption(
        "--fleet-no-hedge",
        action="store_true",
        default=None,
        help="Never start a second attempt of a test on another worker while the first still runs",
    )
    group.addoption("--fleet-token-file", metavar="FILE", help="Token of the coordinator")
    group.addoption("--fleet-data", metavar="DIR", help="The coordinator's data directory, if it is on this machine")
    group.addoption("--fleet-tls-ca", metavar="FILE", help="Certificate authority to trust for wss://")
    group.addoption(
        "--fleet-history",
        metavar="FILE",
        help="History file of embedded runs (default .fleetest/history.duckdb; 'none')",
    )
    group.addoption(
        "--fleet-balancing",
        metavar="NAME",
        help="How embedded runners are balanced: adaptive (default), round-robin, least-loaded, module:Class",
    )
    group.addoption(
        "--fleet-scheduler",
        metavar="NAME",
        help="Scheduler of embedded runners: a plugin's name or module:Class (default: Fleetest's own)",
    )
    group.addoption(
        "--fleet-weight", metavar="N", help="Part of a shared fleet: a run of weight 3 gets three times one of 1"
    )
    group.addoption(
        "--fleet-each",
        metavar="NAME",
        help="Run tests that say nothing themselves once on each distinct value of this capability, such as python",
    )
    group.addoption(
        "--fleet-wait-for-workers",
        metavar="TIME",
        help="How long tests that no known worker can run wait for one: 300 (default), 5m, 0, forever",
    )
    group.addoption(
        "--fleet-dashboard",
        metavar="PORT",
        nargs="?",
        const="0",
        help="Serve the dashboard of embedded runners on loopback while they run, and print a link to it; before a test"
        " path write --fleet-dashboard=0 (any port). With a coordinator: print a link to its own",
    )
    parser.addini("fleet", "Default of --fleet")
    parser.addini("fleet_start_method", "Default of --fleet-start-method")
    parser.addini("fleet_python", "Default of --fleet-python")
    parser.addini("fleet_timeout", "Default of --fleet-timeout")
    parser.addini("fleet_retries", "Default of --fleet-retries")
    parser.addini("fleet_no_hedge", "Default of --fleet-no-hedge (true or false)")
    parser.addini("fleet_token_file", "Default of --fleet-token-file")
    parser.addini("fleet_weight", "Default of --fleet-weight")
    parser.addini("fleet_wait_for_workers", "Default of --fleet-wait-for-workers")
    parser.addini("fleet_each", "Default of --fleet-each")
    parser.addini("fleet_history", "Default of --fleet-history")


@pytest.fixture
def fleet_gang() -> Any:
    """Those that execute this test together; in a runner another fixture of this name takes the place of this one."""
    from fleetest.runner.gang import ALONE

    return ALONE


@pytest.fixture(scope="session")
def fleet_variant() -> Any:
    """The value that tests are executed for, as the environment says; a runner has another fixture of this name."""
    from fleetest.runner.variant import VARIABLE, Variant

    return Variant(os.environ.get(VARIABLE, ""))


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    from fleetest.client import pytest_hooks

    pluginmanager.add_hookspecs(pytest_hooks)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None, None, None]:
    """Start the template before this process loads its own conftests: both load at the same time.

    Outermost, so that nothing of the client (its capture above all) is in place yet when the template is forked.
    """
    if _target(early_config, early_config.known_args_namespace) is not None:
        _import_own_modules_as_compiled()
        _empty_log_file(early_config)
        if _is_program():
            _spare_what_stays()
    _start_template(early_config)
    return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """Connect before pytest starts its session: whoever cannot be reached is one line, not a traceback."""
    target = _target(config, config.option)
    if target is None:
        return None
    _import_own_modules_as_compiled()
    prestarted: PrestartedTemplate | None = getattr(config, _PRESTARTED, None)
    from fleetest.client.pytest_options import FleetOptions, check_compatible, with_plugin_options
    from fleetest.errors import UserError

    try:
        check_compatible(config)
        options = FleetOptions.from_config(config, config.option, target)
        from fleetest.client.pytest_session import FleetSession
        from fleetest.embedded import open_fleet

        fleet = open_fleet(
            target,
            root_directory=config.rootpath,
            history=options.history,
            python=options.python,
            token_file=options.token_file,
            data_directory=options.data_directory,
            tls_ca=options.tls_ca,
            prestarted=prestarted,
            balancing=options.balancing,
            scheduler=options.scheduler,
            dashboard_port=options.dashboard_port,
        )
    except UserError as error:
        if prestarted is not None:
            prestarted.close()
        _print_error(with_plugin_options(str(error)))
        return int(error.exit_status)
    except BaseException:
        if prestarted is not None:
            prestarted.close()
        raise
    config.pluginmanager.register(FleetSession(config, fleet, options), "fleetest_session")
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """What is written now makes many objects and no garbage; pytest itself collects once more after that."""
    if _target(session.config, session.config.option) is not None and _is_program():
        import gc

        gc.disable()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", _MARK_DOC)
    if _target(config, config.option) is not None and _log_file(config, config.option):
        # The template and the runners write it; what this process would write into it would go over that.
        import os

        config.option.log_file = os.devnull
    if not config.pluginmanager.hasplugin("xdist"):
        config.addinivalue_line("markers", "xdist_group(name): tests of one group share a runner")
        config.pluginmanager.register(_WorkerFixtures(), "fleetest_worker_fixtures")


class _OwnModules:
    """Finds the modules of this package as if pytest were not there.

    pytest rewrites the assertions of every plugin's modules, and keeps the result only where it may write beside them:
    in a read-only installation, or with PYTHONDONTWRITEBYTECODE, each client would compile all of them again.
    """

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if not name.startswith("fleetest."):
            return None
        from importlib.machinery import PathFinder

        return PathFinder.find_spec(name, path, target)


def _import_own_modules_as_compiled() -> None:
    import sys

    if not any(isinstance(finder, _OwnModules) for finder in sys.meta_path):
        sys.meta_path.insert(0, _OwnModules())


def _is_program() -> bool:
    """Whether this process is ``pytest`` itself and ends with its session; false in whatever calls ``pytest.main``."""
    import sys

    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        # The first name is of pytest before 9.1.
        if frame.f_code.co_name in ("console_main", "_console_main"):
            return bool(frame.f_globals.get("__name__") == "_pytest.config")
    return False


def _spare_what_stays() -> None:
    """Keep the collector away from what pytest and its plugins have loaded: both pytest and Python collect at the end.

    Nothing of a conftest or of a configured plugin is among it: what those leave open is still closed when the process
    ends.
    """
    from fleetest.processes.sparing import spare_what_is_loaded

    spare_what_is_loaded()


class _WorkerFixtures:
    """What pytest-xdist offers to a test that asks where it runs; inside a runner it has the runner's id."""

    @pytest.fixture(scope="session")
    def worker_id(self, request: pytest.FixtureRequest) -> str:
        """``gw0``, ``gw1``, ... in a runner; ``master`` without a fleet."""
        workerinput = getattr(request.config, "workerinput", None)
        return "master" if workerinput is None else str(workerinput["workerid"])

    @pytest.fixture(scope="session")
    def testrun_uid(self, request: pytest.FixtureRequest) -> str:
        """32 hex digits, the same in every runner of one run."""
        workerinput: dict[str, Any] | None = getattr(request.config, "workerinput", None)
        if workerinput is not None:
            return str(workerinput["testrunuid"])
        import uuid

        return uuid.uuid4().hex


def _start_template(early_config: pytest.Config) -> None:
    option = early_config.known_args_namespace
    target = _target(early_config, option)
    if target is None or "://" in target:
        return
    from fleetest.client.pytest_options import FleetOptions, prestart_template
    from fleetest.errors import UserError

    try:
        options = FleetOptions.from_config(early_config, option, target)
        setattr(early_config, _PRESTARTED, prestart_template(options))
    except (UserError, OSError):
        # Said once, and as one line, when the fleet is opened.
        return


def _target(config: pytest.Config, option: Any) -> str | None:
    """The fleet that this process is a client of; None in a runner, without one, and where nothing is to be run."""
    if hasattr(config, "workerinput"):
        return None
    target = option.fleet if option.fleet is not None else config.getini("fleet")
    if not target or target in ("0", "no", "none"):
        return None
    inert = (
        "collectonly",
        "setupplan",
        "setuponly",
        "help",
        "version",
        "markers",
        "showfixtures",
        "show_fixtures_per_test",
        "cacheshow",
    )
    if any(getattr(option, name, None) for name in inert):
        return None
    return str(target)


def _log_file(config: pytest.Config, option: Any) -> str:
    """Where pytest's logging plugin shall write to; empty: nowhere."""
    if not hasattr(option, "log_file"):
        # -p no:logging
        return ""
    return str(option.log_file or config.getini("log_file") or "")


def _empty_log_file(early_config: pytest.Config) -> None:
    """What pytest does when it opens its log file, before any process of the run may write to it."""
    option = early_config.known_args_namespace
    path = _log_file(early_config, option)
    if not path:
        return
    import os

    # Newer than some pytest that we support.
    has_mode = hasattr(option, "log_file_mode")
    mode = (option.log_file_mode or early_config.getini("log_file_mode") or "w") if has_mode else "w"
    path = os.path.abspath(path)
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        open(path, mode, encoding="UTF-8").close()
    except OSError:
        # Said by the template, in pytest's own words.
        return


def _print_error(message: str) -> None:
    import sys

    sys.stderr.write(f"fleetest: {message}\n")
