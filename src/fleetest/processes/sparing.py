"""What Python's collector need not look through again."""

from __future__ import annotations

import gc
import sys


def spare_what_is_loaded() -> None:
    """Keep the collector away from everything that is alive now.

    Not where somebody is going to ask it about that: Hypothesis, when it is imported, about the random numbers of a
    trio that was imported before, and it warns if nothing seems to refer to them.
    """
    # Not every implementation has it.
    if hasattr(gc, "freeze") and not ("trio" in sys.modules and "hypothesis" not in sys.modules):
        gc.freeze()
