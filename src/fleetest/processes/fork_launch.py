"""Start the template by forking the client: pytest and its plugins are imported once for both.

Only for the client's own interpreter, before it has threads: an embedded run of a few tests then costs hardly more
than plain pytest. The child starts a pytest of its own; what the client's pytest had set up by then is undone.
"""

from __future__ import annotations

import atexit
import importlib.util
import io
import os
import socket
import sys
import threading
import weakref
from typing import Any, NoReturn, cast

from fleetest.processes.launch import RUNNER_FOLDER, PrestartedTemplate, encode_frame
from fleetest.processes.sparing import spare_what_is_loaded

_FAILED_TO_START = 70


def can_fork_template() -> bool:
    """True if a fork of this very process would be a sound interpreter: one thread, no tracing, not macOS."""
    return (
        sys.platform.startswith("linux")
        and threading.active_count() == 1
        and sys.gettrace() is None
        and sys.getprofile() is None
    )


class ForkedChild:
    """The part of ``subprocess.Popen`` that supervision needs, for a child that was forked."""

    def __init__(self, pid: int, stdout: io.FileIO, stderr: io.FileIO) -> None:
        self.pid = pid
        self.stdout = stdout
        self.stderr = stderr
        self.returncode: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            try:
                _, status = os.waitpid(self.pid, 0)
            except ChildProcessError:
                status = 0
            self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode


def fork_template_early(start: dict[str, Any]) -> PrestartedTemplate:
    """Fork the template and tell it what to collect (see ``launch.start_frame``). Raises OSError if it cannot fork."""
    near, far = socket.socketpair()
    stdout_read, stdout_write = os.pipe()
    stderr_read, stderr_write = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        near.close()
        os.close(stdout_read)
        os.close(stderr_read)
        _become_template(far, stdout_write, stderr_write)
    far.close()
    os.close(stdout_write)
    os.close(stderr_write)
    child = ForkedChild(pid, io.FileIO(stdout_read, "rb"), io.FileIO(stderr_read, "rb"))
    near.sendall(encode_frame(start))
    return PrestartedTemplate(cast("Any", child), near, sys.executable, start)


def _become_template(control: socket.socket, stdout: int, stderr: int) -> NoReturn:
    """Never returns into the client's stack, whatever happens."""
    try:
        os.setsid()
        _disown_exit_handlers()
        _replace_standard_streams(stdout, stderr)
        sys.argv[:] = ["-c"]
        for name in [name for name in os.environ if name.startswith("FLEETEST_TOKEN")]:
            del os.environ[name]
        # The client's pytest rewrites assertions on import; the template's own pytest will, those of ours too.
        of_client = ("_pytest.assertion.rewrite", "fleetest.pytest_plugin")
        sys.meta_path[:] = [hook for hook in sys.meta_path if type(hook).__module__ not in of_client]
        spare_what_is_loaded()
        _load_runner().main(control.detach())
    except SystemExit as ended:
        _flush()
        os._exit(ended.code if isinstance(ended.code, int) else int(ended.code is not None))
    except BaseException:
        import traceback

        traceback.print_exc()
        _flush()
        os._exit(_FAILED_TO_START)
    _flush()
    os._exit(0)


def _disown_exit_handlers() -> None:
    """What the client is to do at its end (remove its temporary directories, say) is not the template's to do."""
    inherited = weakref.finalize
    for finalizer in list(getattr(inherited, "_registry", ())):
        finalizer.atexit = False
    # Finalizers that the suite makes register anew.
    inherited._registered_with_atexit = False  # type: ignore[attr-defined]
    atexit._clear()
    if "logging" in sys.modules:
        atexit.register(sys.modules["logging"].shutdown)
    if "multiprocessing.util" in sys.modules:
        util = sys.modules["multiprocessing.util"]
        util._finalizer_registry.clear()
        atexit.register(util._exit_function)


def _replace_standard_streams(stdout: int, stderr: int) -> None:
    devnull = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((devnull, 0), (stdout, 1), (stderr, 2)):
        os.dup2(source, target)
        os.close(source)
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", closefd=False)  # type: ignore[misc]  # noqa: SIM115
    sys.stdout = sys.__stdout__ = _text_stream(1, "strict")  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = _text_stream(2, "backslashreplace")  # type: ignore[misc]


def _text_stream(descriptor: int, errors: str) -> io.TextIOWrapper:
    encoding = getattr(sys.__stdout__, "encoding", None) or "utf-8"
    binary = open(descriptor, "wb", closefd=False)  # noqa: SIM115
    return io.TextIOWrapper(binary, encoding=encoding, errors=errors, line_buffering=descriptor == 2)


def _load_runner() -> Any:
    """The same private package that a started interpreter loads, whatever ``fleetest`` the user's suite may import."""
    location = os.path.join(RUNNER_FOLDER, "__init__.py")
    spec = importlib.util.spec_from_file_location(
        "_fleetest_runner", location, submodule_search_locations=[RUNNER_FOLDER]
    )
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules["_fleetest_runner"] = package
    spec.loader.exec_module(package)
    return importlib.import_module("_fleetest_runner.main")


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            # Closed by user code, or nobody reads any more.
            continue
