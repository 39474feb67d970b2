"""A finished collection as plain lists: what the worker needs of every item, and nothing that can only live here."""

from __future__ import annotations

from .locations import Locations
from .portable import portable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional, Sequence

_MARK_CHARACTERS_MAX = 100_000


class Collection:
    """``items`` and ``parents`` as in the runner protocol; ``keyword_counts`` by position, for the compact rows."""

    def __init__(self, items: Sequence[Any]) -> None:
        self.items: List[List[Any]] = []
        self.parents: List[List[str]] = []
        self.keyword_counts: List[int] = []
        self._parent_positions: Dict[int, int] = {}
        self._parent_keywords: List[frozenset[str]] = []
        self._locations = Locations()
        for item in items:
            self._add(item)

    def _add(self, item: Any) -> None:
        position = self._parent_positions.get(id(item.parent))
        if position is None:
            position = self._add_parent(item.parent)
        inherited = self._parent_keywords[position]
        own = _own_keywords(item, inherited)
        self.keyword_counts.append(len(own) + len(inherited))
        path, line, domain = self._locations.of(item)
        group = None
        if "xdist_group" in own or "xdist_group" in inherited:
            group = _group_of(item)
        marks: List[List[Any]] = []
        if "fleet" in own or "fleet" in inherited:
            marks = [_portable_mark(mark) for mark in item.iter_markers("fleet")]
        self.items.append([item.nodeid, str(path), line, str(domain), position, own, group, marks])

    def _add_parent(self, parent: Any) -> int:
        keywords = [] if parent is None else [str(keyword) for keyword in parent.keywords]
        position = len(self.parents)
        self.parents.append(keywords)
        self._parent_keywords.append(frozenset(keywords))
        self._parent_positions[id(parent)] = position
        return position


def _own_keywords(item: Any, inherited: frozenset[str]) -> List[str]:
    # The public mapping walks all parents for every item: thirty times the cost of the node's own part of it.
    own = getattr(item.keywords, "_markers", item.keywords)
    return [str(keyword) for keyword in own if keyword not in inherited]


def _group_of(item: Any) -> Optional[str]:
    mark = item.get_closest_marker("xdist_group")
    if mark is None:
        return None
    return str(mark.args[0] if mark.args else mark.kwargs.get("name", "default"))


def _portable_mark(mark: Any) -> List[Any]:
    args = [portable(value, _MARK_CHARACTERS_MAX) for value in mark.args]
    kwargs = {str(name): portable(value, _MARK_CHARACTERS_MAX) for name, value in mark.kwargs.items()}
    return [args, kwargs]


def report_lines(config: Any, session: Any) -> List[str]:
    """What ``pytest_report_collectionfinish`` hooks want shown, in the order in which pytest shows it."""
    answers = config.hook.pytest_report_collectionfinish(
        config=config, start_path=session.startpath, items=session.items
    )
    lines: List[str] = []
    for answer in reversed(answers):
        lines.extend([answer] if isinstance(answer, str) else map(str, answer or ()))
    return lines
