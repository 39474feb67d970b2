"""Capability detection: each probe against files, programs and drivers of the test's own."""

from __future__ import annotations

import os
import platform
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from fleetest.core.conditions import parse_conditions
from fleetest.core.matching import holds
from fleetest.core.model import Capabilities
from fleetest.hardware import browsers, detect, detect_cheaply, detection, gpus, machine, programs
from fleetest.hardware.findings import Findings


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def script(path: Path, code: str) -> None:
    write(path, f"#!/bin/sh\n{code}\n")
    path.chmod(0o755)


@pytest.fixture
def no_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The only directory on PATH, empty."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


# Processors and memory ----------------------------------------------------------------------------------------------


def test_the_tightest_cpu_quota_of_the_unified_hierarchy_counts(tmp_path: Path) -> None:
    write(tmp_path / "cpu.max", "max 100000\n")
    write(tmp_path / "a" / "cpu.max", "150000 100000\n")
    write(tmp_path / "a" / "b" / "cpu.max", "400000 100000\n")
    assert machine.cpu_quota(tmp_path, {"": "/a/b"}) == 1.5


def test_the_older_cpu_quota_counts_and_none_is_infinite(tmp_path: Path) -> None:
    write(tmp_path / "cpu" / "g" / "cpu.cfs_quota_us", "50000\n")
    write(tmp_path / "cpu" / "g" / "cpu.cfs_period_us", "100000\n")
    write(tmp_path / "cpu" / "cpu.cfs_quota_us", "-1\n")
    write(tmp_path / "cpu" / "cpu.cfs_period_us", "100000\n")
    assert machine.cpu_quota(tmp_path, {"cpu": "/g"}) == 0.5
    assert machine.cpu_quota(tmp_path, {"cpu": "/"}) == float("inf")
    assert machine.cpu_quota(tmp_path, {}) == float("inf")


def test_memory_limits_of_both_hierarchies(tmp_path: Path) -> None:
    write(tmp_path / "a" / "memory.max", "1000\n")
    write(tmp_path / "a" / "b" / "memory.max", "max\n")
    write(tmp_path / "memory" / "g" / "memory.limit_in_bytes", "700\n")
    assert machine.memory_limit(tmp_path, {"": "/a/b"}) == 1000
    assert machine.memory_limit(tmp_path, {"memory": "/g"}) == 700
    assert machine.memory_limit(tmp_path, {}) == float("inf")


def test_this_machine_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cpu_quota", lambda: 0.5)
    found = machine.probe_machine()
    assert found.resources["cpus"] == 0.5
    assert found.resources["memory"] > 0
    assert found.attributes["arch"] == [platform.machine()]
    assert found.attributes["kernel"] == [platform.release()]


# Programs -----------------------------------------------------------------------------------------------------------


def test_versions_are_asked_of_the_programs(no_path: Path) -> None:
    script(no_path / "says", "echo 'Program 12.3.4 (stable)'")
    script(no_path / "fails", "echo 'Program 12.3.4'; exit 1")
    script(no_path / "mute", "echo hello")
    assert programs.ask_version(str(no_path / "says"), 30.0) == "12.3.4"
    assert programs.ask_version(str(no_path / "fails"), 30.0) == ""
    assert programs.ask_version(str(no_path / "mute"), 30.0) == ""
    assert programs.ask_version(str(no_path / "absent"), 30.0) == ""


def test_programs_are_asked_at_the_same_time(no_path: Path) -> None:
    os.mkfifo(no_path / "fifo")
    script(no_path / "first", f"echo > {no_path}/fifo; echo Program 1.0")
    script(no_path / "other", f"read line < {no_path}/fifo; echo Program 2.0")
    asked = [str(no_path / name) for name in ("first", "other", "absent")]
    assert programs.ask_versions(asked, 30.0) == ["1.0", "2.0", ""]
    assert programs.ask_versions([], 30.0) == []


def test_a_program_that_does_not_answer_is_given_up(no_path: Path) -> None:
    script(no_path / "hangs", "exec /bin/sleep 1000")
    assert programs.ask_version(str(no_path / "hangs"), 0.05) == ""


def test_each_interpreter_on_the_path_is_asked_once(no_path: Path) -> None:
    script(no_path / "python3.98", "echo Python 3.98.1")
    script(no_path / "python3.99", "echo Python 3.99.0")
    (no_path / "python3").symlink_to(no_path / "python3.99")
    script(no_path / "python3-config", "echo 1.2.3")
    write(no_path / "python3.97", "not executable")
    assert len(programs.find_pythons()) == 2
    found = detection.probe_pythons()
    assert found.attributes["python"] == [platform.python_version(), "3.99.0", "3.98.1"]


def test_the_given_interpreter_comes_first(no_path: Path) -> None:
    script(no_path / "mine", "echo Python 3.8.20")
    assert detection.probe_pythons(str(no_path / "mine")).attributes == {
        "python": ["3.8.20"],
        "python.default": ["3.8.20"],
    }


def test_a_browser_is_one_only_if_it_tells_its_version(no_path: Path) -> None:
    script(no_path / "google-chrome", "echo Google Chrome 126.0.6478.126")
    script(no_path / "chromium-browser", "echo 'install it with snap install chromium 1.0'; exit 10")
    found = browsers.probe_browsers()
    assert found.attributes == {"browser": ["chrome"], "browser.chrome": ["126.0.6478.126"]}
    assert browsers.probe_browsers_cheaply().attributes == {"browser": ["chromium", "chrome"]}


# GPUs ---------------------------------------------------------------------------------------------------------------


class FakeNvmlError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__(f"NVML {value}")
        self.value = value


def fake_nvml(**overrides: Any) -> types.ModuleType:
    module = types.ModuleType("pynvml")
    functions = {
        "NVMLError": FakeNvmlError,
        "NVML_ERROR_LIBRARY_NOT_FOUND": 12,
        "NVML_ERROR_DRIVER_NOT_LOADED": 9,
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetName": lambda handle: b"NVIDIA H100 80GB HBM3",
        "nvmlDeviceGetMemoryInfo": lambda handle: types.SimpleNamespace(total=85_520_809_984),
        "nvmlDeviceGetCudaComputeCapability": lambda handle: (9, 0),
        "nvmlSystemGetDriverVersion": lambda: "550.54.15",
        "nvmlSystemGetCudaDriverVersion": lambda: 12040,
        **overrides,
    }
    for name, value in functions.items():
        setattr(module, name, value)
    return module


def raising(error: Exception) -> Any:
    def call(*_arguments: object) -> None:
        raise error

    return call


def test_nvidia_gpus_satisfy_what_people_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml())
    found = gpus.probe_nvidia()
    assert found.resources == {"gpus": 2.0}
    capabilities = Capabilities({name: tuple(values) for name, values in found.attributes.items()}, found.resources)
    wanted = "cuda>=12, cuda=12.4, gpu.memory>=16GiB, gpu.compute>=8.0, gpu.driver>=550, gpu.vendor=nvidia, gpus>=2"
    for constraint in parse_conditions(wanted):
        assert holds(constraint, capabilities), constraint
    for constraint in parse_conditions("cuda>=13, gpu.memory>=100GiB, gpu.compute>9.0, rocm=present"):
        assert not holds(constraint, capabilities), constraint


@pytest.mark.parametrize("code", [9, 12])
def test_no_driver_is_no_gpu_and_no_trouble(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(nvmlInit=raising(FakeNvmlError(code))))
    assert gpus.probe_nvidia() == Findings()


def test_without_the_library_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert gpus.probe_nvidia() == Findings()


def test_amd_gpus_are_the_nodes_with_simd_units(tmp_path: Path) -> None:
    write(tmp_path / "kfd", "")
    write(tmp_path / "nodes" / "0" / "properties", "cpu_cores_count 16\nsimd_count 0\ngfx_target_version 0\n")
    write(tmp_path / "nodes" / "1" / "properties", "cpu_cores_count 0\nsimd_count 304\ngfx_target_version 90010\n")
    found = gpus.probe_amd(tmp_path / "nodes", tmp_path / "kfd")
    assert found.resources == {"gpus": 1.0}
    assert found.attributes == {"gpu.target": ["gfx90a"], "gpu.vendor": ["amd"], "rocm": ["present"]}
    assert gpus.probe_amd(tmp_path / "nodes", tmp_path / "absent") == Findings()


# All together -------------------------------------------------------------------------------------------------------


def test_a_probe_that_fails_costs_only_itself(
    monkeypatch: pytest.MonkeyPatch, no_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(detection, "probe_nvidia", raising(FakeNvmlError(999)))
    with caplog.at_level("INFO", logger="fleetest.hardware"):
        capabilities = detect()
    assert capabilities.attributes["os"] == ({"darwin": "macos"}.get(sys.platform, sys.platform),)
    assert "NVML 999" in caplog.text


def test_what_the_owner_says_wins(no_path: Path) -> None:
    capabilities = detect({"Arch": ("special",), "room": ("3", "4")}, {"cpus": 3.0, "licence": 2.0})
    assert capabilities.attributes["arch"] == ("special",)
    assert capabilities.attributes["room"] == ("3", "4")
    assert (capabilities.resources["cpus"], capabilities.resources["licence"]) == (3.0, 2.0)


def test_the_cheap_way_starts_no_program(monkeypatch: pytest.MonkeyPatch, no_path: Path) -> None:
    script(no_path / "firefox", "exit 1")
    monkeypatch.setattr(programs.subprocess, "run", raising(AssertionError("a program was started")))
    monkeypatch.setattr(detection, "has_nvidia_driver", lambda: False)
    monkeypatch.setattr(detection, "probe_nvidia", raising(AssertionError("the driver was asked")))
    capabilities = detect_cheaply({"a": ("b",)})
    assert capabilities.attributes["python"] == (platform.python_version(),)
    assert capabilities.attributes["browser"] == ("firefox",)
    assert capabilities.attributes["a"] == ("b",)
    assert capabilities.resources["cpus"] > 0


def test_the_cheap_way_asks_the_driver_where_it_lists_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert not gpus.has_nvidia_driver(tmp_path / "absent")
    write(tmp_path / "gpus" / "0000:01:00.0" / "information", "Model: X")
    assert gpus.has_nvidia_driver(tmp_path / "gpus")
    monkeypatch.setattr(detection, "has_nvidia_driver", lambda: True)
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml())
    assert detect_cheaply().resources["gpus"] == 2.0
