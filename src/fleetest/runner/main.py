"""The program: read what to run, run pytest with our plugin in it, say how it ended."""

from __future__ import annotations

import gc
import os
import sys

from .frames import ControlChannel, PeerGone, adopt_socket
from .turns import take_turn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Tuple

    from .session_plugin import SessionPlugin

_PYTEST_MAJOR_MIN = 7
_USAGE_ERROR = 4


def main(control_fd: int) -> None:
    """Run one template or spawned runner on this control socket. Does not return."""
    control = ControlChannel(adopt_socket(control_fd))
    try:
        start = control.receive()
        sockets = control.take_sockets() if start["mode"] == "runner" else None
        _apply(start)
        # Collecting makes few cycles and many objects: looking for cycles would cost a fifth of the time.
        gc.disable()
        _say_hello(control)
    except PeerGone:
        os._exit(1)
    from .session_plugin import SessionPlugin

    plugin = SessionPlugin(control, start, sockets, take_turn() if start["mode"] == "template" else None)
    _finish(plugin, *_run_pytest(start["args"], plugin))


def _apply(start: Dict[str, Any]) -> None:
    """Make this process what the start frame says."""
    # Imported here and not by name from guards: nothing of it is needed elsewhere in this module.
    from .guards import RUN_UID, WORKER, WORKER_COUNT

    os.environ.update(start["environment"])
    os.environ[RUN_UID] = start["run_uid"]
    os.environ[WORKER_COUNT] = str(start["runner_count"])
    if start["mode"] == "runner":
        os.environ[WORKER] = start["runner_id"]
        try:
            os.setsid()
        except OSError:
            # It leads a session already.
            pass
    else:
        os.environ.pop(WORKER, None)
    if start["path_entries"] is not None:
        sys.path[:] = start["path_entries"]
    os.chdir(start["directory"])
    for stream in (sys.stdout, sys.stderr):
        # A pipe is block-buffered by default: output past capture would come late, or never from a crash.
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]


def _say_hello(control: ControlChannel) -> None:
    """Import pytest and say which; if it cannot be used, say so and exit."""
    try:
        import pytest

        version = pytest.__version__
        trouble = ""
        if int(version.split(".")[0]) < _PYTEST_MAJOR_MIN:
            trouble = "pytest %s is too old: %d.0 or newer is needed" % (version, _PYTEST_MAJOR_MIN)
    except Exception as error:
        trouble = "%s: %s" % (type(error).__name__, error)
    if trouble:
        control.send({"type": "failed", "kind": "no_pytest", "text": trouble, "exit_status": None})
        os._exit(1)
    control.send(
        {
            "type": "hello",
            "pid": os.getpid(),
            "python": "%d.%d.%d" % sys.version_info[:3],
            "pytest": version,
            "implementation": sys.implementation.name,
        }
    )


def _run_pytest(args: List[str], plugin: SessionPlugin) -> Tuple[int, str]:
    """pytest's exit status, and what it had to say on stderr about an error of usage."""
    import io

    import _pytest.config
    import pytest

    errors = io.StringIO()
    prepare = _pytest.config._prepareconfig

    def prepare_config(*arguments: Any, **keywords: Any) -> Any:
        try:
            return prepare(*arguments, **keywords)
        except BaseException:
            # What pytest says about it is for the client's terminal, not for ours.
            sys.stderr = errors
            raise

    class UsageErrors:
        @pytest.hookimpl(hookwrapper=True, tryfirst=True)
        def pytest_cmdline_main(self) -> Any:
            outcome = yield
            if outcome.excinfo is not None:
                sys.stderr = errors

    _pytest.config._prepareconfig = prepare_config
    stderr = sys.stderr
    try:
        status = int(pytest.main(list(args), plugins=[plugin, UsageErrors()]))
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
        plugin.fail("exit", "SystemExit: %s" % error.code, status)
    except KeyboardInterrupt as error:
        status = 2
        plugin.fail("interrupted", str(error), status)
    except BaseException:
        import traceback

        status = 3
        plugin.fail("internal_error", traceback.format_exc(), status)
    finally:
        sys.stderr = stderr
        _pytest.config._prepareconfig = prepare
    return status, errors.getvalue()


def _finish(plugin: SessionPlugin, status: int, errors: str) -> None:
    from . import after_fork

    text = errors.strip()
    if text.startswith("ERROR: "):
        text = text[len("ERROR: ") :]
    if plugin.runner is not None:
        if text:
            plugin.fail("internal_error", text, status)
        after_fork.flush_output()
        after_fork.run_exit_handlers()
        plugin.runner.finish(plugin.workeroutput)
        os._exit(0)
    if not plugin.has_answered:
        kind = "usage_error" if status == _USAGE_ERROR else "internal_error"
        plugin.fail(kind, text or "pytest ended with exit status %d before any test could run" % status, status)
    after_fork.leave(0)
