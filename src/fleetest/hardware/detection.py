"""Puts the probes together. Each is on its own: one that fails is noted and costs only what it would have found."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Mapping

from fleetest.core.model import Capabilities
from fleetest.hardware.browsers import probe_browsers, probe_browsers_cheaply
from fleetest.hardware.findings import Findings
from fleetest.hardware.gpus import has_nvidia_driver, probe_amd, probe_nvidia
from fleetest.hardware.machine import probe_machine
from fleetest.hardware.programs import ask_version, ask_versions, find_pythons

_PYTHON_TIMEOUT_S = 5.0
_log = logging.getLogger(__name__)


def detect(
    labels: Mapping[str, tuple[str, ...]] | None = None,
    resources: Mapping[str, float] | None = None,
    *,
    python: str | None = None,
) -> Capabilities:
    """Everything that can be found out. Asks programs for their versions: seconds at worst, so not on an event loop.

    ``labels`` and ``resources`` are what the owner says; they win over what was found. ``python`` is the interpreter
    that suites run with, if it is not this one.
    """
    found = _run(probe_machine, lambda: probe_pythons(python), probe_nvidia, probe_amd, probe_browsers)
    return _capabilities(found, labels, resources)


def detect_cheaply(
    labels: Mapping[str, tuple[str, ...]] | None = None, resources: Mapping[str, float] | None = None
) -> Capabilities:
    """What is known within a few milliseconds and without starting a program, for an embedded worker.

    Of Python only this interpreter, of browsers only their names. Where the NVIDIA driver lists a GPU it is asked
    all the same, since a test that needs one would else never run.
    """
    probes = [probe_machine, _probe_own_python, probe_amd, probe_browsers_cheaply]
    if has_nvidia_driver():
        probes.append(probe_nvidia)
    return _capabilities(_run(*probes), labels, resources)


def _run(*probes: Callable[[], Findings]) -> Findings:
    found = Findings()
    for probe in probes:
        try:
            found.merge(probe())
        except Exception as error:
            # A driver, a file system or a program may fail in any way; a worker without that capability still works.
            _log.info("%s failed: %s: %s", getattr(probe, "__name__", "a probe"), type(error).__name__, error)
    return found


def _capabilities(
    found: Findings, labels: Mapping[str, tuple[str, ...]] | None, resources: Mapping[str, float] | None
) -> Capabilities:
    attributes = {name: tuple(values) for name, values in found.attributes.items()}
    attributes.update({name.lower(): values for name, values in (labels or {}).items()})
    counted = {**found.resources, **{name.lower(): count for name, count in (resources or {}).items()}}
    return Capabilities(attributes, counted)


def _probe_own_python() -> Findings:
    found = Findings()
    found.add("python", platform.python_version())
    found.add("python.default", platform.python_version())
    found.add("python.implementation", platform.python_implementation().lower())
    return found


def probe_pythons(python: str | None = None) -> Findings:
    """``python``: versions of the given interpreter (or else this one), then of those on PATH."""
    found = Findings()
    if python is None:
        found = _probe_own_python()
    else:
        version = ask_version(python, _PYTHON_TIMEOUT_S)
        found.add("python", version)
        found.add("python.default", version)
    found.add("python", *ask_versions(find_pythons(), _PYTHON_TIMEOUT_S))
    return found
