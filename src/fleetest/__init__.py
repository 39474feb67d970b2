"""Fleetest runs a test suite on a fleet of machines and gives back exactly one verdict per test.

PYTEST_DONT_REWRITE: this package is imported already when ``fleetest run`` starts pytest, which would warn of it.
"""

from __future__ import annotations

__version__ = "0.1.0"
__all__ = ["__version__"]
