"""``fleetest run`` with pytest arguments: pytest in this process, on a fleet unless it is told otherwise."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Sequence
from typing import Any

import pytest

from fleetest.client.live_view import LiveView
from fleetest.client.pytest_options import PLUGIN_OPTIONS

_DEFAULT_TARGET = "auto"


def plugin_arguments(arguments: Sequence[str]) -> list[str]:
    """The arguments with our own options under the plugin's names, each in one word.

    pytest takes a path that stands alone for a test path when it looks for the root directory.
    """
    joined: list[str] = []
    words = iter(arguments)
    for word in words:
        if word == "--":
            return [*joined, word, *words]
        name, equals, value = word.partition("=")
        name = PLUGIN_OPTIONS.get(name, name)
        if name == "--fleet-dashboard" and not equals:
            value = "0"
        elif name in PLUGIN_OPTIONS.values() and not equals:
            value = next(words, "")
        joined.append(f"{name}={value}" if name in PLUGIN_OPTIONS.values() else word)
    return joined


def run_pytest(arguments: Sequence[str]) -> int:
    """pytest in this process, on a fleet; returns its exit status."""
    arguments = plugin_arguments(arguments)
    # What pytest derives its own name in messages from.
    sys.argv = ["pytest", *arguments]
    plugins: list[object] = [LiveView(), _FleetByDefault()]
    if os.environ.get("PYTEST_DISABLE_PLUGIN_AUTOLOAD") or "--disable-plugin-autoload" in arguments:
        plugins.append("fleetest.pytest_plugin")
    return int(pytest.main(list(arguments), plugins=plugins))


class _FleetByDefault:
    """Sets ``--fleet auto`` where neither the command line nor the configuration names a fleet."""

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_load_initial_conftests(self, early_config: pytest.Config) -> Generator[None, object, object]:
        self._set(early_config, early_config.known_args_namespace)
        return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_cmdline_main(self, config: pytest.Config) -> Generator[None, object, object]:
        self._set(config, config.option)
        return (yield)

    def _set(self, config: pytest.Config, options: Any) -> None:
        # Without the attribute the plugin itself is switched off (-p no:fleetest): then pytest runs alone.
        if hasattr(options, "fleet") and options.fleet is None and not config.getini("fleet"):
            options.fleet = _DEFAULT_TARGET
