"""Tasks that run once on each value of a capability: which variants there are, and what they demand."""

from fleetest.core.matching import matches
from fleetest.core.model import AnyOf, Capabilities, Constraint, Operator, Requirements, TaskId, TaskSpec, base_id
from fleetest.core.variants import expand_each

LINUX = Capabilities({"os": ("linux",), "browser": ("3.9.19", "3.12.1"), "cuda": ("12",)})
OTHER = Capabilities({"os": ("linux",), "browser": ("3.12.1", "3.10.2"), "cuda": ("12.4",)}, {"gpus": 2.0})
MAC = Capabilities({"os": ("darwin",), "browser": ("3.13.0",)})
FLEET = [LINUX, OTHER, MAC]


def each(name: str, **changes) -> TaskSpec:
    return TaskSpec(TaskId(changes.pop("task_id", "t")), each=name, **changes)


def test_tasks_without_each_stay_as_they_are():
    tasks = [TaskSpec(TaskId("a")), TaskSpec(TaskId("b"), depends_on=(TaskId("a"),))]
    assert expand_each(tasks, FLEET) == tasks


def test_one_variant_per_distinct_value_in_natural_order():
    variants = expand_each([TaskSpec(TaskId("first")), each("browser", group="g", retries=2)], FLEET)
    assert [task.task_id for task in variants] == [
        "first",
        "t @ browser=3.9.19",
        "t @ browser=3.10.2",
        "t @ browser=3.12.1",
        "t @ browser=3.13.0",
    ]
    assert [task.variant for task in variants][1:3] == ["browser=3.9.19", "browser=3.10.2"]
    assert {task.each for task in variants} == {""}
    assert {task.retries for task in variants[1:]} == {2}
    assert len({task.group for task in variants[1:]}) == 4
    assert [base_id(task.task_id, task.variant) for task in variants] == ["first", "t", "t", "t", "t"]


def test_only_workers_with_the_rest_count():
    needs = Requirements(constraints=(Constraint("os", Operator.EQ, "linux"),))
    variants = expand_each([each("browser", requirements=needs)], FLEET)
    assert [task.variant for task in variants] == ["browser=3.9.19", "browser=3.10.2", "browser=3.12.1"]


def test_a_variant_demands_its_very_value_and_no_version_prefix():
    twelve, twelve_four = expand_each([each("cuda")], FLEET)
    assert [matches(twelve.requirements, worker) for worker in FLEET] == [True, False, False]
    assert [matches(twelve_four.requirements, worker) for worker in FLEET] == [False, True, False]


def test_a_countable_resource_has_one_value():
    (variant,) = expand_each([each("gpus")], FLEET)
    assert variant.variant == "gpus=2"
    assert matches(variant.requirements, OTHER)
    assert not matches(variant.requirements, LINUX)


def test_if_nobody_has_any_the_task_stays_one_and_wants_a_worker_that_has():
    (task,) = expand_each([each("tpu")], FLEET)
    assert (task.task_id, task.variant, task.each) == ("t", "", "")
    assert not any(matches(task.requirements, worker) for worker in FLEET)
    assert matches(task.requirements, Capabilities({"tpu": ("v5",)}))


def test_values_that_differ_in_case_are_one():
    variants = expand_each([each("gpu")], [Capabilities({"gpu": ("H100",)}), Capabilities({"gpu": ("h100",)})])
    assert [task.variant for task in variants] == ["gpu=H100"]


def test_an_id_that_is_taken_is_numbered_and_still_leads_to_the_test():
    odd = TaskId("t @ tpu=v5")
    variants = expand_each([each("tpu"), TaskSpec(odd)], [Capabilities({"tpu": ("v5",)})])
    assert [task.task_id for task in variants] == ["t @ tpu=v5#2", odd]
    assert base_id(variants[0].task_id, variants[0].variant) == "t"


def test_a_variant_depends_on_variants_for_its_value_and_others_on_all():
    build = each("browser", task_id="build")
    test = each("browser", task_id="test", depends_on=(TaskId("build"),))
    report = TaskSpec(TaskId("report"), depends_on=(TaskId("test"), TaskId("elsewhere")))
    by_id = {task.task_id: task for task in expand_each([build, test, report], [LINUX])}
    assert by_id[TaskId("test @ browser=3.9.19")].depends_on == ("build @ browser=3.9.19",)
    assert by_id[TaskId("report")].depends_on == ("test @ browser=3.9.19", "test @ browser=3.12.1", "elsewhere")


def test_requirements_keep_their_alternatives_and_wishes():
    either = AnyOf((Constraint("os", Operator.EQ, "darwin"), Constraint("gpus", Operator.GE, "1")))
    wish = Constraint("ssd", Operator.EQ, "yes")
    variants = expand_each([each("browser", requirements=Requirements(constraints=(either,), prefers=(wish,)))], FLEET)
    assert [task.variant for task in variants] == ["browser=3.10.2", "browser=3.12.1", "browser=3.13.0"]
    assert all(task.requirements.prefers == (wish,) for task in variants)


def test_absurd_values_of_a_peer_break_nothing():
    values = ("9" * 10_000, "", " @ ", "a=b", "\u0663")
    assert len(expand_each([each("x")], [Capabilities({"x": values})])) == len(values)


def test_each_python_is_each_interpreter_that_really_runs_tests():
    one = Capabilities({"python": ("3.11.7", "3.9.19"), "python.default": ("3.11.7",)})
    other = Capabilities({"python": ("3.9.19", "3.11.7"), "python.default": ("3.9.19",)})
    variants = expand_each([each("python")], [one, other])
    assert [task.task_id for task in variants] == ["t @ python=3.9.19", "t @ python=3.11.7"]
    assert [[matches(task.requirements, worker) for worker in (one, other)] for task in variants] == [
        [False, True],
        [True, False],
    ]
