"""The pytest plugin of a template or a spawned runner: what pytest tells it goes to the worker."""

from __future__ import annotations

import gc
import os
import time

import pytest

from . import after_fork, basetemp, fork_safety, variant
from .collection import Collection, report_lines
from .fleet_options import add_unknown_options, add_unknown_settings, register_marks
from .frames import PeerGone
from .gang import GangPlugin
from .guards import WORKER, EarlyReads, WorkerInput, guard_environment, release_environment
from .hook_proxies import cache_hook_proxies
from .log_file import append_to_log_file, take_log_file
from .orphan_guard import OrphanGuard
from .portable import safe_repr
from .reports import serialised_report, serialised_warning
from .runner import Runner
from .template import Template, can_fork
from .terminal_shell import show_live_text, silence_terminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any, Dict, Generator, List, Optional, Tuple

    from .frames import ControlChannel
    from .template import Seat
    from .turns import Turn

# What pytest-xdist would distribute with, and what belongs to the client: never in here.
_OPTIONS: Dict[str, Any] = {
    "maxfail": 0,
    "usepdb": False,
    "trace": False,
    "numprocesses": None,
    "maxprocesses": None,
    "dist": "no",
    "distload": False,
    "loadgroup": False,
    "looponfail": False,
    "tx": [],
}


class SessionPlugin:
    """Registered before anything else is loaded. ``start`` is the start frame.

    ``runner`` is set once this process executes tests; ``has_answered`` once ``collected`` or ``failed`` was sent.
    """

    def __init__(
        self,
        control: ControlChannel,
        start: Dict[str, Any],
        sockets: Optional[Tuple[socket.socket, socket.socket]],
        turn: Optional[Turn],
    ) -> None:
        self._control = control
        self._start = start
        self._sockets = sockets
        self._turn = turn
        self._limit = int(start["output_limit_bytes"])
        self._is_template = start["mode"] == "template"
        self._began = time.perf_counter()
        self._guard = OrphanGuard(control.fileno())
        self._deselected: List[str] = []
        self._maxfail = 0
        self._items_reported = 0
        self._reads = EarlyReads(start["directory"])
        self._workerinput = WorkerInput(
            workerid="gw0" if self._is_template else start["runner_id"],
            workercount=start["runner_count"],
            testrunuid=start["run_uid"],
            mainargv=["pytest", *start["args"]],
        )
        # What plugins of the client have put there for theirs in the runners.
        self._workerinput.update(start.get("workerinput") or {})
        self._config: Any = None
        self._log_file: Optional[str] = None
        self.workeroutput: Dict[str, Any] = {}
        self._prepared: Optional[Runner] = None
        self.runner: Optional[Runner] = None
        self.has_answered = False
        self._gangs = GangPlugin()
        self._variants = variant.Variants()
        if self._is_template:
            self._workerinput.reads = self._reads
            guard_environment(self._reads)

    # To the worker --------------------------------------------------------------------------------------------

    def send(self, frame: Dict[str, Any]) -> None:
        """Send a control frame; if the worker is gone, so are we."""
        try:
            self._control.send(frame)
        except PeerGone:
            os._exit(1)

    def fail(self, kind: str, text: str, exit_status: Optional[int], collected: int = 0) -> None:
        """Say once why there will be no ``collected``; or, in a runner, why it executes nothing more."""
        if self.runner is not None:
            self.runner.add_exit(kind, text, exit_status)
        elif not self.has_answered:
            self.has_answered = True
            frame = {"type": "failed", "kind": kind, "text": text, "exit_status": exit_status, "collected": collected}
            self.send(frame)

    # Configuration --------------------------------------------------------------------------------------------

    @pytest.hookimpl(tryfirst=True)
    def pytest_load_initial_conftests(self, early_config: Any, parser: Any, args: List[str]) -> None:
        early_config.workerinput = self._workerinput
        early_config.workeroutput = self.workeroutput
        if not early_config.pluginmanager.hasplugin("fleetest"):
            add_unknown_options(parser, args)
            add_unknown_settings(parser, early_config)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_cmdline_parse(self) -> Generator[None, Any, None]:
        outcome = yield
        if outcome.excinfo is not None:
            return
        self._log_file = take_log_file(outcome.get_result())
        option = outcome.get_result().option
        self._maxfail = getattr(option, "maxfail", 0)
        for name, value in _OPTIONS.items():
            if hasattr(option, name):
                setattr(option, name, value)
        if not self._is_template and self._start["basetemp"] is not None:
            option.basetemp = os.path.join(self._start["basetemp"], "popen-" + self._start["runner_id"])

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self, config: Any) -> None:
        self._config = config
        register_marks(config)
        config.pluginmanager.register(self._gangs, "fleetest-gangs")
        config.stash[variant.VARIANTS] = self._variants
        config.pluginmanager.register(variant, "fleetest-variant")
        if not config.pluginmanager.hasplugin("xdist"):
            from . import worker_fixtures

            config.pluginmanager.register(worker_fixtures, "fleetest-worker-fixtures")
        silence_terminal(config)
        if self._log_file is not None:
            append_to_log_file(config, self._log_file)

    # Collection -----------------------------------------------------------------------------------------------

    # The outermost: what ends the collection is sent after the warnings of it.
    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_collection(self, session: Any) -> Generator[None, Any, None]:
        if self._is_template:
            show_live_text(session.config)
        outcome = yield
        if outcome.excinfo is not None and isinstance(outcome.excinfo[1], session.Failed):
            self.fail("collection_errors", str(outcome.excinfo[1]), 1, self._items_reported)

    @pytest.hookimpl(tryfirst=True)
    def pytest_collectstart(self, collector: Any) -> None:
        failures = collector.session.testsfailed
        if self._maxfail and failures >= self._maxfail:
            raise collector.session.Failed("stopping after %d failures" % failures)

    def pytest_collectreport(self, report: Any) -> None:
        if report.passed:
            self._items_reported += sum(isinstance(node, pytest.Item) for node in report.result)
        else:
            serialised = serialised_report(self._config, report, self._limit)
            self.send({"type": "collect_report", "report": serialised["data"]})

    def pytest_deselected(self, items: Any) -> None:
        self._deselected.extend(item.nodeid for item in items)

    def pytest_warning_recorded(self, warning_message: Any, when: str, nodeid: str, location: Any) -> None:
        warning = serialised_warning(warning_message, when, nodeid, location, self._limit)
        if self.runner is not None:
            self.runner.add_warning(warning)
        else:
            self.send({"type": "warning", "warning": warning})

    def pytest_keyboard_interrupt(self, excinfo: Any) -> None:
        error = excinfo.value
        if isinstance(error, pytest.exit.Exception):
            self.fail("exit", str(error.msg), error.returncode)
        else:
            self.fail("interrupted", str(error), 2)

    def pytest_internalerror(self, excrepr: Any, excinfo: Any) -> bool:
        key, read = self._workerinput.lacking or (None, "")
        if read and self.runner is None and isinstance(excinfo.value, KeyError) and excinfo.value.args == (key,):
            text = "%s, which only pytest-xdist's own -n provides: leave that plugin out, or run with --fleet=no"
            self.fail("usage_error", text % read, 4)
            return True
        try:
            text = str(excrepr)
        except Exception as error:
            text = safe_repr(error)
        self.fail("internal_error", text, 3)
        return True

    # Execution ------------------------------------------------------------------------------------------------

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: Any) -> bool:
        failures = session.testsfailed
        if failures and not session.config.option.continue_on_collection_errors:
            text = "%d error%s during collection" % (failures, "s" if failures != 1 else "")
            self.fail("collection_errors", text, 2, len(session.items))
            raise session.Interrupted(text)
        collection = Collection(session.items)
        reason = self._why_not_fork()
        self._send_collected(session, collection, reason)
        if self._is_template:
            if not self._serve(session, collection, reason):
                return True
        else:
            self._start_spawned(session, collection)
        assert self.runner is not None
        self.runner.run()
        return True

    def _why_not_fork(self) -> Optional[str]:
        if not self._is_template:
            return "spawned"
        if not can_fork:
            return "this system has no fork"
        asked = self._start["start_method"]
        if asked == "fork":
            return None
        if asked == "spawn":
            return "asked for"
        return self._reads.first or fork_safety.why_not_fork()

    def _send_collected(self, session: Any, collection: Collection, reason: Optional[str]) -> None:
        factory = getattr(session.config, "_tmp_path_factory", None)
        if self._is_template:
            basetemp.share_basetemp(session.config, self._start["run_uid"])
        self.send(
            {
                "type": "collected",
                "items": collection.items,
                "parents": collection.parents,
                "deselected": self._deselected,
                "report_lines": report_lines(session.config, session),
                "start_method": "fork" if reason is None else "spawn",
                "reason": reason,
                "basetemp": None if factory is None else str(factory.getbasetemp()),
                "duration_s": time.perf_counter() - self._began,
            }
        )
        self.has_answered = True
        if self._turn is not None:
            self._turn.release()

    def _serve(self, session: Any, collection: Collection, reason: Optional[str]) -> bool:
        """Serve forks. True in a forked runner; False in a template that never forked; else does not return."""
        template = Template(self._control, reason, lambda: self._prepare_runner(session, collection))
        self._guard.stop()
        set_death_signal = after_fork.death_signal_setter() if reason is None else None
        seat = template.serve()
        if seat is None:
            if template.has_forked:
                # The runners have finished the session; here are only the exit handlers of before.
                after_fork.remove_old_basetemps(session.config)
                after_fork.leave(0)
            return False
        os.setsid()
        if set_death_signal is not None:
            set_death_signal()
            if os.getppid() != template.own_pid:
                os._exit(1)
        self._control.close()
        self._settle(session.config, seat)
        return True

    def _settle(self, config: Any, seat: Seat) -> None:
        release_environment()
        self._workerinput.reads = None
        self._workerinput["workerid"] = seat.runner_id
        os.environ[WORKER] = seat.runner_id
        after_fork.forget_exit_handlers()
        capture = after_fork.separate_capture(config)
        after_fork.register_stack_dumps(self._start["scratch"], seat.runner_id)
        after_fork.reseed()
        after_fork.separate_basetemp(config, seat.runner_id)
        self._become_runner(seat.tasks, seat.results, capture)

    def _start_spawned(self, session: Any, collection: Collection) -> None:
        assert self._sockets is not None
        self._prepare_runner(session, collection)
        # Not before: the template has shown what there was to show about the collection.
        show_live_text(session.config)
        after_fork.register_stack_dumps(self._start["scratch"], self._start["runner_id"])
        capture = after_fork.capture_descriptors(session.config)
        self._become_runner(self._sockets[0], self._sockets[1], capture)

    def _prepare_runner(self, session: Any, collection: Collection) -> None:
        """Before the first fork: what every runner would do in the same way."""
        cache_hook_proxies(session)
        self._prepared = Runner(session, collection.keyword_counts, self._limit, self._gangs, self._variants)
        session.config.pluginmanager.register(self._prepared, "fleetest-runner")
        _freeze()

    def _become_runner(self, tasks: socket.socket, results: socket.socket, capture: List[int]) -> None:
        assert self._prepared is not None
        gc.enable()
        own_file = os.path.join(self._start["scratch"], self._workerinput["workerid"])
        self._variants.listen(own_file + ".variants")
        self.runner = self._prepared
        self.runner.begin(tasks, results, own_file + ".gang", capture)


def _freeze() -> None:
    """Keep the collector away from what is alive now: it would touch, and so copy, every page of it in every runner."""
    # Not every implementation has it.
    if hasattr(gc, "freeze"):
        gc.freeze()
