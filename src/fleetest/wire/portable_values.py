"""Reads the portable values that a runner writes (see the runner protocol)."""

from __future__ import annotations

import base64
from typing import Any

import msgspec


def from_portable(value: Any) -> Any:
    """The Python value of decoded JSON: tuples, bytes and dictionaries with other keys come back as what they were."""
    if isinstance(value, list):
        return [from_portable(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        [(tag, content)] = value.items()
        if tag == "$tuple":
            return tuple(from_portable(entry) for entry in content)
        if tag == "$bytes":
            return base64.b64decode(content)
        if tag == "$dict":
            return {_hashable(from_portable(key)): from_portable(entry) for key, entry in content}
    return {key: from_portable(entry) for key, entry in value.items()}


def read_fields(serialised: bytes) -> dict[str, Any]:
    """Fields of a report or warning. It comes from the user's process and may be anything: else it has no fields."""
    try:
        value = from_portable(msgspec.json.decode(serialised))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, TypeError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _hashable(key: Any) -> Any:
    try:
        hash(key)
    except TypeError:
        return repr(key)
    return key
