"""What a runner writes, a client reads back: portable values survive JSON."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fleetest.runner.portable import portable
from fleetest.wire.portable_values import from_portable

_LIMIT = 10_000

_plain = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
_keys = st.text() | st.integers(-1000, 1000) | st.booleans() | st.none()
_values: st.SearchStrategy[Any] = st.recursive(
    _plain | st.text() | st.binary(max_size=100),
    lambda inner: (
        st.lists(inner, max_size=5) | st.lists(inner, max_size=5).map(tuple) | st.dictionaries(_keys, inner, max_size=5)
    ),
    max_leaves=20,
)


@given(_values)
def test_values_come_back_as_they_were(value: Any) -> None:
    wire = json.loads(json.dumps(portable(value, _LIMIT)))
    assert from_portable(wire) == value


@given(st.dictionaries(st.sampled_from(["$tuple", "$bytes", "$dict", "$other"]), st.text(), min_size=1))
def test_a_dictionary_that_looks_like_a_tag_is_still_a_dictionary(value: dict[str, str]) -> None:
    assert from_portable(json.loads(json.dumps(portable(value, _LIMIT)))) == value


def test_anything_else_becomes_its_repr() -> None:
    class Odd:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    assert from_portable(portable([{1, 2}, Odd()], _LIMIT)) == ["{1, 2}", "<Odd whose repr raised RuntimeError>"]
