"""Marks and suite.toml keys: what is understood, and what is said about what is not."""

import pytest

from fleetest.core.conditions import parse_conditions
from fleetest.core.matching import describe, holds, matches, preference, unmet
from fleetest.core.model import AnyOf, Capabilities, Constraint, Operator, Requirements
from fleetest.core.quantities import RequirementError, format_size, parse_duration, parse_size
from fleetest.core.requirements import merge_requirements, parse_marks, parse_options

GB = 10**9
CPU = Capabilities({"os": ("linux",)}, {"cpus": 4.0, "memory": 8 * GB})
CUDA = Capabilities(
    {"os": ("linux",), "cuda": ("12.4",), "gpu.memory": ("16GiB",), "gpu.compute": ("7.5",)},
    {"cpus": 8.0, "memory": 16.0 * GB, "gpus": 1.0},
)
ROCM = Capabilities({"os": ("linux",), "rocm": ("6.0",)}, {"cpus": 8.0, "memory": 16.0 * GB, "gpus": 1.0})
BROWSER = Capabilities(
    {"os": ("linux",), "browser": ("chrome", "firefox", "edge"), "feature": ("webgpu", "webnn")},
    {"cpus": 4.0, "memory": 8.0 * GB},
)
FLEET = {"cpu": CPU, "cuda": CUDA, "rocm": ROCM, "browser": BROWSER}


@pytest.mark.parametrize(
    ("options", "fitting"),
    [
        ({"cpus": 1}, {"cpu", "cuda", "rocm", "browser"}),
        ({"requires": "cpus>=1"}, {"cpu", "cuda", "rocm", "browser"}),
        ({"requires": "cuda>=1"}, {"cuda"}),
        ({"requires": "browser=firefox, feature=webgpu"}, {"browser"}),
        ({"requires": "feature=webgpu, cuda>=1"}, set()),
        ({"requires": "memory>=12GB"}, {"cuda", "rocm"}),
        ({"memory": "12GB"}, {"cuda", "rocm"}),
        ({"requires": "gpu.compute>=7.0"}, {"cuda"}),
        ({"requires": "gpu.compute>=8.0"}, set()),
        ({"gpus": 1}, {"cuda", "rocm"}),
        ({"gpus": 1, "requires": "rocm>=5"}, {"rocm"}),
        ({"gpus": 2}, set()),
        ({}, {"cpu", "cuda", "rocm", "browser"}),
    ],
)
def test_all_requirements_must_hold_together(options, fitting):
    requirements = parse_options(options).requirements
    assert {name for name, worker in FLEET.items() if matches(requirements, worker)} == fitting
    assert {name for name, worker in FLEET.items() if not unmet(requirements, worker)} == fitting


@pytest.mark.parametrize(
    ("text", "values", "fits"),
    [
        ("cuda>=12", ("12.4",), True),
        ("cuda>=12", ("11.8",), False),
        ("cuda=12", ("12.4",), True),
        ("cuda=12", ("1.2",), False),
        ("cuda=12", ("120",), False),
        ("cuda=12.4", ("12",), False),
        ("cuda!=12", ("12.4",), False),
        ("cuda!=12", (), True),
        ("cuda<=12.0", ("12",), True),
        ("cuda>7.5", ("7.10",), True),
        ("cuda<12", ("11.8",), True),
        ("cuda>12", ("12.0",), False),
        ("driver>=535", ("535.104.05",), True),
        ("kernel>=5.10", ("5.15.0-91-generic",), True),
        ("python=3.11", ("3.10.2", "3.11.7"), True),
        ("python!=3.11", ("3.10.2", "3.11.7"), False),
        ("os=LINUX", ("linux",), True),
        ("os=windows", ("linux",), False),
        ("os>=10", ("linux",), False),
        ("gpu.memory>=16GiB", ("16GiB",), True),
        ("gpu.memory>=16GiB", ("16GB",), False),
        ("gpu.memory>=16GB", ("17179869184",), True),
        ("gpu.memory=1024MiB", ("1GiB",), True),
        ("anything=1", (), False),
        ("cuda=12", ("9" * 5000,), False),
        ("gpu.memory>=1GiB", ("9" * 5000 + "GB",), False),
        ("clock>=3.2GHz", ("3300MHz",), True),
        ("clock=3.2GHz", ("3200 MHz",), True),
        ("clock>=3GHz", ("4",), False),
        ("clock>=3", ("4GHz",), False),
        ("clock>=3GHz", ("16GiB",), False),
        ("clock!=3GHz", ("16GiB",), True),
        ("network>=10Gbit/s", ("1.25GB/s",), True),
        ("network>=10Gbps", ("1.2GB/s",), False),
        ("network>=1Gibit/s", ("1Gbit/s",), False),
        ("latency<=5ms", ("900us",), True),
        ("latency<=5ms", ("0.1min",), False),
        ("power>=0.3kW", ("300W",), True),
        ("cuda=*", ("12.4",), True),
        ("cuda=*", (), False),
        ("cuda!=*", (), True),
        ("cuda!=*", ("12.4",), False),
        ("python===3.11", ("3.11.7",), False),
        ("python===3.11.7", ("3.10.2", "3.11.7"), True),
        ("size===1GiB", ("1024MiB",), False),
        ("openssl>=1.1.1", ("1.1.1s",), True),
        ("app>=3", ("3.1rc2",), True),
    ],
)
def test_constraints(text, values, fits):
    (constraint,) = parse_conditions(text)
    assert holds(constraint, Capabilities({constraint.name: values})) is fits


def test_a_resource_total_is_compared_as_a_number():
    assert holds(Constraint("cpus", Operator.GE, "7.5"), CUDA)
    assert not holds(Constraint("cpus", Operator.GT, "8"), CUDA)
    assert holds(Constraint("cpus", Operator.NE, "4"), CUDA)
    assert not holds(Constraint("cpus", Operator.GE, "linux"), CUDA)


def test_what_is_unmet_says_what_the_worker_has():
    requirements = parse_options({"gpus": 2, "requires": "cuda>=13, feature=webgpu"}).requirements
    assert unmet(requirements, CUDA) == ["gpus 2 (has 1)", "cuda>=13 (has 12.4)", "feature=webgpu (has none)"]


def test_sizes():
    assert parse_size("8GiB") == 8 * 2**30
    assert parse_size("8 gb") == 8 * GB
    assert parse_size("1.5KiB") == 1536
    assert parse_size(12) == 12
    assert parse_size("12") == 12
    assert [format_size(size) for size in (900, 1536, 8 * 2**30)] == ["900 B", "1.5 KiB", "8 GiB"]
    assert parse_size(format_size(8 * 2**30)) == 8 * 2**30


@pytest.mark.parametrize("size", ["8 Gi", "", "much", "-1GB", True, None, float("inf"), -1])
def test_what_is_not_a_size(size):
    with pytest.raises(RequirementError, match="size"):
        parse_size(size)


def test_durations():
    assert [parse_duration(text) for text in (90, "90s", "5m", "1.5h", "200ms", "7")] == [90, 90, 300, 5400, 0.2, 7]


@pytest.mark.parametrize("duration", [0, -1, "soon", "5 minutes", None, True, float("nan")])
def test_what_is_not_a_duration(duration):
    with pytest.raises(RequirementError, match="duration"):
        parse_duration(duration)


def test_every_key():
    options = parse_options(
        {
            "gpus": 1,
            "cpus": 2,
            "memory": "8GiB",
            "resources": {"Licence": 1},
            "requires": "cuda>=12, OS=linux",
            "priority": -3,
            "timeout": "5m",
            "retries": 2,
            "lock": ["db", "cache"],
            "group": "database",
            "alone": True,
            "prefer": "ssd=yes",
            "workers": 2,
            "each": "Python",
            "backoff": "2s",
            "hedge": False,
            "depends_on": ["build", "fetch"],
        },
        with_dependencies=True,
    )
    assert options.requirements == Requirements(
        resources=(("cpus", 2.0), ("gpus", 1.0), ("licence", 1.0), ("memory", 8 * 2.0**30)),
        constraints=(Constraint("cuda", Operator.GE, "12"), Constraint("os", Operator.EQ, "linux")),
        locks=("cache", "db"),
        alone=True,
        prefers=(Constraint("ssd", Operator.EQ, "yes"),),
        workers=2,
    )
    assert (options.each, options.backoff_s, options.hedge) == ("python", 2.0, False)
    assert (options.priority, options.timeout_s, options.retries, options.group) == (-3, 300.0, 2, "database")
    assert options.depends_on == ("build", "fetch")


def test_what_is_not_said_is_none():
    options = parse_options({})
    assert (options.priority, options.timeout_s, options.retries, options.group) == (None, None, None, None)
    assert options.requirements.is_plain


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memroy": "8GB"}, r"unknown key 'memroy'; did you mean 'memory'\?"),
        ({"locks": "db"}, r"did you mean 'lock'\?"),
        ({"xyz": 1}, "unknown key 'xyz'; known are cpus, gpus"),
        ({"depends_on": "a"}, "depends_on= is for suite.toml"),
        ({"gpus": "one"}, "gpus= is a number of at least 0, not 'one'"),
        ({"gpus": -1}, "gpus= is a number"),
        ({"cpus": True}, "cpus= is a number"),
        ({"memory": "lots"}, "memory=: 'lots' is not a size"),
        ({"resources": 3}, "resources= is a table"),
        ({"resources": {"a b": 1}}, "'a b' is not a name"),
        ({"resources": {"a": "x"}}, r"resources\['a'\]= is a number"),
        ({"priority": 1.5}, "priority= is a whole number"),
        ({"retries": -1}, "retries= is a whole number of at least 0"),
        ({"timeout": "soon"}, "timeout=: 'soon' is not a duration"),
        ({"lock": 3}, "lock= is a name or a list"),
        ({"group": ""}, "group= is a name"),
        ({"alone": "yes"}, "alone= is True or False"),
        ({"requires": ["cuda"]}, "requires= is text"),
        ({"requires": "os=linux, cuda"}, r"at character 11: 'cuda' has no comparison"),
        ({"requires": "cuda => 12"}, "'=>' is not a comparison"),
        ({"requires": "cuda ~= 12"}, "'~=' is not a comparison"),
        ({"requires": "cuda 12"}, 'did you mean "cuda=12"'),
        ({"requires": "cuda>="}, "has no value"),
        ({"requires": "os=linux,,cuda>=1"}, "at character 10: nothing between the commas"),
        ({"requires": "os>=linux"}, "'linux' cannot be ordered"),
        ({"requires": "gpu memory>=1"}, "has no comparison|is not a name|is not a comparison"),
        ({"requires": "9lives>=1"}, "'9lives' is not a name"),
        ({"requires": "os=linux |, cuda>=1"}, r'at character 11: nothing beside the "\|"'),
        ({"requires": "cuda>=12 | linux"}, r"at character 12: 'linux' cannot be ordered"),
        ({"requires": "linux | cuda>=12"}, r"at character 1: 'linux' has no comparison"),
        ({"requires": "os!=linux|darwin"}, 'to forbid both, write "os!=linux, os!=darwin"'),
        ({"requires": "os=linux, cuda>=1, os!=Linux"}, "no machine has os=linux and os!=linux"),
        ({"requires": "cuda>=12, cuda!=*"}, "no machine has cuda>=12 and no cuda at all"),
        ({"requires": "cuda>=*"}, r'write "cuda=\*"'),
        ({"requires": "clock>=3.2GHx"}, "'GHx' is not a unit; did you mean 'GHz'"),
        ({"requires": "net>=10Gb/s"}, "'Gb/s' may mean bits or bytes; write 'Gbit/s' or 'GB/s'"),
        ({"requires": "net>=10furlong/s"}, "'furlong/s' is not a unit"),
        ({"prefer": "ssd"}, "prefer='ssd': at character 1: 'ssd' has no comparison"),
        ({"prefers": "ssd=yes"}, "did you mean 'prefer'"),
        ({"workers": 0}, "workers= is a whole number of at least 1"),
        ({"workers": 2.0}, "workers= is a whole number"),
        ({"workers": 5000}, "workers= is at most 1000"),
        ({"each": "gpu model"}, "each= is the name of a capability"),
        ({"backoff": "soon"}, "backoff=: 'soon' is not a duration"),
        ({"backoff": -1}, "backoff=: -1 is not a duration; write seconds of at least 0"),
        ({"hedge": "no"}, "hedge= is True or False"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(options, message):
    with pytest.raises(RequirementError, match=message) as caught:
        parse_options(options)
    assert "\n" not in str(caught.value)


def test_the_closest_mark_decides_and_requires_add_up():
    options = parse_marks(
        [((), {"gpus": 2, "requires": "os=linux"}), ((), {"gpus": 1, "cpus": 3, "requires": "cuda>=12"})]
    )
    assert options.requirements.resources == (("cpus", 3.0), ("gpus", 2.0))
    assert [constraint.name for constraint in options.requirements.constraints] == ["os", "cuda"]


def test_alternatives_may_leave_out_what_they_share():
    assert parse_conditions("os=linux|darwin , cuda >= 12 | rocm>=6") == (
        AnyOf((Constraint("os", Operator.EQ, "linux"), Constraint("os", Operator.EQ, "darwin"))),
        AnyOf((Constraint("cuda", Operator.GE, "12"), Constraint("rocm", Operator.GE, "6"))),
    )
    assert parse_conditions("os=linux | linux, os=linux") == (Constraint("os", Operator.EQ, "linux"),)


def test_wishes_of_all_marks_count():
    options = parse_marks([((), {"prefer": "ssd=yes"}), ((), {"prefer": "gpu.model=H100"})])
    assert [wish.name for wish in options.requirements.prefers] == ["ssd", "gpu.model"]
    assert options.requirements.is_plain


def test_unlike_quantities_are_said_to_be_so():
    needs = parse_options({"requires": "clock>=3GHz"}).requirements
    assert unmet(needs, Capabilities({"clock": ("3.2",)})) == [
        "clock>=3GHz (has 3.2, which cannot be compared with 3GHz)"
    ]
    assert unmet(needs, Capabilities({"clock": ("2.4GHz",)})) == ["clock>=3GHz (has 2.4GHz)"]
    assert unmet(needs, Capabilities(resources={"clock": 4.0})) == [
        "clock>=3GHz (has 4, which cannot be compared with 3GHz)"
    ]


def test_a_mark_takes_no_positional_arguments():
    with pytest.raises(RequirementError, match="keyword arguments"):
        parse_marks([(("gpu",), {})])


def test_merged_requirements_hold_what_both_hold():
    first = parse_options({"gpus": 1, "lock": "a", "requires": "os=linux"}).requirements
    second = parse_options({"gpus": 2, "cpus": 1, "lock": "b", "requires": "cuda>=12", "alone": True}).requirements
    merged = merge_requirements(first, second)
    assert merged.resources == (("cpus", 1.0), ("gpus", 2.0))
    assert merged.locks == ("a", "b")
    assert len(merged.constraints) == 2
    assert merged.alone


def test_one_of_several_alternatives_is_enough():
    either = AnyOf((Constraint("rocm", Operator.GE, "6"), Constraint("cuda", Operator.GE, "12")))
    needs = Requirements(constraints=(either,))
    assert matches(needs, Capabilities({"cuda": ("12.4",)}))
    assert matches(needs, Capabilities({"rocm": ("6.1",), "cuda": ("11",)}))
    assert not matches(needs, Capabilities({"cuda": ("11.8",)}))
    assert unmet(needs, Capabilities({"cuda": ("11.8",)})) == ["rocm>=6 | cuda>=12 (cuda: has 11.8)"]
    assert unmet(needs, Capabilities()) == ["rocm>=6 | cuda>=12 (has none)"]
    assert describe(needs) == "rocm>=6 | cuda>=12"


def test_a_preference_is_the_share_of_wishes_that_come_true_and_refuses_nobody():
    needs = Requirements(prefers=(Constraint("ssd", Operator.EQ, "yes"), Constraint("gpu.model", Operator.EQ, "H100")))
    shares = [
        preference(needs, Capabilities(attributes))
        for attributes in ({}, {"ssd": ("yes",)}, {"ssd": ("yes",), "gpu.model": ("H100",)})
    ]
    assert shares == [0.0, 0.5, 1.0]
    assert matches(needs, Capabilities())
    assert needs.is_plain
    assert preference(Requirements(), Capabilities()) == 1.0
