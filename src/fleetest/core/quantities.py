"""Numbers with units, as users and machines write them: ``16GiB``, ``3.2GHz``, ``10Gbit/s``, ``5ms``, ``300W``.

Units are written and read here and nowhere else. k, M, G, T, P are powers of 1000, Ki, Mi, Gi, Ti, Pi of 1024. Case
does not matter, but for the B of bytes in a rate: ``bit/s`` and ``B/s`` differ by eight.
"""

from __future__ import annotations

import math
import re
from difflib import get_close_matches
from enum import Enum
from fractions import Fraction
from typing import NamedTuple


class RequirementError(ValueError):
    """The user's requirement cannot be understood; one line that says what, where and what would be right."""


class Dimension(Enum):
    """What is measured. Quantities of different dimensions cannot be compared."""

    SIZE = "a size"
    FREQUENCY = "a frequency"
    RATE = "a rate"
    DURATION = "a duration"
    POWER = "a power"


class Quantity(NamedTuple):
    """An exact amount in bytes, hertz, bits per second, seconds or watts."""

    dimension: Dimension
    amount: Fraction


_SI = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "p": 10**15}
_BINARY = {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40, "pi": 2**50}
_PREFIXES = _SI | _BINARY
_DURATIONS = {
    "ns": Fraction(1, 10**9),
    "us": Fraction(1, 10**6),
    "\u00b5s": Fraction(1, 10**6),
    "\u03bcs": Fraction(1, 10**6),
    "ms": Fraction(1, 1000),
    "s": Fraction(1),
    "min": Fraction(60),
    "h": Fraction(3600),
    "d": Fraction(86400),
}
_UNITS: dict[str, tuple[Dimension, Fraction]] = {
    **{f"{prefix}b": (Dimension.SIZE, Fraction(factor)) for prefix, factor in _PREFIXES.items()},
    **{f"{prefix}hz": (Dimension.FREQUENCY, Fraction(factor)) for prefix, factor in _SI.items()},
    **{f"{prefix}bit/s": (Dimension.RATE, Fraction(factor)) for prefix, factor in _PREFIXES.items()},
    **{f"{prefix}bps": (Dimension.RATE, Fraction(factor)) for prefix, factor in _SI.items()},
    **{f"{prefix}b/s": (Dimension.RATE, Fraction(8 * factor)) for prefix, factor in _PREFIXES.items()},
    **{unit: (Dimension.DURATION, factor) for unit, factor in _DURATIONS.items()},
    **{f"{prefix}w": (Dimension.POWER, Fraction(factor)) for prefix, factor in _SI.items()},
}
"""By the unit in lower case."""
_EXAMPLES = (
    *("B", "kB", "MB", "GB", "TB", "KiB", "MiB", "GiB", "TiB"),
    *("Hz", "kHz", "MHz", "GHz", "ns", "us", "ms", "min", "kW"),
    *("bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s", "MB/s", "GB/s", "MiB/s", "GiB/s"),
)
# Bounded, because a peer's capability must cost nothing to read.
_NUMBER = r"\d{1,40}(?:\.\d{1,40})?"
_QUANTITY = re.compile(rf"\s*({_NUMBER})\s*([A-Za-z\u00b5\u03bc]+(?:/[A-Za-z]+)?)\s*")
_PLAIN_NUMBER = re.compile(rf"\s*({_NUMBER})\s*")
_DURATION = re.compile(rf"\s*({_NUMBER})\s*(ms|s|m|h)?\s*")
_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}


def read_quantity(text: str) -> Quantity | None:
    """The quantity that ``text`` writes; None if it is not a number with a known unit."""
    match = _QUANTITY.fullmatch(text)
    if match is None:
        return None
    unit = match[2]
    known = _UNITS.get(unit.lower())
    if known is None or _is_ambiguous(unit):
        return None
    return Quantity(known[0], Fraction(match[1]) * known[1])


def read_number(text: str) -> Fraction | None:
    """The plain number that ``text`` writes; None if it is anything else."""
    match = _PLAIN_NUMBER.fullmatch(text)
    return Fraction(match[1]) if match else None


def unit_trouble(text: str) -> str:
    """What is wrong with the unit of ``text``, if that is a number with something that only looks like one."""
    match = _QUANTITY.fullmatch(text)
    if match is None:
        return ""
    unit = match[2]
    if _is_ambiguous(unit):
        prefix = unit[: unit.index("b")]
        return f"{unit!r} may mean bits or bytes; write {prefix + 'bit/s'!r} or {prefix + 'B/s'!r}"
    if unit.lower() in _UNITS or len(unit) < 2:
        return ""
    # A version may end in letters ("3.0beta"): only what is nearly a unit is taken for one.
    close = get_close_matches(unit, _EXAMPLES, n=1, cutoff=0.6)
    if close or "/" in unit:
        return f"{unit!r} is not a unit" + (f"; did you mean {close[0]!r}?" if close else "")
    return ""


def _is_ambiguous(unit: str) -> bool:
    return unit.endswith(("b/s", "b/S"))


def parse_size(text: object) -> int:
    """Bytes of ``"8GiB"``, ``"500 MB"`` or a plain number of bytes. Raises RequirementError."""
    if isinstance(text, bool) or not isinstance(text, str | int | float):
        raise RequirementError(f'a size is a number of bytes or text such as "8GiB", not {text!r}')
    if not isinstance(text, str):
        if not math.isfinite(text) or text < 0:
            raise RequirementError(f"a size cannot be {text!r}")
        return int(text)
    number = read_number(text)
    if number is not None:
        return int(number)
    quantity = read_quantity(text)
    if quantity is None or quantity.dimension is not Dimension.SIZE:
        raise RequirementError(f'{text!r} is not a size; write for example "8GiB" (2^30) or "8GB" (10^9)')
    return int(quantity.amount)


def format_size(size_bytes: float) -> str:
    """Bytes for people: ``8 GiB``, ``1.5 MiB``, ``900 B``. ``parse_size`` reads it back, rounded to two decimals."""
    for unit in ("Ti", "Gi", "Mi", "Ki"):
        if abs(size_bytes) >= _BINARY[unit.lower()]:
            return f"{size_bytes / _BINARY[unit.lower()]:.2f}".rstrip("0").rstrip(".") + f" {unit}B"
    return f"{size_bytes:.0f} B"


def parse_duration(value: object, *, zero: bool = False) -> float:
    """Seconds of ``90``, ``"90s"``, ``"5m"``, ``"1.5h"`` or ``"200ms"``. Raises RequirementError.

    ``zero``: 0 is a duration too.
    """
    seconds: float | None = None
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    elif isinstance(value, str) and (match := _DURATION.fullmatch(value)):
        seconds = float(match[1]) * _DURATION_UNITS[match[2]]
    if seconds is None or not math.isfinite(seconds) or seconds < 0 or (seconds == 0 and not zero):
        least = "of at least 0" if zero else "above 0"
        raise RequirementError(f'{value!r} is not a duration; write seconds {least} or text such as "90s" or "5m"')
    return seconds
