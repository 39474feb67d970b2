"""The workers that the tests of the policies speak of, and how to ask for what they have."""

from __future__ import annotations

from fleetest.core.model import Capabilities, Requirements
from fleetest.core.requirements import parse_options

GB = 1e9

CPU = Capabilities({"os": ("linux",)}, {"cpus": 4.0, "memory": 8 * GB})
CUDA = Capabilities(
    {"os": ("linux",), "cuda": ("12.4",), "gpu.compute": ("7.5",), "gpu.vendor": ("nvidia",)},
    {"cpus": 4.0, "memory": 16 * GB, "gpus": 1.0},
)
ROCM = Capabilities({"rocm": ("present",), "gpu.vendor": ("amd",)}, {"memory": 16 * GB})
BROWSER = Capabilities({"feature": ("webgpu", "webnn"), "browser": ("chrome", "firefox", "edge")}, {"memory": 8 * GB})
FOUR_KINDS = {"cpu": CPU, "cuda": CUDA, "rocm": ROCM, "browser": BROWSER}

W1 = Capabilities({}, {"cpus": 4.0, "memory": 8 * GB})
W2 = Capabilities({"cuda": ("12.4",)}, {"cpus": 4.0, "memory": 16 * GB, "gpus": 1.0})
W3 = Capabilities({"feature": ("webgpu",), "browser": ("firefox",)}, {"cpus": 4.0, "memory": 8 * GB})


def needs(**options: object) -> Requirements:
    """Requirements as a user writes them: ``needs(requires="cuda>=12", memory="8GB")``."""
    return parse_options(options).requirements
