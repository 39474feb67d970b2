"""Browsers that really start: found as executables, and they tell their version."""

from __future__ import annotations

from fleetest.hardware.findings import Findings
from fleetest.hardware.programs import ask_version, find_programs

_ASK_TIMEOUT_S = 5.0
_PROGRAMS = {
    "chromium": ("chromium", "chromium-browser"),
    "chrome": ("google-chrome", "google-chrome-stable"),
    "firefox": ("firefox", "firefox-esr"),
    "edge": ("msedge", "microsoft-edge", "microsoft-edge-stable"),
}


def probe_browsers() -> Findings:
    """``browser`` (names) and ``browser.NAME`` (version).

    The version is asked of the program itself: a placeholder that only says how to install a browser is none.
    """
    found = Findings()
    for name, programs in _PROGRAMS.items():
        for program in find_programs(programs):
            version = ask_version(program, _ASK_TIMEOUT_S)
            if version:
                found.add("browser", name)
                found.add(f"browser.{name}", version)
                break
    return found


def probe_browsers_cheaply() -> Findings:
    """The names of installed programs, without asking them."""
    found = Findings()
    for name, programs in _PROGRAMS.items():
        if find_programs(programs):
            found.add("browser", name)
    return found
