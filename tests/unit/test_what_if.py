"""What if: answers that add up, pictures that stay pictures whatever tests are called, descriptions with clear errors."""

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest
from click.testing import CliRunner

from fleetest.cli.simulate import simulate
from fleetest.core.model import Capabilities, Requirements, RunId, TaskId, TaskSpec, Verdict, WorkerId
from fleetest.errors import UserError
from fleetest.simulation import gantt as gantt_module
from fleetest.simulation.fleet_description import parse_crash, parse_fleet, parse_workers
from fleetest.simulation.gantt import escape, gantt
from fleetest.simulation.recorded_suite import RecordedTest, as_played
from fleetest.simulation.simulated_worker import Execution
from fleetest.simulation.what_if import STRATEGIES, Answer, Crash, Machine, Question, lognormal_tests, why_not

HOSTILE = "<img onerror=alert(1)>\"'&\x00\x1b[31m\u202e]]>"
SVG = "{http://www.w3.org/2000/svg}"


def question(tests=200, **more):
    specs, durations_s = lognormal_tests(tests, 0.0, 1.0, seed=3)
    return Question((Machine("a", 4), Machine("b", 4, speed=0.5)), specs, durations_s, **more)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_runs_every_test_once_and_none_beats_the_bound(strategy):
    asked = question()
    answer = STRATEGIES[strategy](asked, 1)
    counted = [e.task_id for e in answer.executions if e.verdict is Verdict.PASSED]
    assert sorted(counted) == sorted(test.task_id for test in asked.tests)
    assert 1.0 <= answer.ratio < 3.0
    assert all(0.0 < share <= 1.0 for share in answer.utilisation().values())
    assert 0.0 <= answer.tail_s <= answer.makespan_s
    for execution in answer.executions:
        if execution.verdict is Verdict.PASSED:
            slowness = 2.0 if execution.worker_id == "b" else 1.0
            took_s = execution.ended_at - execution.started_at
            assert took_s == pytest.approx(asked.durations_s[execution.task_id] * slowness)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_no_slot_does_two_things_at_once(strategy):
    answer = STRATEGIES[strategy](question(), 1)
    rows = {}
    for execution in sorted(answer.executions, key=lambda e: e.started_at):
        key = execution.worker_id, execution.slot
        assert execution.started_at >= rows.get(key, 0.0) - 1e-9
        rows[key] = execution.ended_at


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_same_seed_gives_the_same_answer(strategy):
    assert STRATEGIES[strategy](question(), 5).executions == STRATEGIES[strategy](question(), 5).executions


def test_the_bound_is_the_work_at_the_speed_of_the_fleet_or_the_longest_test():
    tests = [TaskSpec(TaskId(name)) for name in "abc"]
    fleet = (Machine("a", 1, speed=2.0), Machine("b", 2))
    assert Question(fleet, tests, {"a": 1.0, "b": 1.0, "c": 2.0}).bound_s == 1.0
    assert Question(fleet, tests, {"a": 1.0, "b": 1.0, "c": 10.0}).bound_s == 5.0


@pytest.mark.parametrize(
    ("needs", "bound_s"),
    [
        # Four seconds of work for four slots, of which the two on "slow" do half as much; one second without needs.
        ({}, 4.0 / 3.0),
        ({"resources": (("gpus", 1.0),)}, 6.0),
        ({"resources": (("gpus", 2.0),)}, 1.0),
        ({"locks": ("db",)}, 3.0),
        ({"alone": True}, 2.0),
        ({"workers": 2}, 7.0 / 3.0),
        ({"workers": 3}, 1.0),
    ],
)
def test_what_tests_need_and_who_has_it_is_in_the_bound(needs, bound_s):
    """Three of the four seconds need it; what nobody has is not run."""
    slow = Machine("slow", 2, speed=0.5, capabilities=Capabilities({}, {"gpus": 1.0}))
    needy = Requirements(**needs)
    tests = [TaskSpec(TaskId(name), requirements=needy) for name in "abc"] + [TaskSpec(TaskId("d"))]
    durations_s = dict.fromkeys("abcd", 1.0)
    asked = Question((Machine("fast", 2), slow), tests, durations_s)
    assert asked.bound_s == pytest.approx(bound_s)
    assert STRATEGIES["adaptive"](asked, 0).ratio >= 1.0


def test_history_makes_the_schedule_shorter():
    known, durations_s = lognormal_tests(400, 0.0, 2.0, seed=1)
    unknown = [replace(test, expected_s=None) for test in known]
    fleet = tuple(Machine(f"m{number}", 5) for number in range(4))
    with_history = STRATEGIES["adaptive"](Question(fleet, known, durations_s), 0)
    without = STRATEGIES["adaptive"](Question(fleet, unknown, durations_s), 0)
    assert with_history.ratio < 1.03
    assert without.ratio > with_history.ratio


def test_a_crash_costs_time_and_no_verdict():
    asked = question(crashes=(Crash("b", 5.0),))
    answer = STRATEGIES["adaptive"](asked, 1)
    assert answer.verdicts == {Verdict.PASSED: 200}
    lost = [e for e in answer.executions if e.verdict is None]
    assert lost
    assert {(e.worker_id, e.ended_at) for e in lost} == {("b", 5.0)}
    assert answer.makespan_s > STRATEGIES["adaptive"](question(), 1).makespan_s
    assert why_not("xdist load", asked)


def test_needs_decide_where_tests_run():
    fleet = parse_fleet(
        {
            "worker": [{"name": "plain", "slots": 2}, {"name": "gpu", "slots": 2, "resources": {"gpus": 1}}],
            "test": [{"match": "tests/test_0001.py*", "gpus": 1}],
        },
        "fleet.toml",
    )
    tests, durations_s = lognormal_tests(60, 0.0, 0.5, seed=0)
    asked = Question(fleet.machines, fleet.apply(tests), durations_s)
    answer = STRATEGIES["adaptive"](asked, 0)
    assert {e.worker_id for e in answer.executions if "test_0001" in e.task_id} == {"gpu"}
    assert {e.worker_id for e in answer.executions} == {"plain", "gpu"}
    assert why_not("xdist loadfile", asked)
    assert not why_not("least loaded", asked)


def test_what_no_machine_can_run_ends_not_run():
    asked = question(tests=3)
    needy = [replace(asked.tests[0], requirements=Requirements(resources=(("gpus", 1.0),))), *asked.tests[1:]]
    answer = STRATEGIES["adaptive"](replace(asked, tests=needy), 0)
    assert answer.verdicts == {Verdict.PASSED: 2, Verdict.NOT_RUN: 1}


# Descriptions ---------------------------------------------------------------------------------------------------------


def test_a_fleet_in_toml():
    fleet = parse_fleet(
        {
            "worker": [
                {
                    "name": "lab",
                    "count": 2,
                    "slots": 8,
                    "speed": 2,
                    "attributes": {"os": "linux", "cuda": ["12.4", 11]},
                    "resources": {"memory": "1GiB", "gpus": 0.5},
                }
            ]
        },
        "f",
    )
    assert [machine.name for machine in fleet.machines] == ["lab-1", "lab-2"]
    assert fleet.machines[0].capabilities.attributes == {"os": ("linux",), "cuda": ("12.4", "11")}
    assert fleet.machines[0].capabilities.resources == {"memory": 2.0**30, "gpus": 0.5}


def test_a_fleet_in_short():
    machines = parse_workers(["2x8", "1x4@0.5"]).machines
    assert machines == (Machine("worker-1", 8), Machine("worker-2", 8), Machine("worker-3", 4, 0.5))


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({}, "has no [[worker]] table"),
        ({"workers": []}, "workers: unknown"),
        ({"worker": {"slots": 1}}, "write [[worker]] tables"),
        ({"worker": [{}]}, "worker 1: slots: must be a whole number"),
        ({"worker": [{"slots": True}]}, "slots: must be a whole number"),
        ({"worker": [{"slots": 10**9}]}, "at most 100000 slots"),
        ({"worker": [{"slot": 1}]}, "did you mean 'slots'?"),
        ({"worker": [{"slots": 1, "speed": 0}]}, "speed: must be a number above 0"),
        ({"worker": [{"slots": 1, "speed": float("nan")}]}, "speed: must be a number above 0"),
        ({"worker": [{"slots": 1, "resources": {"memory": "much"}}]}, "resources: memory: 'much' is not a size"),
        ({"worker": [{"slots": 1, "attributes": {"os": []}}]}, "attributes: os: must be a text"),
        ({"worker": [{"slots": 1}, {"slots": 1}]}, "two workers are called 'worker'"),
        ({"worker": [{"slots": 1}], "test": [{"gpus": 1}]}, "test 1: match: must be a pattern"),
        ({"worker": [{"slots": 1}], "test": [{"match": "*", "gpu": 1}]}, "did you mean 'gpus'?"),
    ],
)
def test_mistakes_in_a_fleet_are_one_clear_line(document, says):
    with pytest.raises(UserError) as error:
        parse_fleet(document, "fleet.toml")
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("fleet.toml: ")


@pytest.mark.parametrize("text", ["5", "5x", "0x8", "5x0", "5x8@", "5x8@0", "-1x2", "999999x999999"])
def test_mistakes_in_short_fleets_are_refused(text):
    with pytest.raises(UserError, match="--workers"):
        parse_workers([text])


def test_crashes_name_workers_that_exist():
    machines = parse_workers(["2x1"]).machines
    assert parse_crash("worker-2@1.5s", machines) == Crash("worker-2", 1.5)
    with pytest.raises(UserError, match="did you mean 'worker-1'"):
        parse_crash("worker1@3", machines)
    with pytest.raises(UserError, match="write worker@seconds"):
        parse_crash("worker-1", machines)


# What was recorded ----------------------------------------------------------------------------------------------------


def recorded(name, duration_s, worker="", *, median_s=None, group=""):
    return RecordedTest(TaskSpec(TaskId(name), group=group, expected_s=median_s), duration_s, worker)


def test_what_ran_on_a_slow_machine_takes_less_on_a_typical_one():
    """The speed of a machine counts when its test is played, not twice."""
    tests, durations_s, left_out = as_played(
        [recorded("f::a", 4.0, "slow"), recorded("f::b", 4.0, "gone"), recorded("f::c", 4.0, "slow", median_s=3.0)],
        {"slow": 0.5},
        by_median=False,
    )
    assert durations_s == {"f::a": 2.0, "f::b": 4.0, "f::c": 2.0}
    assert [test.expected_s for test in tests] == [2.0, 4.0, 3.0]
    assert {test.group for test in tests} == {"f"}
    assert left_out == 0


def test_medians_stand_in_and_what_nobody_knows_is_left_out():
    told = [recorded("f::a", 4.0, median_s=3.0), recorded("f::b", None, median_s=2.0), recorded("f::c", None)]
    tests, durations_s, left_out = as_played(told, {}, by_median=True)
    assert durations_s == {"f::a": 3.0, "f::b": 2.0}
    assert [test.task_id for test in tests] == ["f::a", "f::b"]
    assert left_out == 1


# Pictures -------------------------------------------------------------------------------------------------------------


def drawn(executions):
    answer = Answer(HOSTILE, 10.0, 8.0, (Machine("m<&", 2),), executions, {})
    return ElementTree.fromstring(gantt(answer))


def execution(number=0, verdict=Verdict.PASSED, name=HOSTILE):
    return Execution(RunId("r"), TaskId(name), 1, WorkerId("m<&"), number % 2, number / 2, number / 2 + 0.4, verdict)


def bars_of(picture):
    return [rect for group in picture.iter(f"{SVG}g") for rect in group.iter(f"{SVG}rect")]


def test_a_hostile_name_is_text_and_nothing_else():
    picture = drawn([execution()])
    assert {element.tag for element in picture.iter()} <= {
        f"{SVG}{n}" for n in ["svg", "title", "rect", "text", "tspan", "path", "g"]
    }
    (bar,) = bars_of(picture)
    told = bar.find(f"{SVG}title").text
    assert told.startswith("<img onerror=alert(1)>\"'&\ufffd\ufffd[31m")
    assert "attempt" not in told
    assert not [name for element in picture.iter() for name in element.attrib if name.lower().startswith("on")]


def test_bars_are_where_and_as_long_as_the_executions():
    one, two = bars_of(drawn([execution(0, name="f::a"), execution(1, name="f::b")]))
    assert float(one.get("x")) == gantt_module.LABEL_WIDTH
    per_second = (gantt_module.WIDTH - gantt_module.LABEL_WIDTH - 20) / 10.0
    assert float(two.get("x")) == pytest.approx(gantt_module.LABEL_WIDTH + 0.5 * per_second, abs=0.01)
    assert float(one.get("width")) == pytest.approx(0.4 * per_second, abs=0.01)
    assert float(two.get("y")) > float(one.get("y"))


def test_what_was_lost_or_failed_has_its_own_colour():
    verdicts = [Verdict.PASSED, None, Verdict.CANCELLED, Verdict.FAILED]
    picture = drawn([execution(number, verdict, "f::t") for number, verdict in enumerate(verdicts)])
    assert len({group.get("fill") for group in picture.iter(f"{SVG}g")}) == 4


def test_more_bars_than_a_browser_likes_become_paths(monkeypatch):
    monkeypatch.setattr(gantt_module, "TITLED_BARS_MAX", 5)
    picture = drawn([execution(number, name="f::t") for number in range(6)])
    assert not bars_of(picture)
    paths = [path.get("d") for group in picture.iter(f"{SVG}g") for path in group.iter(f"{SVG}path")]
    assert "".join(paths).count("M") == 6


def test_a_schedule_without_tests_is_a_picture_too():
    assert drawn([]).tag == f"{SVG}svg"


def test_only_what_xml_allows_is_left():
    assert escape("a\x00b\ud800<") == "a\ufffdb\ufffd&lt;"


# The command ----------------------------------------------------------------------------------------------------------


def test_the_command_tells_of_every_strategy_and_worker(tmp_path):
    picture = tmp_path / "plan.svg"
    result = CliRunner().invoke(simulate, ["--tasks", "100", "--workers", "2x4", "--svg", str(picture)])
    assert result.exit_code == 0, result.output
    for name in (*STRATEGIES, "worker-1", "worker-2", "100 tests"):
        assert name in result.output
    assert ElementTree.parse(picture).getroot().tag == f"{SVG}svg"


def test_the_command_answers_in_json():
    arguments = ["--tasks", "50", "--workers", "1x4", "--strategy", "adaptive", "--unknown", "--json"]
    first, second = (CliRunner().invoke(simulate, arguments).output for _ in range(2))
    assert first == second
    told = json.loads(first)
    (answer,) = told["strategies"]
    assert told["tests"] == 50
    assert answer["verdicts"] == {"passed": 50}
    assert answer["ratio_to_bound"] == pytest.approx(answer["makespan_s"] / told["bound_s"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--tasks", "5"], "describe the fleet with --fleet FILE.toml or --workers 5x8, or name one: --fleet URL"),
        (["--tasks", "5", "--workers", "1x1", "--fleet", "f"], "either --fleet FILE.toml or --workers"),
        (["--fleet", "ws://h:1", "--workers", "1x1"], "write --coordinator URL with"),
        (["--fleet", "ws://h:1", "--coordinator", "ws://h:1"], "write --coordinator URL with"),
        (["--workers", "1x1", "--tls-ca", "f"], "--tls-ca is for a coordinator"),
        (["--workers", "1x1", "--token-file", "f"], "--token-file is for a coordinator"),
        (["--tasks", "5", "--workers", "1x1", "--strategy", "best"], "unknown strategy 'best'"),
        (["--tasks", "5", "--workers", "1x1", "--lognormal", "0"], "write mu,sigma"),
        (["--tasks", "5", "--workers", "1x1", "--lognormal", "0,9"], "write mu,sigma"),
        (["abc", "--tasks", "5", "--workers", "1x1"], "give one of them"),
        (["--workers", "1x1", "--history", "/nowhere/h.duckdb"], "no history at"),
        (["--tasks", "5", "--fleet", "/nowhere/f.toml"], "cannot read"),
        (["--tasks", "5", "--workers", "2x1", "--strategy", "xdist load", "--crash", "worker-1@1"], "no answer"),
    ],
)
def test_mistakes_on_the_command_line_are_one_clear_line(arguments, says):
    with pytest.raises(UserError, match=says) as error:
        CliRunner().invoke(simulate, arguments, catch_exceptions=False, standalone_mode=False)
    assert "\n" not in str(error.value)
