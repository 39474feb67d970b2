"""Where Fleetest's plugin is not installed, what a suite says to it must not be an error."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Sequence


def add_unknown_options(parser: Any, args: Sequence[str]) -> None:
    """Declare every ``--fleet...`` option among ``args`` (from ``addopts``): to be accepted and ignored."""
    seen = set()
    group = parser.getgroup("fleetest")
    for index, argument in enumerate(args):
        if not argument.startswith("--fleet"):
            continue
        name, equals, _ = argument.partition("=")
        if name in seen:
            continue
        seen.add(name)
        following = args[index + 1] if index + 1 < len(args) else "-"
        has_value = bool(equals) or not (following.startswith("-") or os.path.exists(following))
        group.addoption(name, action="append" if has_value else "count", dest=name.strip("-").replace("-", "_"))


def add_unknown_settings(parser: Any, config: Any) -> None:
    """Declare every ``fleet...`` setting of the configuration file."""
    for name in getattr(config, "inicfg", None) or ():
        if str(name).startswith("fleet"):
            parser.addini(name, "a setting of Fleetest, which is not installed here", default=None)


def register_marks(config: Any) -> None:
    """Declare the marks that Fleetest and pytest-xdist would have declared."""
    manager = config.pluginmanager
    if not manager.hasplugin("fleetest"):
        config.addinivalue_line("markers", "fleet(**requirements): what the test needs of a machine, see Fleetest.")
    if not manager.hasplugin("xdist"):
        config.addinivalue_line("markers", "xdist_group(name): tests of one group run in one process.")
