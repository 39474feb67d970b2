"""What a forked process must change before it is a runner of its own."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, List, Optional

_PR_SET_PDEATHSIG = 1


def death_signal_setter() -> Optional[Callable[[], None]]:
    """A function that asks the kernel for SIGKILL when the parent dies; None where there is no such thing.

    Made in the parent, because loading ctypes costs as much as several forks.
    """
    if not sys.platform.startswith("linux"):
        return None
    try:
        import ctypes

        prctl = ctypes.CDLL(None).prctl
    except (ImportError, OSError, AttributeError):
        return None

    def set_death_signal() -> None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)

    return set_death_signal


def separate_capture(config: Any) -> List[int]:
    """Give pytest's capture files of its own to this process; return their descriptors [stdout, stderr].

    Forked processes share the offset of an inherited file, so each would read and truncate what the others print. The
    descriptor is replaced beneath the file objects: whatever holds them (a logging handler made at import) stays valid.
    """
    captures = _captures_by_descriptor(config)
    if captures:
        import tempfile

        for capture in captures:
            with tempfile.TemporaryFile(buffering=0) as own:
                os.dup2(own.fileno(), capture.tmpfile.fileno(), inheritable=False)
            if getattr(capture, "_state", "") == "started":
                os.dup2(capture.tmpfile.fileno(), capture.targetfd)
    return [capture.tmpfile.fileno() for capture in captures]


def capture_descriptors(config: Any) -> List[int]:
    """Descriptors of pytest's capture files [stdout, stderr]; empty unless it captures by file descriptor."""
    return [capture.tmpfile.fileno() for capture in _captures_by_descriptor(config)]


def _captures_by_descriptor(config: Any) -> List[Any]:
    manager = config.pluginmanager.getplugin("capturemanager")
    capturing = getattr(manager, "_global_capturing", None)
    captures: List[Any] = [getattr(capturing, name, None) for name in ("out", "err")]
    # Only captures by descriptor keep a copy of the descriptor that they replaced.
    return [capture for capture in captures if hasattr(capture, "targetfd_save")]


def register_stack_dumps(scratch: str, runner_id: str) -> None:
    """Write stacks of all threads to ``scratch/<runner_id>-<pid>.stacks``: on fatal signals, and on demand."""
    import faulthandler

    path = os.path.join(scratch, "%s-%d.stacks" % (runner_id, os.getpid()))
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError:
        # No room for evidence is no reason not to run tests.
        return
    # Never closed: it must be there when everything else is broken.
    faulthandler.enable(file=descriptor, all_threads=True)
    on_demand = signal.SIGRTMIN + 7 if hasattr(signal, "SIGRTMIN") else signal.SIGUSR2
    if hasattr(faulthandler, "register"):
        faulthandler.register(on_demand, file=descriptor, all_threads=True, chain=False)


def reseed() -> None:
    """New random states where the library does not see to that itself (``random`` does)."""
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        try:
            numpy_random.seed()
        except Exception:
            # Half imported, or replaced by the suite.
            pass
    torch = sys.modules.get("torch")
    if torch is not None:
        try:
            torch.default_generator.manual_seed(int.from_bytes(os.urandom(8), "big") >> 1)
        except Exception:
            # As above.
            pass


def forget_exit_handlers() -> None:
    """Leave to the template what was registered before the fork (a temporary directory of all runners, say).

    What this process registers from now on is its own, and ``run_exit_handlers`` calls it.
    """
    import weakref

    atexit._clear()
    for info in getattr(weakref.finalize, "_registry", {}).values():
        info.atexit = False
    if getattr(weakref.finalize, "_registered_with_atexit", False):
        atexit.register(weakref.finalize._exitfunc)  # type: ignore[attr-defined]
    util = sys.modules.get("multiprocessing.util")
    if util is not None and hasattr(util, "_exit_function"):
        util._finalizer_registry.clear()
        atexit.register(util._exit_function)
    logging = sys.modules.get("logging")
    if logging is not None:
        atexit.register(logging.shutdown)


def leave(status: int) -> None:
    """Run exit handlers, flush, and end this process without finalising the interpreter, which nobody waits for."""
    run_exit_handlers()
    os._exit(status)


def run_exit_handlers() -> None:
    """Run what was registered with ``atexit``, and flush."""
    try:
        atexit._run_exitfuncs()
    except BaseException as error:
        # The interpreter would print it and go on, too.
        sys.excepthook(type(error), error, error.__traceback__)
    flush_output()


def flush_output() -> None:
    """Flush the standard streams, those of pytest's capture and the real ones."""
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        try:
            stream.flush()  # type: ignore[union-attr]
        except (AttributeError, OSError, ValueError):
            # Closed or replaced by a test.
            continue


def separate_basetemp(config: Any, runner_id: str) -> None:
    """Give this runner ``popen-<runner_id>`` below the template's base temporary directory, as pytest-xdist does."""
    factory = getattr(config, "_tmp_path_factory", None)
    if factory is None:
        return
    own = factory.getbasetemp() / ("popen-" + runner_id)
    # A runner that takes the place of a crashed one keeps what that left behind.
    own.mkdir(mode=0o700, exist_ok=True)
    factory._basetemp = own
    factory._given_basetemp = own
    if hasattr(factory, "_exit_stack"):
        # Old base directories are removed once, by the template.
        factory._exit_stack = contextlib.ExitStack()
    config.option.basetemp = str(own)


def remove_old_basetemps(config: Any) -> None:
    """What newer pytest does at the end of a session with the base temporary directories of earlier ones."""
    stack = getattr(getattr(config, "_tmp_path_factory", None), "_exit_stack", None)
    if stack is not None:
        stack.close()
