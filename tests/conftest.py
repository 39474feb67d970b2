"""What every test can rely on: no settings of the person or machine that runs it, and no deadline in property tests."""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import HealthCheck, settings

from fleetest.core import cluster_state

# A shell that starts us in the background, or nohup, has these ignored, and every process of every test would inherit
# that: what is tested here is Ctrl-C and the end of a terminal.
for _number, _handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)

# Many tests write a suite, run it and write it anew: within one second, and often in the same number of bytes, which is
# all that Python and pytest tell a stale compiled module by.
os.environ["PYTHONDONTWRITEBYTECODE"] = "1"

pytest_plugins = ["pytester"]

# A slow machine is no counterexample. Whether a change passes is no matter of luck: the same examples every time. Those
# that nobody has tried yet are for `make explore`.
settings.register_profile("fleetest", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
settings.register_profile("explore", settings.get_profile("fleetest"), derandomize=False, print_blob=True)
settings.load_profile("fleetest")

_FOREIGN_PREFIXES = ("FLEETEST_", "PYTEST_XDIST_")
_FOREIGN_NAMES = (
    "PYTEST_ADDOPTS",
    "PYTEST_PLUGINS",
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD",
    "PYTEST_THEME",
    "PYTEST_THEME_MODE",
    "PYTHONPATH",
    "PYTHONHOME",
    # With these pytest prints the whole of a failure in its short summary too.
    "CI",
    "BUILD_NUMBER",
    # What a terminal is like. Tests look at what programs print.
    "COLUMNS",
    "LINES",
    "FORCE_COLOR",
    "NO_COLOR",
    "PY_COLORS",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not (cluster_state.__file__ or "").endswith(".py"):
        compiled = pytest.mark.skip(reason="the core is compiled: nothing in it can be replaced")
        for item in items:
            if item.get_closest_marker("replaces_core"):
                item.add_marker(compiled)


@pytest.fixture(autouse=True)
def _no_foreign_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name in _FOREIGN_NAMES or name.startswith(_FOREIGN_PREFIXES):
            monkeypatch.delenv(name)
