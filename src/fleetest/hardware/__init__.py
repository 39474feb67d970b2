"""What this machine has: processors, memory, interpreters, GPUs, browsers, and what its owner says it has."""

from fleetest.hardware.detection import detect, detect_cheaply

__all__ = ["detect", "detect_cheaply"]
