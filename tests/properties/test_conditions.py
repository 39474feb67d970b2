"""The language of requirements: what is written is read back, and matching obeys the laws of logic and order."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from fleetest.core.conditions import find_contradiction, format_conditions, parse_conditions
from fleetest.core.matching import holds, matches, preference, unmet
from fleetest.core.model import AnyOf, Capabilities, Constraint, Operator, Requirements
from fleetest.core.quantities import Dimension, RequirementError, read_quantity
from fleetest.core.requirements import merge_requirements

NAMES = st.sampled_from(["os", "cuda", "gpu.model", "clock", "net_a-b"])
WORDS = st.text("abcxyz0189.-_ ", min_size=1, max_size=8).map(lambda text: " ".join(text.split())).filter(bool)
VERSIONS = st.lists(st.integers(0, 30), min_size=1, max_size=4).map(lambda parts: ".".join(map(str, parts)))
QUANTITIES = st.builds(
    "{}{}".format,
    st.integers(0, 5000),
    st.sampled_from(["MiB", "GB", "kHz", "GHz", "Mbit/s", "MB/s", "ms", "min", "W"]),
)
ORDERED = VERSIONS | QUANTITIES
ORDERINGS = [Operator.GE, Operator.GT, Operator.LE, Operator.LT]
CONSTRAINTS = st.builds(Constraint, NAMES, st.sampled_from(ORDERINGS), ORDERED) | st.builds(
    Constraint, NAMES, st.sampled_from([Operator.EQ, Operator.NE, Operator.IS]), WORDS | ORDERED
)


def _says_something(alternatives: tuple[Constraint, ...]) -> bool:
    differing = [one.name for one in alternatives if one.operator is Operator.NE]
    return len(set(differing)) == len(differing)


ANY_OF = st.lists(CONSTRAINTS, min_size=2, max_size=4, unique=True).map(tuple).filter(_says_something).map(AnyOf)
CONDITIONS = st.lists(CONSTRAINTS | ANY_OF, max_size=4, unique=True).map(tuple)
CAPABILITIES = st.builds(
    Capabilities,
    st.dictionaries(NAMES, st.lists(WORDS | ORDERED, min_size=1, max_size=3).map(tuple)),
    st.dictionaries(NAMES, st.floats(0, 1e6)),
)


def readable(text: str) -> bool:
    try:
        parse_conditions(text)
    except RequirementError:
        return False
    return True


@given(CONDITIONS)
def test_what_is_written_is_read_back(conditions):
    text = format_conditions(conditions)
    if find_contradiction(conditions):
        assert not readable(text)
    elif readable(text):
        assert parse_conditions(text) == conditions
    else:
        # Words made of digits and letters may look like a quantity with a unit that is none.
        assert "unit" in _trouble(text)


def _trouble(text: str) -> str:
    try:
        parse_conditions(text)
    except RequirementError as error:
        return str(error)
    return ""


@given(st.text(max_size=40))
def test_any_text_is_understood_or_refused_in_one_line(text):
    trouble = _trouble(text)
    assert "\n" not in trouble
    if not trouble:
        conditions = parse_conditions(text)
        assert parse_conditions(format_conditions(conditions)) == conditions


@given(ANY_OF, CAPABILITIES)
def test_any_of_is_an_or_and_a_tuple_is_an_and(either, capabilities):
    each = [holds(constraint, capabilities) for constraint in either.alternatives]
    assert holds(either, capabilities) == any(each)
    assert matches(Requirements(constraints=either.alternatives), capabilities) == all(each)


@given(CONDITIONS, CAPABILITIES)
def test_what_matches_lacks_nothing(conditions, capabilities):
    requirements = Requirements(constraints=conditions)
    assert matches(requirements, capabilities) == (not unmet(requirements, capabilities))


@given(NAMES, WORDS | ORDERED, CAPABILITIES)
def test_not_equal_is_the_opposite_of_equal(name, value, capabilities):
    equal = holds(Constraint(name, Operator.EQ, value), capabilities)
    assert holds(Constraint(name, Operator.NE, value), capabilities) is not equal


@given(NAMES, ORDERED, ORDERED)
def test_one_value_is_ordered_totally_or_not_comparable(name, have, want):
    worker = Capabilities({name: (have,)})
    less, more, at_least, at_most = (
        holds(Constraint(name, operator, want), worker)
        for operator in (Operator.LT, Operator.GT, Operator.GE, Operator.LE)
    )
    assert not (less and more)
    if at_least or at_most:
        assert less is not at_least
        assert more is not at_most
    else:
        assert not less
        assert not more


@given(QUANTITIES, QUANTITIES)
def test_quantities_compare_as_amounts_of_one_dimension_or_not_at_all(have, want):
    first, second = read_quantity(have), read_quantity(want)
    assert first is not None
    assert second is not None
    expected = first.dimension is second.dimension and first.amount >= second.amount
    assert holds(Constraint("x", Operator.GE, want), Capabilities({"x": (have,)})) is expected


@given(st.integers(0, 10**6))
def test_prefixes_are_powers(number):
    assert read_quantity(f"{number}GiB") == (Dimension.SIZE, Fraction(number * 2**30))
    assert read_quantity(f"{number}GB/s") == read_quantity(f"{8 * number}Gbit/s")
    assert read_quantity(f"{number}GHz") == read_quantity(f"{1000 * number}MHz")


@given(CONDITIONS, CAPABILITIES)
def test_a_preference_is_a_share(conditions, capabilities):
    share = preference(Requirements(prefers=conditions), capabilities)
    assert 0.0 <= share <= 1.0
    assert (share == 1.0) == all(holds(condition, capabilities) for condition in conditions)


@given(CONDITIONS, CONDITIONS, CAPABILITIES)
def test_merged_requirements_hold_where_both_do(first, second, capabilities):
    one, other = Requirements(constraints=first), Requirements(constraints=second)
    both = matches(one, capabilities) and matches(other, capabilities)
    assert matches(merge_requirements(one, other), capabilities) is both
