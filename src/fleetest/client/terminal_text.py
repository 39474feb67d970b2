"""Text of strangers made safe to show: test names, output and tracebacks are hostile until they went through here."""

from __future__ import annotations

import re

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")
_COLOUR = re.compile(r"\x1b\[[0-9;:]*m")
_HOSTILE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters but tab and newline
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # text direction, which can make a name read as another one
    "\u2028\u2029\ud800-\udfff]"
)


def printable(text: str) -> str:
    """``text`` without colours, every control character spelled out (``\\x1b``); tabs and line ends stay."""
    if text.isascii() and text.isprintable():
        return text
    text = _COLOUR.sub("", text).replace("\r\n", "\n")
    return _HOSTILE.sub(_spelled_out, text)


def one_line(text: str, width_max: int = 300) -> str:
    """The printable text on one line, cut to ``width_max`` characters."""
    line = " ".join(printable(text[: 4 * width_max]).split())
    return line if len(line) <= width_max else line[: width_max - 1] + "…"


def csv_text(text: str) -> str:
    """Printable, and with an apostrophe before what a spreadsheet would take for a formula."""
    text = printable(text)
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text


def counted(number: int, what: str) -> str:
    """``1 test``, ``2 tests``."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """``0.02 s``, ``12.3 s``, ``2:05``, ``1:02:05``: as short as it can be read at a glance."""
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 0.995 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _spelled_out(match: re.Match[str]) -> str:
    return match.group().encode("unicode_escape").decode("ascii")
