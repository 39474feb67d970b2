"""GPUs: NVIDIA's through NVML, AMD's as far as the kernel tells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fleetest.hardware.findings import Findings, first_line

_NVIDIA_PROC = Path("/proc/driver/nvidia/gpus")
_KFD_NODES = Path("/sys/class/kfd/kfd/topology/nodes")
_KFD_DEVICE = Path("/dev/kfd")
_MIB = 1024 * 1024


def has_nvidia_driver(proc: Path = _NVIDIA_PROC) -> bool:
    """True if the NVIDIA kernel driver lists a GPU; one directory listing."""
    try:
        return any(True for _ in proc.iterdir())
    except OSError:
        return False


def probe_nvidia() -> Findings:
    """``gpus`` as a resource; ``gpu.model``, ``gpu.memory``, ``gpu.compute``, ``gpu.driver``, ``cuda`` as attributes.

    ``cuda`` is the newest version that the driver supports. Nothing is found without NVML. Raises NVML's own errors.
    """
    found = Findings()
    try:
        import pynvml
    except ImportError:
        return found
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        if _is_absence(pynvml, error):
            return found
        raise
    try:
        count = pynvml.nvmlDeviceGetCount()
        for index in range(count):
            _add_nvidia_gpu(pynvml, pynvml.nvmlDeviceGetHandleByIndex(index), found)
        if count:
            found.resources["gpus"] = float(count)
            found.add("gpu.vendor", "nvidia")
            found.add("gpu.driver", _text(pynvml.nvmlSystemGetDriverVersion()))
            cuda = pynvml.nvmlSystemGetCudaDriverVersion()
            found.add("cuda", f"{cuda // 1000}.{cuda % 1000 // 10}")
    finally:
        pynvml.nvmlShutdown()
    return found


def _add_nvidia_gpu(pynvml: Any, handle: Any, found: Findings) -> None:
    found.add("gpu.model", _text(pynvml.nvmlDeviceGetName(handle)))
    found.add("gpu.memory", f"{pynvml.nvmlDeviceGetMemoryInfo(handle).total // _MIB}MiB")
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    found.add("gpu.compute", f"{major}.{minor}")


def _is_absence(pynvml: Any, error: Exception) -> bool:
    """No library or no driver is no trouble: there is just no such GPU."""
    codes = (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
    return getattr(error, "value", None) in codes


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def probe_amd(nodes: Path = _KFD_NODES, device: Path = _KFD_DEVICE) -> Findings:
    """``gpus``, ``rocm`` (``present``), ``gpu.vendor`` and ``gpu.target`` from the kernel's list of compute nodes.

    Model and memory are not told there in a form that is worth believing, so nothing is said of them.
    """
    found = Findings()
    if not device.exists():
        return found
    count = 0
    for node in sorted(nodes.iterdir()):
        lines = (node / "properties").read_text().splitlines()
        # Processors are nodes too: they have no SIMD units.
        if int(first_line(lines, "simd_count ") or 0) > 0:
            count += 1
            found.add("gpu.target", _gfx_name(first_line(lines, "gfx_target_version ")))
    if count:
        found.resources["gpus"] = float(count)
        found.add("gpu.vendor", "amd")
        found.add("rocm", "present")
    return found


def _gfx_name(version: str) -> str:
    """``90010`` means gfx90a: major, minor and stepping as two digits each, the last two in hexadecimal."""
    if not version.isdigit() or int(version) == 0:
        return ""
    number = int(version)
    return f"gfx{number // 10000}{number // 100 % 100:x}{number % 100:x}"
