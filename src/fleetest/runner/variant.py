"""The value that the current test is executed for, of those tests that run once on each value of a capability.

The worker says it in a file, a line of JSON per such position, before it hands out the position, and marks the
position. The last line for a position holds.
"""

from __future__ import annotations

import json
import os

import pytest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Generator

MARK = 0x40000000
"""Set in a position: this item is executed for one value of a capability."""
VARIABLE = "FLEETEST_VARIANT"
"""Where a test and its subprocesses, as commands do, find ``name=value``."""


class Variant:
    """``name`` of the capability and its ``value``; both empty, and the variant false, where a test runs only once."""

    def __init__(self, text: str) -> None:
        self.name, _, self.value = text.partition("=")

    def __bool__(self) -> bool:
        return bool(self.name)

    def __str__(self) -> str:
        return "%s=%s" % (self.name, self.value) if self.name else ""

    def __repr__(self) -> str:
        return "<Variant %s>" % (str(self) or "none")


class Variants:
    """What the current test is executed for, and the ones that follow."""

    def __init__(self) -> None:
        self.current = os.environ.get(VARIABLE, "")
        self._otherwise = self.current
        """What the environment of the run says of tests that are no variants."""
        self.is_read = False
        """A fixture that is set up knows it."""
        self._path = ""
        self._seen_bytes = 0
        self._known: Dict[int, str] = {}
        # Bound now: the file is read while a test that replaces files is not torn down yet.
        self._open, self._read, self._close = os.open, os.pread, os.close

    def listen(self, path: str) -> None:
        """Where the worker will write."""
        self._path = path

    def of(self, position: int) -> str:
        """What the marked position that was read last is executed for."""
        descriptor = self._open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = b""
            while True:
                more = self._read(descriptor, 1 << 20, self._seen_bytes + len(data))
                if not more:
                    break
                data += more
        finally:
            self._close(descriptor)
        # The worker may be appending for later positions: what is written of a line is read again when it is whole.
        data = data[: data.rfind(b"\n") + 1]
        self._seen_bytes += len(data)
        for line in data.splitlines():
            place, variant = json.loads(line.decode("utf-8"))
            self._known[place] = variant
        return self._known[position]

    def parts_from(self, variant: str) -> bool:
        """Before a test for this value nothing that was set up for the current one may be left.

        Whatever was set up may have looked at the value. Beside tests that are for no value only the fixture tells:
        those set up what is expensive, and it would be set up again for every test of the other sort among them.
        """
        variant = variant or self._otherwise
        return variant != self.current and (self.is_read or bool(variant and self.current))

    def enter(self, variant: str) -> None:
        """The next test is for this value; empty: for none."""
        variant = variant or self._otherwise
        if variant != self.current:
            self.current = variant
            if variant:
                os.environ[VARIABLE] = variant
            else:
                os.environ.pop(VARIABLE, None)


VARIANTS = pytest.StashKey["Variants"]()
"""Where the fixture finds them in ``config.stash``."""


@pytest.fixture(scope="session")
def fleet_variant(request: Any) -> Generator[Variant, None, None]:
    """The value that this test is executed for; fixtures that use it are set up anew for another one."""
    variants = request.config.stash[VARIANTS]
    variants.is_read = True
    yield Variant(variants.current)
    variants.is_read = False
