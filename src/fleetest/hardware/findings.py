"""What one probe found, in the form of capabilities."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Findings:
    """Attributes are matched, resources are counted; see ``core.model.Capabilities``."""

    attributes: dict[str, list[str]] = field(default_factory=dict)
    resources: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, *values: str) -> None:
        """Add values of an attribute; empty and repeated ones are left out."""
        known = self.attributes.setdefault(name, [])
        known.extend(value for value in dict.fromkeys(values) if value and value not in known)
        if not known:
            del self.attributes[name]

    def merge(self, other: Findings) -> None:
        for name, values in other.attributes.items():
            self.add(name, *values)
        self.resources.update(other.resources)


def first_line(lines: Iterable[str], prefix: str) -> str:
    """What follows ``prefix`` in the first line that starts with it, stripped; "" if none does."""
    for line in lines:
        if line.startswith(prefix):
            return line[len(prefix) :].strip()
    return ""
