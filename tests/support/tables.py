"""Measurements as a table for people, and as values for ``--json``."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

_rows: list[dict[str, object]] = []


def as_values() -> list[dict[str, object]]:
    """Every row of every table so far."""
    return list(_rows)


class Samples:
    """Latencies of single operations, seconds."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    @contextmanager
    def one(self) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds.append(time.perf_counter() - started)

    def quantile_s(self, part: float) -> float:
        """The smallest latency that is not exceeded by this part of all (nearest rank)."""
        ordered = sorted(self.seconds)
        return ordered[max(0, math.ceil(part * len(ordered)) - 1)]


class Table:
    """One benchmark's rows; printed when it is closed."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._lines: list[Sequence[str]] = []

    def add(self, load: str, count: int, elapsed_s: float, samples: Samples, *, unit: str = "operations") -> None:
        """``count`` things in ``elapsed_s``; the latencies are those of the calls that did them."""
        throughput = count / max(elapsed_s, 1e-9)
        p50_s, p99_s = samples.quantile_s(0.5), samples.quantile_s(0.99)
        _rows.append(
            {
                "benchmark": self._title,
                "load": load,
                "unit": unit,
                "count": count,
                "elapsed_s": elapsed_s,
                "per_second": throughput,
                "calls": len(samples.seconds),
                "latency_p50_s": p50_s,
                "latency_p99_s": p99_s,
            }
        )
        self._lines.append(
            (load, f"{count:,} {unit}", f"{elapsed_s:.3f} s", f"{throughput:,.0f}/s", _short(p50_s), _short(p99_s))
        )

    def show(self) -> None:
        heads = (self._title, "done", "in", "throughput", "p50", "p99")
        widths = [max(len(line[place]) for line in [heads, *self._lines]) for place in range(len(heads))]
        print()
        for line in [heads, *self._lines]:
            first, *others = zip(line, widths, strict=True)
            print("  ".join([first[0].ljust(first[1]), *(text.rjust(width) for text, width in others)]))


def _short(seconds: float) -> str:
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if seconds * factor >= 1.0:
            return f"{seconds * factor:.1f} {unit}"
    return f"{seconds * 1e9:.0f} ns"
