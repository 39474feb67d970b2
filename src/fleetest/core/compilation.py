"""What mypyc has to know of a class when the core is compiled; nothing when it is not."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from mypy_extensions import mypyc_attr
else:
    _Class = TypeVar("_Class", bound=type)

    def mypyc_attr(**_attributes: object):
        """Leave the class as it is: only the compiler reads the attributes."""

        def unchanged(cls: _Class) -> _Class:
            return cls

        return unchanged


__all__ = ["mypyc_attr"]
