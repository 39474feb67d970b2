"""Fleetest runs a test suite on a fleet of machines and gives back exactly one verdict per test."""

from __future__ import annotations

__version__ = "0.1.0"
__all__ = ["__version__"]
