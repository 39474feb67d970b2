"""``fleetest simulate``: how long a suite would take on a fleet that need not exist, and how busy each machine."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fleetest.cli.connection import finds_coordinator
from fleetest.cli.history import opened_history, the_run
from fleetest.client.terminal_text import counted, one_line, printable
from fleetest.core.model import TaskId, TaskSpec, Verdict
from fleetest.errors import UserError
from fleetest.operator.workload import LiveFleet, live_fleet, recorded_tests
from fleetest.simulation.fleet_description import FleetDescription, parse_crash, parse_fleet, parse_workers
from fleetest.simulation.recorded_suite import RecordedTest, as_played
from fleetest.simulation.what_if import STRATEGIES, Answer, Question, lognormal_tests, why_not

if TYPE_CHECKING:
    from fleetest.operator.api_client import ApiClient

_TESTS_MAX = 1_000_000


@click.command()
@click.argument("run_id", default="latest")
@click.option("--history", "history_file", type=click.Path(path_type=Path), help="The history file with the run.")
@click.option("--median", is_flag=True, help="Take the median of each test's last passed attempts, not the run's own.")
@click.option("--tasks", type=click.IntRange(1, _TESTS_MAX), help="No history: a suite of so many tests.")
@click.option(
    "--lognormal", metavar="MU,SIGMA", default="0,1", help="Durations of --tasks: exp(normal) seconds. Default: 0,1."
)
@click.option("--per-file", type=click.IntRange(min=1), default=20, help="Tests per file of --tasks. Default: 20.")
@click.option("--fleet", metavar="FILE|URL", help="The fleet: a TOML file, or a coordinator's with its runs.")
@click.option(
    "--workers", multiple=True, metavar="NxM[@SPEED]", help="The fleet: N workers of M slots each; repeatable."
)
@click.option("--strategy", "strategies", multiple=True, metavar="NAME", help="Only this strategy; repeatable.")
@click.option("--unknown", is_flag=True, help="The scheduler knows no durations and no speeds, as in a first run.")
@click.option("--crash", "crashes", multiple=True, metavar="WORKER@SECONDS", help="This worker dies then; repeatable.")
@click.option("--seed", type=int, default=0, help="Of all chance: latencies, and the durations of --tasks. Default: 0.")
@click.option("--json", "as_json", is_flag=True, help="Everything as JSON.")
@click.option("--svg", type=click.Path(path_type=Path), help="Draw the first strategy's schedule into this file.")
@finds_coordinator
def simulate(run_id: str, **options: Any) -> int:
    """What if: play RUN_ID of the history, or a suite of given size, on a fleet that need not exist.

    RUN_ID is the beginning of an id, or "latest". The scheduler and balancer are the real ones, the machines, links and
    tests are simulated. Strategies: adaptive (ours), least loaded, round robin, and models of other runners.

    Of a running coordinator, --fleet URL plays a run on its own workers; --coordinator URL plays it on the fleet of
    --workers or of a file. Without either, --data is a data directory with the history.
    """
    picture = options["svg"]
    if picture is not None and picture.suffix.lower() not in ("", ".svg"):
        raise UserError(f"--svg {picture}: the picture is an SVG: give a name that ends with .svg")
    fleet, tests, durations_s = _asked(run_id, options)
    slowness = {machine.name: 1.0 / machine.speed for machine in fleet.machines}
    if options["unknown"]:
        tests, slowness = [replace(test, expected_s=None) for test in tests], {}
    crashes = [parse_crash(text, fleet.machines) for text in options["crashes"]]
    question = Question(fleet.machines, fleet.apply(tests), durations_s, crashes, slowness=slowness)
    answers, left_out = _answers(question, options["strategies"], options["seed"])
    if picture is not None:
        _draw(picture, answers[0], question)
    if options["as_json"]:
        click.echo(json.dumps(_document(question, answers, left_out), indent=2))
    else:
        for line in _report(question, answers, left_out):
            click.echo(line)
        if picture is not None:
            click.echo(f"\nschedule of {answers[0].strategy!r} drawn into {printable(str(picture))}")
    return 0


# What is asked ------------------------------------------------------------------------------------------------------


def _asked(run_id: str, options: dict[str, Any]) -> tuple[FleetDescription, list[TaskSpec], dict[TaskId, float]]:
    """The fleet, the tests, and seconds of each on a machine of speed 1."""
    url, file = _coordinator_or_file(options)
    described = _described(file, options["workers"])
    if url is None:
        if described is None:
            raise UserError("describe the fleet with --fleet FILE.toml or --workers 5x8, or name one: --fleet URL")
        return described, *_suite(run_id, options, None)
    from fleetest.operator.api_client import connect

    client = connect(url, options["token_file"], options["data"], options["tls_ca"])
    try:
        live = live_fleet(client)
        return described or _as_it_is(live, url), *_suite(run_id, options, (client, live))
    finally:
        client.close()


def _coordinator_or_file(options: dict[str, Any]) -> tuple[str | None, Path | None]:
    """The address of a coordinator that is to be asked, and the file with the fleet."""
    fleet, url = options["fleet"], options["coordinator"]
    if fleet is not None and "://" in fleet:
        if url is not None or options["workers"]:
            raise UserError(
                "--fleet URL is a fleet as it is: to play its runs on another one, write --coordinator URL with"
                " --fleet FILE.toml or --workers 5x8"
            )
        return fleet, None
    for name in ("token_file", "tls_ca"):
        if url is None and options[name] is not None:
            raise UserError(f"--{name.replace('_', '-')} is for a coordinator: give --fleet URL or --coordinator URL")
    return url, Path(fleet) if fleet is not None else None


def _described(file: Path | None, workers: Sequence[str]) -> FleetDescription | None:
    if file is not None and workers:
        raise UserError("describe the fleet with either --fleet FILE.toml or --workers 5x8, not with both")
    if file is None:
        return parse_workers(workers) if workers else None
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        document = tomllib.loads(file.read_bytes().decode())
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"cannot read {file}: {reason}") from error
    return parse_fleet(document, str(file))


def _as_it_is(live: LiveFleet, url: str) -> FleetDescription:
    for name, state in live.left_out.items():
        _note(f"worker {name} is left out: {state}")
    if not live.machines:
        raise UserError(f"no worker of {url} takes work: describe a fleet instead, --coordinator {url} --workers 5x8")
    return FleetDescription(live.machines)


def _suite(
    run_id: str, options: dict[str, Any], coordinator: tuple[ApiClient, LiveFleet] | None
) -> tuple[list[TaskSpec], dict[TaskId, float]]:
    """Without a coordinator ``--data`` is where the history is, with one where its token is."""
    data = options["data"] if coordinator is None else None
    if options["tasks"] is not None:
        if options["history_file"] is not None or data is not None or run_id != "latest":
            raise UserError("--tasks makes up a suite, the history has a real one: give one of them")
        return _made_up(options)
    if coordinator is None or options["history_file"] is not None:
        found, recorded, speeds = _from_history(run_id, options["history_file"], data)
        runs = "fleetest history runs"
    else:
        found, recorded = _from_coordinator(coordinator[0], run_id)
        speeds = coordinator[1].speeds
        runs = "fleetest runs"
    tests, durations_s, left_out = as_played(recorded, speeds, by_median=options["median"])
    if not tests:
        raise UserError(f"run {printable(found)!r} executed no tests: name another one, see `{runs}`")
    if left_out:
        _note(f"{counted(left_out, 'test')} left out: nobody knows how long they take")
    return tests, durations_s


def _made_up(options: dict[str, Any]) -> tuple[list[TaskSpec], dict[TaskId, float]]:
    try:
        mu, sigma = (float(part) for part in options["lognormal"].split(","))
        if not (-20 <= mu <= 20 and 0 <= sigma <= 5):
            raise ValueError
    except ValueError:
        raise UserError(f'--lognormal {options["lognormal"]!r}: write mu,sigma such as "0,1", at most 20,5') from None
    return lognormal_tests(options["tasks"], mu, sigma, seed=options["seed"], per_file=options["per_file"])


def _from_history(
    run_id: str, history_file: Path | None, data: Path | None
) -> tuple[str, list[RecordedTest], Mapping[str, float]]:
    """The id of the run, its tests in the order of its plan, and how fast workers were."""
    with opened_history(history_file, data) as queries:
        found = the_run(queries, run_id)
        answer = queries.tasks(found)
        medians_s = queries.expected_durations()
        speeds = {worker: 1.0 / slowness for worker, slowness in queries.slowness().items()}
    rows = [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]
    rows.sort(key=lambda row: (row["suite"] or "", row["position"] or 0))
    recorded = [
        RecordedTest(
            TaskSpec(TaskId(row["task_id"]), group=row["group_name"] or "", expected_s=medians_s.get(row["task_id"])),
            row["duration_s"],
            row["worker"] or "",
        )
        for row in rows
    ]
    return found, recorded, speeds


def _from_coordinator(client: ApiClient, run_id: str) -> tuple[str, list[RecordedTest]]:
    from fleetest.operator.lookup import find_run

    found = str(find_run(client, run_id)["run_id"])
    recorded, needs_are_known = recorded_tests(client, found)
    if not needs_are_known:
        _note("what the tests of this run need is not known any more: they are played as if any worker would do")
    return found, recorded


def _note(text: str) -> None:
    click.echo(f"fleetest: {printable(text)}", err=True)


def _answers(question: Question, asked: Sequence[str], seed: int) -> tuple[list[Answer], dict[str, str]]:
    """The answers of the strategies, and why others have none."""
    for name in asked:
        if name not in STRATEGIES:
            raise UserError(f"unknown strategy {name!r}: give {', '.join(STRATEGIES)}")
    left_out: dict[str, str] = {}
    answers = []
    for name, strategy in STRATEGIES.items():
        if asked and name not in asked:
            continue
        if reason := why_not(name, question):
            left_out[name] = reason
        else:
            answers.append(strategy(question, seed))
    if not answers:
        name, reason = next(iter(left_out.items()))
        raise UserError(f"strategy {name!r} has no answer: {reason}")
    return answers, left_out


def _draw(file: Path, answer: Answer, question: Question) -> None:
    from fleetest.simulation.gantt import gantt

    try:
        file.write_text(gantt(answer, {test.task_id: test.group for test in question.tests}), "utf-8")
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror or error}") from error


# What is answered -----------------------------------------------------------------------------------------------------


def _report(question: Question, answers: Sequence[Answer], left_out: dict[str, str]) -> list[str]:
    durations_s = [question.durations_s[test.task_id] for test in question.tests]
    slots = sum(machine.slots for machine in question.machines)
    lines = [
        f"{counted(len(durations_s), 'test')}, {sum(durations_s):.1f} s of work, the longest {max(durations_s):.1f} s;"
        f" {counted(len(question.machines), 'worker')}, {counted(slots, 'slot')}",
        f"no schedule is shorter than {question.bound_s:.1f} s",
        "",
    ]
    rows = [("strategy", "makespan", "to bound", "busy", "last slot after first", "")]
    for answer in answers:
        busy = _mean_utilisation(answer)
        rows.append(
            (
                answer.strategy,
                f"{answer.makespan_s:.1f} s",
                f"{answer.ratio:.3f}",
                f"{busy:.0%}",
                f"{answer.tail_s:.1f} s",
                _not_passed(answer),
            )
        )
    lines += _aligned(rows, numeric=range(1, 5))
    lines += [f"{name}: left out, {reason}" for name, reason in left_out.items()]
    lines += ["", f"{answers[0].strategy}, worker by worker"]
    utilisation = answers[0].utilisation()
    workers = [("worker", "slots", "speed", "busy")]
    for machine in question.machines:
        name = one_line(machine.name, 40)
        workers.append((name, str(machine.slots), f"{machine.speed:.3g}", f"{utilisation[machine.name]:.0%}"))
    return lines + _aligned(workers, numeric=range(1, 4))


def _not_passed(answer: Answer) -> str:
    others = {verdict: count for verdict, count in answer.verdicts.items() if verdict is not Verdict.PASSED}
    return ", ".join(f"{count} {verdict.value.replace('_', ' ')}" for verdict, count in others.items())


def _mean_utilisation(answer: Answer) -> float:
    utilisation = answer.utilisation()
    slots = sum(machine.slots for machine in answer.machines)
    return sum(utilisation[machine.name] * machine.slots for machine in answer.machines) / slots


def _aligned(rows: Sequence[tuple[str, ...]], numeric: range) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if column in numeric else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _document(question: Question, answers: Sequence[Answer], left_out: dict[str, str]) -> dict[str, Any]:
    return {
        "tests": len(question.tests),
        "work_s": sum(question.durations_s[test.task_id] for test in question.tests),
        "bound_s": question.bound_s,
        "workers": [
            {"name": machine.name, "slots": machine.slots, "speed": machine.speed} for machine in question.machines
        ],
        "strategies": [
            {
                "strategy": answer.strategy,
                "makespan_s": answer.makespan_s,
                "ratio_to_bound": answer.ratio,
                "utilisation": _mean_utilisation(answer),
                "utilisation_by_worker": answer.utilisation(),
                "tail_s": answer.tail_s,
                "verdicts": {verdict.value: count for verdict, count in answer.verdicts.items()},
            }
            for answer in answers
        ],
        "left_out": left_out,
    }
