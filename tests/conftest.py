"""What every test can rely on: no settings of the person or machine that runs it, and no deadline in property tests."""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import HealthCheck, settings

# A shell that starts us in the background, or nohup, has these ignored, and every process of every test would inherit
# that: what is tested here is Ctrl-C and the end of a terminal.
for _number, _handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)

pytest_plugins = ["pytester"]

# A slow machine is no counterexample.
settings.register_profile("fleetest", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("fleetest")

_FOREIGN_PREFIXES = ("FLEETEST_", "PYTEST_XDIST_")
_FOREIGN_NAMES = ("PYTEST_ADDOPTS", "PYTEST_PLUGINS", "PYTEST_DISABLE_PLUGIN_AUTOLOAD", "PYTHONPATH", "PYTHONHOME")


@pytest.fixture(autouse=True)
def _no_foreign_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name in _FOREIGN_NAMES or name.startswith(_FOREIGN_PREFIXES):
            monkeypatch.delenv(name)
