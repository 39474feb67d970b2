"""What stands under the name ``terminalreporter`` in a process that shows nothing."""

from __future__ import annotations

import os

from .guards import WORKER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, List

_NAME = "terminalreporter"


class TerminalShell:
    """Answers for pytest's terminal reporter, which writes to nowhere, and implements none of its hooks.

    ``config.get_terminal_writer``, live logging and plugins find what they expect; nobody formats a progress line.
    """

    def __init__(self, reporter: Any) -> None:
        self._fleetest_reporter = reporter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fleetest_reporter, name)


def silence_terminal(config: Any) -> None:
    """Replace the terminal reporter (if there is one) by its shell."""
    manager = config.pluginmanager
    reporter = manager.get_plugin(_NAME)
    if reporter is None:
        return
    manager.unregister(reporter)
    from _pytest.config import create_terminal_writer

    nowhere: Any = _Nowhere()
    reporter._tw = create_terminal_writer(config, nowhere)
    manager.register(TerminalShell(reporter), _NAME)


def show_live_text(config: Any) -> None:
    """Let through what pytest shows while a test runs (live logging, ``--setup-show``): to standard output.

    pytest suspends its capture for that, so it goes where a user's uncaptured output goes. One write for each piece.
    """
    from _pytest.config import create_terminal_writer

    plugin = config.pluginmanager.get_plugin("logging-plugin")
    handler: Any = getattr(plugin, "log_cli_handler", None)
    if getattr(handler, "stream", None) is not None:
        stream: Any = _Piecewise()
        handler.stream = _LiveLog(create_terminal_writer(config, stream))
    shell = config.pluginmanager.get_plugin(_NAME)
    if config.option.setupshow and isinstance(shell, TerminalShell):
        stream = _Piecewise()
        shell._fleetest_reporter._tw = create_terminal_writer(config, stream)


class _LiveLog:
    """What live logging needs of a terminal reporter; its headings name the test, for several run at once."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer
        self.write = writer.write
        self.flush = writer.flush

    def section(self, title: str, sep: str = "=", **markup: bool) -> None:
        test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" (")[0]
        words = [title, os.environ.get(WORKER, "") if test else "", test]
        self._writer.sep(sep, " ".join(word for word in words if word), **markup)


class _Nowhere:
    """A text stream that keeps nothing and needs no descriptor."""

    encoding = "utf-8"
    errors = "replace"
    name = os.devnull
    closed = False

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return False


class _Piecewise(_Nowhere):
    """Standard output in pieces from flush to flush, so that those of several runners do not mix."""

    def __init__(self) -> None:
        self._piece: List[str] = []

    def write(self, text: str) -> int:
        self._piece.append(text)
        return len(text)

    def flush(self) -> None:
        data = "".join(self._piece).encode("utf-8", "replace")
        self._piece.clear()
        try:
            while data:
                data = data[os.write(1, data) :]
        except OSError:
            # A test closed it: then there is nobody to show it to.
            pass
