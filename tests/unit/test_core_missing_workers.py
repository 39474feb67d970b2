"""Work that no known worker can do: what is said, how long it waits, how it ends."""

import math

import pytest

from fleetest.core import commands, events, missing_workers
from fleetest.core.missing_workers import MissingWorkers
from fleetest.core.model import NO_REQUIREMENTS, Capabilities, Limits, Requirements, RunId, Verdict, WorkerId
from fleetest.core.requirements import parse_options
from fleetest.testing.scripted_cluster import RUN, ScriptedCluster, task

IS_COMPILED = not (missing_workers.__file__ or "").endswith(".py")
OLD = Capabilities({"cuda": ("11.8",)})
NEW = Capabilities({"cuda": ("12.4",)})
CUDA = parse_options({"requires": "cuda>=12"}).requirements
NOTICE = "for a worker with cuda>=12: nobody has it (closest: worker old lacks cuda>=12 (has 11.8))"
NO_WORKER = "no worker with cuda>=12 (closest: worker old lacks cuda>=12 (has 11.8))"


def make(announced: tuple[Capabilities, ...] = ()) -> ScriptedCluster:
    return ScriptedCluster(Limits(heartbeat_interval_s=math.inf, announced=announced))


def notices(cluster: ScriptedCluster) -> list[str]:
    return [command.text for command in cluster.all(commands.PublishNotice)]


def reasons(cluster: ScriptedCluster) -> dict[str, str]:
    outcomes = [outcome for command in cluster.all(commands.PublishOutcomes) for outcome in command.outcomes]
    return {outcome.task_id: outcome.reason for outcome in outcomes if outcome.verdict is Verdict.NOT_RUN}


def test_it_is_said_once_per_distinct_requirement_when_the_plan_comes():
    cluster = make()
    cluster.join("old", capabilities=OLD)
    gpus = Requirements(resources=(("gpus", 1.0),))
    tasks = [task(f"t{number}", requirements=CUDA) for number in range(12)]
    cluster.submit(*tasks, task("g", requirements=gpus), task("plain"), wait_for_workers_s=60.0)
    assert notices(cluster) == [
        f"12 tests wait {NOTICE}; without one, not run after 60 s",
        "1 test waits for a worker with gpus 1: nobody has it (closest: worker old lacks gpus 1 (has 0))"
        "; without one, not run after 60 s",
    ]


def test_after_the_wait_the_tests_end_with_the_reason_and_the_others_ran():
    cluster = make()
    cluster.join("old", capabilities=OLD)
    cluster.submit(task("t", requirements=CUDA), task("u", depends_on=["t"]), task("plain"), wait_for_workers_s=60.0)
    cluster.finish("plain")
    cluster.wait(59.0)
    assert cluster.verdicts() == {"plain": Verdict.PASSED}
    cluster.wait(2.0)
    assert cluster.verdicts() == {"plain": Verdict.PASSED, "t": Verdict.NOT_RUN, "u": Verdict.NOT_RUN}
    assert reasons(cluster) == {"t": f"{NO_WORKER}, after 60 s of waiting", "u": "dependency t was not run"}
    assert [command.run_id for command in cluster.all(commands.RunFinished)] == [RUN]


def test_a_wait_of_nothing_ends_them_at_once_and_for_ever_never():
    cluster = make()
    cluster.join("old", capabilities=OLD)
    cluster.submit(task("t", requirements=CUDA), run="at once", wait_for_workers_s=0.0)
    assert reasons(cluster) == {"t": NO_WORKER}
    cluster.submit(task("t", requirements=CUDA), run="for ever")
    cluster.wait(1e7)
    assert [command.run_id for command in cluster.all(commands.RunFinished)] == ["at once"]
    assert notices(cluster) == [f"1 test waits {NOTICE}"]


def test_a_worker_that_joins_ends_the_wait_and_gets_the_tests():
    cluster = make()
    cluster.join("old", capabilities=OLD)
    cluster.submit(task("t", requirements=CUDA), wait_for_workers_s=60.0)
    cluster.wait(59.0)
    cluster.join("new", capabilities=NEW)
    cluster.ready("new")
    assert notices(cluster)[-1] == "the wait for a worker with cuda>=12 is over"
    cluster.start("t")
    cluster.wait(1000.0)
    cluster.finish("t")
    assert cluster.verdicts() == {"t": Verdict.PASSED}


def test_the_loss_of_the_last_worker_that_fits_begins_a_wait():
    cluster = make()
    cluster.join("old", capabilities=OLD)
    cluster.join("new", capabilities=NEW)
    cluster.submit(task("t", requirements=CUDA), wait_for_workers_s=60.0)
    cluster.start("t")
    assert notices(cluster) == []
    cluster.apply(events.WorkerDisconnected(WorkerId("new"), "gone"))
    assert notices(cluster) == []  # It may come back.
    cluster.wait(15.0)
    assert notices(cluster) == [f"1 test waits {NOTICE}; without one, not run after 60 s"]
    cluster.wait(61.0)
    assert cluster.verdicts() == {"t": Verdict.NOT_RUN}


def test_without_any_worker_one_line_is_said_about_the_whole_run():
    cluster = make()
    cluster.submit(task("t", requirements=CUDA), task("plain"), wait_for_workers_s=60.0)
    assert notices(cluster) == ["the run waits for a worker: none has joined; without one, not run after 60 s"]
    cluster.wait(30.0)
    cluster.join("old", capabilities=OLD)
    assert notices(cluster)[1:] == [
        "the wait for a worker is over",
        f"1 test waits {NOTICE}; without one, not run after 60 s",
    ]
    cluster.ready("old")
    cluster.finish("plain")
    cluster.wait(61.0)
    assert cluster.verdicts() == {"plain": Verdict.PASSED, "t": Verdict.NOT_RUN}


def test_a_run_that_nobody_collects_ends():
    cluster = make()
    cluster.apply(events.RunSubmitted(RunId(RUN), wait_for_workers_s=60.0))
    cluster.wait(61.0)
    assert [command.counts for command in cluster.all(commands.RunFinished)] == [{}]


def test_what_an_announced_worker_could_do_waits_without_limit_and_without_a_word():
    cluster = make((NEW,))
    cluster.join("old", capabilities=OLD)
    cluster.submit(task("t", requirements=CUDA), wait_for_workers_s=60.0)
    cluster.wait(1000.0)
    assert notices(cluster) == []
    assert cluster.why("t") == "no worker has cuda>=12 yet; one that has is announced"
    cluster.join("new", capabilities=NEW)
    cluster.ready("new")
    cluster.finish("t")
    assert cluster.verdicts() == {"t": Verdict.PASSED}


def test_a_gang_needs_as_many_workers_as_it_is_large():
    cluster = make()
    cluster.join("new", capabilities=NEW)
    pair = parse_options({"requires": "cuda>=12", "workers": 2}).requirements
    cluster.submit(task("t", requirements=pair), wait_for_workers_s=60.0)
    assert notices(cluster) == [
        "1 test waits for 2 workers at once with cuda>=12: there is 1; without one, not run after 60 s"
    ]
    cluster.join("other", capabilities=NEW)
    assert notices(cluster)[-1] == "the wait for 2 workers at once with cuda>=12 is over"


def test_a_cancelled_run_waits_for_nobody():
    cluster = make()
    cluster.join("old", capabilities=OLD)
    cluster.submit(task("t", requirements=CUDA), wait_for_workers_s=60.0)
    cluster.apply(events.RunCancelled(RunId(RUN), "interrupted"))
    assert cluster.verdicts() == {"t": Verdict.CANCELLED}
    assert cluster.state.next_deadline() is None


@pytest.mark.parametrize("kind", ["disconnected", "draining"])
def test_a_worker_that_may_serve_again_is_known(kind):
    cluster = make()
    cluster.join("new", capabilities=NEW)
    if kind == "disconnected":
        cluster.apply(events.WorkerDisconnected(WorkerId("new"), "gone"))
    else:
        cluster.apply(events.WorkerDrainRequested(WorkerId("new")))
    cluster.submit(task("t", requirements=CUDA), ready=False, wait_for_workers_s=0.0)
    assert notices(cluster) == []
    assert cluster.verdicts() == {}


# Workers that have what is needed and cannot execute the suite -------------------------------------------------------

UNABLE = "worker new: No module named 'torch'"


def cannot(cluster: ScriptedCluster, worker: str, reason: str = "No module named\n  'torch'", run: str = RUN) -> None:
    cluster.apply(events.SuiteUnavailable(WorkerId(worker), RunId(run), "", reason))


def with_old_and_new(*, wait_for_workers_s: float | None, tasks: int = 1) -> ScriptedCluster:
    """The old one is ready and does not fit; the new one fits and still prepares the suite."""
    cluster = make()
    cluster.join("old", capabilities=OLD)
    cluster.join("new", capabilities=NEW)
    names = [f"t{number}" for number in range(tasks)]
    specs = [task(name, requirements=CUDA) for name in names]
    cluster.submit(*specs, ready=False, wait_for_workers_s=wait_for_workers_s)
    cluster.ready("old")
    return cluster


def test_a_worker_that_still_prepares_the_suite_counts_as_able():
    cluster = with_old_and_new(wait_for_workers_s=0.0)
    cluster.wait(1000.0)
    assert notices(cluster) == []
    assert cluster.why("t0") == "worker new is still collecting its suite"
    cluster.ready("new")
    cluster.finish("t0")
    assert cluster.verdicts() == {"t0": Verdict.PASSED}


def test_what_only_unable_workers_could_do_waits_for_another_one_and_ends_with_their_reason():
    cluster = with_old_and_new(wait_for_workers_s=60.0, tasks=2)
    cannot(cluster, "new")
    wanted = f"a worker with cuda>=12 that can execute the suite ({UNABLE})"
    assert notices(cluster) == [f"2 tests wait for {wanted}; without one, not run after 60 s"]
    assert cluster.why("t0") == f"no worker with cuda>=12 can execute the suite ({UNABLE})"
    cluster.wait(59.0)
    assert cluster.verdicts() == {}
    cluster.wait(2.0)
    reason = f"no worker with cuda>=12 can execute the suite ({UNABLE}), after 60 s of waiting"
    assert reasons(cluster) == {"t0": reason, "t1": reason}
    assert [command.run_id for command in cluster.all(commands.RunFinished)] == [RUN]


def test_a_wait_of_nothing_ends_them_when_the_last_worker_says_that_it_cannot():
    cluster = with_old_and_new(wait_for_workers_s=0.0)
    cannot(cluster, "new")
    assert reasons(cluster) == {"t0": f"no worker with cuda>=12 can execute the suite ({UNABLE})"}


@pytest.mark.parametrize("who", ["the same", "another"])
def test_the_wait_is_over_when_a_worker_that_fits_can_execute_the_suite(who):
    cluster = with_old_and_new(wait_for_workers_s=60.0)
    cannot(cluster, "new")
    name = "new"
    if who == "another":
        name = "newer"
        cluster.join(name, capabilities=NEW)
        assert notices(cluster)[1:] == ["the wait for a worker with cuda>=12 is over"], "it may be able"
    cluster.ready(name)
    assert notices(cluster)[1:] == ["the wait for a worker with cuda>=12 is over"]
    cluster.wait(61.0)
    cluster.finish("t0")
    assert cluster.verdicts() == {"t0": Verdict.PASSED}


def test_the_loss_of_the_worker_that_can_leaves_the_one_that_cannot():
    cluster = with_old_and_new(wait_for_workers_s=0.0)
    cluster.join("newer", capabilities=NEW)
    cannot(cluster, "new")
    cluster.disconnect("newer", dead=True)
    assert reasons(cluster) == {"t0": f"no worker with cuda>=12 can execute the suite ({UNABLE})"}


def test_only_the_suite_that_nobody_can_execute_waits():
    cluster = make()
    cluster.join("old", capabilities=OLD)
    cluster.join("new", capabilities=NEW)
    cluster.apply(events.RunSubmitted(RunId(RUN), suites=("a", "b"), wait_for_workers_s=0.0))
    for suite in "ab":
        cluster.apply(events.SuitePlanned(RunId(RUN), suite, (task(f"t{suite}", requirements=CUDA),)))
        cluster.apply(events.SuiteReady(WorkerId("old"), RunId(RUN), suite))
    cluster.apply(events.SuiteReady(WorkerId("new"), RunId(RUN), "a"))
    cluster.apply(events.SuiteUnavailable(WorkerId("new"), RunId(RUN), "b", "worker new does not see /data"))
    reason = "no worker with cuda>=12 can execute suite 'b' (worker new does not see /data)"
    assert reasons(cluster) == {"tb": reason}
    cluster.finish("ta")
    assert [command.run_id for command in cluster.all(commands.RunFinished)] == [RUN]


def test_what_the_only_worker_that_fits_did_not_collect_waits_too():
    cluster = with_old_and_new(wait_for_workers_s=60.0, tasks=2)
    cluster.ready("new", missing=["t1"])
    wanted = "a worker with cuda>=12 that can execute the suite (worker new did not collect it)"
    assert notices(cluster) == [f"1 test waits for {wanted}; without one, not run after 60 s"]
    cluster.finish("t0")
    cluster.wait(61.0)
    assert cluster.verdicts() == {"t0": Verdict.PASSED, "t1": Verdict.NOT_RUN}


def test_what_the_only_worker_that_fits_gives_back_as_not_collectable_waits_too():
    cluster = with_old_and_new(wait_for_workers_s=0.0)
    cluster.ready("new")
    cluster.give_back("t0", not_collectable=True)
    reason = "no worker with cuda>=12 can execute the suite (worker new did not collect it)"
    assert reasons(cluster) == {"t0": reason}


def test_a_gang_counts_the_workers_that_can_execute_its_suite():
    cluster = make()
    for name in ("new", "other"):
        cluster.join(name, capabilities=NEW)
    pair = parse_options({"workers": 2}).requirements
    cluster.submit(task("t", requirements=pair), task("plain"), ready=False, wait_for_workers_s=0.0)
    cluster.ready("other")
    cannot(cluster, "new")
    assert reasons(cluster) == {"t": f"needs 2 workers at once that can execute the suite: there is 1 ({UNABLE})"}


def test_a_gang_that_lost_a_member_under_way_ends_when_it_is_queued_again():
    cluster = make()
    for name in ("new", "other"):
        cluster.join(name, capabilities=NEW)
    pair = parse_options({"workers": 2}).requirements
    cluster.submit(task("t", requirements=pair), wait_for_workers_s=0.0)
    held = next(live for live in cluster.state.cluster.leases.values() if live.slot.worker.worker_id == "new")
    for live in list(cluster.state.cluster.leases.values()):
        cluster.apply(events.AttemptsStarted(live.slot.worker.worker_id, (live.lease_id,)))
    cluster.disconnect("other", dead=True)
    assert cluster.verdicts() == {}
    cluster.report(held, "new")
    assert reasons(cluster) == {"t": "needs 2 workers at once: there is 1"}


def test_three_workers_that_cannot_are_named():
    cluster = with_old_and_new(wait_for_workers_s=0.0)
    for number in range(4):
        cluster.join(f"w{number}", capabilities=NEW)
    for number in range(4):
        cannot(cluster, f"w{number}", "x" * 300)
    cannot(cluster, "new")
    words = "x" * 200 + "..."
    named = f"{UNABLE}; worker w0: {words}; worker w1: {words}; and 2 more"
    assert reasons(cluster) == {"t0": f"no worker with cuda>=12 can execute the suite ({named})"}


def test_what_was_unable_when_its_link_broke_is_so_when_it_is_back():
    cluster = with_old_and_new(wait_for_workers_s=60.0)
    cannot(cluster, "new")
    cluster.disconnect("new")
    cluster.wait(20.0)  # Lost.
    cluster.join("new", capabilities=NEW)
    assert notices(cluster)[1:] == []
    cluster.wait(41.0)
    assert cluster.verdicts() == {"t0": Verdict.NOT_RUN}


def test_a_worker_that_joins_at_the_last_moment_is_in_time():
    cluster = make()
    cluster.submit(task("t"), wait_for_workers_s=60.0)
    cluster.now = 61.0  # Nobody looked at the clock meanwhile.
    cluster.join("new", capabilities=NEW)
    cluster.ready("new")
    cluster.finish("t")
    assert cluster.verdicts() == {"t": Verdict.PASSED}


def test_tests_that_ended_for_another_reason_no_longer_wait():
    cluster = make()
    cluster.join("old", capabilities=OLD)
    cluster.submit(task("a"), task("t", requirements=CUDA, depends_on=["a"]), task("u"), wait_for_workers_s=60.0)
    assert len(notices(cluster)) == 1
    cluster.finish("a", verdict=Verdict.FAILED)
    assert reasons(cluster) == {"t": "dependency a failed"}
    cluster.wait(61.0)
    assert len(notices(cluster)) == 1
    cluster.finish("u")
    assert cluster.state.next_deadline() is None


# What it costs ---------------------------------------------------------------------------------------------------


def count_calls(monkeypatch, name: str) -> list[None]:
    calls: list[None] = []
    method = getattr(MissingWorkers, name)

    def counted(self, *args):
        calls.append(None)
        return method(self, *args)

    monkeypatch.setattr(MissingWorkers, name, counted)
    return calls


@pytest.mark.skipif(IS_COMPILED, reason="methods of the compiled core cannot be counted")
def test_workers_that_change_nothing_cost_no_look_at_the_tests(monkeypatch):
    cluster = make()
    cluster.join("old", capabilities=OLD)
    cluster.submit(*(task(f"t{number}", requirements=CUDA) for number in range(10)))
    looks = count_calls(monkeypatch, "_unserved")
    for number in range(50):
        cluster.join(f"other{number}", capabilities=OLD)
    assert not looks
    cluster.join("new", capabilities=NEW)
    assert len(looks) == 1
    assert notices(cluster)[-1] == "the wait for a worker with cuda>=12 is over"


@pytest.mark.skipif(IS_COMPILED, reason="methods of the compiled core cannot be counted")
def test_what_has_ended_costs_no_look_at_the_tests(monkeypatch):
    cluster = make()
    cluster.join("new", capabilities=NEW)
    cluster.join("old", capabilities=OLD)
    cluster.submit(*(task(f"t{number}") for number in range(10)), task("c", requirements=CUDA, priority=1))
    cluster.finish("c")
    suite = cluster.state.cluster.runs[RUN].suites[""]
    assert [task_class.requirements for task_class in suite.classes] == [NO_REQUIREMENTS]
    looks = count_calls(monkeypatch, "_unserved")
    cluster.disconnect("new", goodbye=True)
    cluster.join("new", capabilities=NEW)
    assert not looks
    assert notices(cluster) == []


@pytest.mark.skipif(IS_COMPILED, reason="methods of the compiled core cannot be counted")
def test_many_workers_that_did_not_collect_a_test_cost_a_look_each(monkeypatch):
    cluster = make()
    for number in range(50):
        cluster.join(f"w{number}")
    cluster.submit(task("t"), task("u"), ready=False)
    looks = count_calls(monkeypatch, "_lacking")
    for number in range(50):
        cluster.ready(f"w{number}", missing=["t"])
    assert len(looks) <= 50
