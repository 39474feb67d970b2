"""Portable values: what of a Python value may travel, as JSON. Nothing that a test reports can break the run."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_DEPTH_MAX = 60
_REPR_CHARACTERS_MAX = 10_000
_INTEGER_MAX = 2**63


def cut(text: str, limit: int) -> str:
    """Head and tail of ``text`` if it is longer than ``limit`` characters, and between them how much is missing."""
    if len(text) <= limit:
        return text
    half = max(limit // 2, 1)
    return "%s\n... %d characters left out ...\n%s" % (text[:half], len(text) - 2 * half, text[-half:])


def safe_repr(value: Any) -> str:
    """``repr`` of a value, whatever that does."""
    try:
        text = str.__str__(repr(value))
    except Exception as error:
        text = "<%s whose repr raised %s>" % (type(value).__name__, type(error).__name__)
    return cut(text, _REPR_CHARACTERS_MAX)


def portable(value: Any, limit: int, depth: int = 0) -> Any:
    """The portable form of ``value`` (see the runner protocol); strings are cut to ``limit`` characters."""
    if value is None or value is True or value is False:
        return value
    if isinstance(value, str):
        return cut(str.__str__(value), limit)
    if isinstance(value, int):
        number = int.__int__(value)
        return number if -_INTEGER_MAX <= number < _INTEGER_MAX else safe_repr(number)
    if isinstance(value, float):
        fraction = float.__float__(value)
        is_finite = fraction - fraction == 0.0
        return fraction if is_finite else float.__repr__(fraction)
    if depth > _DEPTH_MAX:
        return safe_repr(value)
    kind = type(value)
    if kind is dict:
        if all(type(key) is str and not key.startswith("$") for key in value):
            return {key: portable(entry, limit, depth + 1) for key, entry in value.items()}
        return {"$dict": [[portable(k, limit, depth + 1), portable(v, limit, depth + 1)] for k, v in value.items()]}
    if kind is list:
        return [portable(entry, limit, depth + 1) for entry in value]
    if kind is tuple:
        return {"$tuple": [portable(entry, limit, depth + 1) for entry in value]}
    if kind is bytes:
        import base64

        half = max(limit // 2, 1)
        kept = value if len(value) <= limit else value[:half] + b"\n... left out ...\n" + value[-half:]
        return {"$bytes": base64.b64encode(kept).decode("ascii")}
    return safe_repr(value)
