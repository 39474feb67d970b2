"""The load balancer: scores, assignment, balance, migration, and what the history of workers changes.

The real balancer inside the real core; the time is given. Runs alone (``python test_load_balancer.py``) and with
pytest.
"""

from __future__ import annotations

from support.command_line import run_file
from support.machines import CPU, GB, W1, W2, W3, needs
from support.policy_case import PolicyCase

from fleetest.core import commands, events
from fleetest.core.model import Capabilities, Verdict
from fleetest.core.policies import Score
from fleetest.load_balancer import LoadBalancer
from fleetest.testing.scripted_cluster import task

THREE = {"w1": W1, "w2": W2, "w3": W3}
CUDA = needs(requires="cuda>=12")
WEBGPU_IN_FIREFOX = needs(requires="feature=webgpu, browser=firefox")


class BalancerCase(PolicyCase):
    """w1: cpu, 8 GB; w2: cpu and cuda, 16 GB; w3: cpu and webgpu in firefox, 8 GB."""

    @property
    def balancer(self) -> LoadBalancer:
        balancing = self.cluster.state.cluster.balancing
        assert isinstance(balancing, LoadBalancer)
        return balancing

    def scores(self, name: str) -> dict[str, Score]:
        """Of every worker that can run the task."""
        found = {worker.worker_id: self.balancer.score(worker, self.task(name)) for worker in self.workers()}
        return {worker_id: score for worker_id, score in found.items() if score is not None}

    def best(self, name: str) -> str:
        scores = self.scores(name)
        return max(scores, key=lambda worker_id: scores[worker_id].total)

    def busy_for(self, *loads_s: float) -> None:
        """Workers w1, w2, ... of one slot, each with a single task of so many expected seconds."""
        for number, load_s in enumerate(loads_s, 1):
            self.cluster.join(f"w{number}", capabilities=Capabilities({"number": (f"w{number}",)}))
            if load_s:
                own = needs(requires=f"number=w{number}")
                self.cluster.submit(task("t", expected_s=load_s, requirements=own), run=f"load-{number}")

    def overloaded(self) -> list[str]:
        return [worker.worker_id for worker in self.balancer.overloaded(self.workers())]

    def underutilised(self) -> list[str]:
        return [worker.worker_id for worker in self.balancer.underutilised(self.workers())]


class WorkerScoringTests(BalancerCase):
    """A score for each worker that can run the task, none for the others."""

    def setUp(self) -> None:
        """The three workers, and one task of each kind that nobody has yet taken."""
        super().setUp()
        self.join(THREE)
        self.cluster.submit(task("blocker"), run="first")
        self.submit_prepared(
            task("any", depends_on=["never"], expected_s=1.0),
            task("cuda", depends_on=["never"], requirements=CUDA, expected_s=1.0),
            task("web", depends_on=["never"], requirements=WEBGPU_IN_FIREFOX, expected_s=1.0),
            task("tpu", depends_on=["never"], requirements=needs(requires="tpu=v4"), expected_s=1.0),
            task("never", requirements=needs(requires="nobody=has-this")),
        )

    def test_every_worker_has_a_score_for_a_task_without_demands(self):
        """Three workers, three scores, all in (0, 1]."""
        scores = self.scores("any")
        self.assertEqual(set(scores), {"w1", "w2", "w3"})
        for worker, score in scores.items():
            with self.subTest(worker):
                self.assertGreater(score.total, 0.0)
                self.assertLessEqual(score.total, 1.0)

    def test_only_w2_has_a_score_for_cuda(self):
        """The others cannot run it at all, which is no low score."""
        self.assertEqual(set(self.scores("cuda")), {"w2"})

    def test_only_w3_has_a_score_for_webgpu_in_firefox(self):
        """Both must hold on one worker."""
        self.assertEqual(set(self.scores("web")), {"w3"})

    def test_nobody_has_a_score_for_what_nobody_has(self):
        """And nothing breaks."""
        self.assertEqual(self.scores("tpu"), {})

    def test_the_parts_of_a_score_are_visible_and_make_the_total(self):
        """So that a person can see why one worker is preferred."""
        score = self.scores("any")["w2"]
        self.assertAlmostEqual(
            score.total,
            score.fit * score.free * score.speed * score.reliability * score.locality * score.preference,
        )
        self.assertLess(score.fit, 1.0, "a GPU would lie idle under this task")
        self.assertEqual(self.scores("cuda")["w2"].fit, 1.0, "and not under this one")

    def test_a_busy_worker_scores_lower_than_a_free_one(self):
        """The part that differs is called free."""
        busy = self.running()["blocker"]
        scores = self.scores("any")
        others = [score for worker, score in scores.items() if worker != busy]
        self.assertTrue(all(scores[busy].free < other.free for other in others))


class TaskAssignmentTests(BalancerCase):
    """The best free fitting worker gets the task."""

    def test_each_task_goes_to_its_worker(self):
        """Three tasks, three workers, one way."""
        self.join(THREE)
        self.submit_prepared(task("any"), task("cuda", requirements=CUDA), task("web", requirements=WEBGPU_IN_FIREFOX))
        self.assertEqual(self.running(), {"any": "w1", "cuda": "w2", "web": "w3"})

    def test_the_scarce_worker_is_kept_while_others_can_serve(self):
        """Plain work goes to w1 although the others are free too."""
        self.join({"w2": W2, "w3": W3, "w1": W1})
        self.submit_prepared(
            task("plain"),
            task("later-cuda", requirements=CUDA, depends_on=["plain"]),
            task("later-web", requirements=WEBGPU_IN_FIREFOX, depends_on=["plain"]),
        )
        self.assertEqual(self.running(), {"plain": "w1"})

    def test_a_free_scarce_worker_serves_when_nobody_else_is_free(self):
        """Kept is not wasted."""
        self.join(THREE)
        self.submit_prepared(*(task(f"plain-{number}", group=f"{number}", expected_s=10.0) for number in range(3)))
        self.assertEqual(set(self.running().values()), {"w1", "w2", "w3"})

    def test_none_free_is_none(self):
        """With every slot taken the next one is not started anywhere."""
        self.join({"w1": W1})
        self.cluster.submit(task("running", expected_s=100.0, requirements=needs(cpus=4)))
        self.cluster.start("running")
        self.cluster.submit(task("waiting", requirements=needs(cpus=4)), run="other")
        self.assertEqual(self.running(), {"running": "w1"})
        self.assertIn("waiting for cpus", self.cluster.why("waiting", "other"))

    def test_the_faster_of_two_free_workers_gets_the_single_task(self):
        """What workers have shown before decides between equals."""
        self.join({"slow": CPU, "fast": CPU})
        for _ in range(30):
            self.balancer.finished(self.worker("slow"), 1.0, 2.0, True)
            self.balancer.finished(self.worker("fast"), 1.0, 0.5, True)
        self.submit_prepared(task("t", expected_s=5.0))
        self.assertEqual(self.running(), {"t": "fast"})


class LoadBalancingTests(BalancerCase):
    """A mixed queue ends with each task on a fitting worker and the load even."""

    def test_equal_workers_get_equal_work(self):
        """120 equal tasks on four workers: thirty each."""
        self.join({f"w{number}": CPU for number in range(4)})
        self.submit_prepared(*(task(f"t{number}", group=f"{number // 10}", expected_s=1.0) for number in range(120)))
        order = self.work_off(1.0)
        counts = [sum(worker == f"w{number}" for worker, _ in order) for number in range(4)]
        self.assertEqual(sum(counts), 120)
        self.assertLessEqual(max(counts) - min(counts), 2)

    def test_a_mixed_queue_ends_on_fitting_workers_with_even_load(self):
        """Work for one kind only, and plain work that fills what that leaves."""
        self.join(THREE)
        self.submit_prepared(
            *(task(f"any-{number}", group=f"a{number}", expected_s=1.0) for number in range(60)),
            *(task(f"cuda-{number}", group=f"c{number}", expected_s=1.0, requirements=CUDA) for number in range(15)),
            *(
                task(f"web-{number}", group=f"w{number}", expected_s=1.0, requirements=WEBGPU_IN_FIREFOX)
                for number in range(15)
            ),
        )
        order = self.work_off(1.0)
        self.assertEqual(len(order), 90)
        for worker, name in order:
            expected = {"cuda": "w2", "web": "w3"}.get(name.partition("-")[0])
            if expected is not None:
                self.assertEqual(worker, expected, name)
        counts = {name: sum(worker == name for worker, _ in order) for name in THREE}
        self.assertLessEqual(max(counts.values()) - min(counts.values()), 3, counts)
        self.assertEqual(set(self.cluster.verdicts().values()), {Verdict.PASSED})

    def test_more_slots_get_more_work(self):
        """Load is per slot."""
        self.cluster.join("small", 1, CPU)
        self.cluster.join("large", 3, CPU)
        self.submit_prepared(*(task(f"t{number}", group=f"{number}", expected_s=1.0) for number in range(80)))
        order = self.work_off(1.0)
        self.assertAlmostEqual(sum(worker == "large" for worker, _ in order), 60, delta=3)


class WorkloadDetectionTests(BalancerCase):
    """Overloaded and underutilised workers are found by expected seconds of work."""

    def test_loads_two_one_zero(self):
        """The first is overloaded, the last underutilised, the middle neither."""
        self.busy_for(2.0, 1.0, 0.0)
        self.assertEqual(self.overloaded(), ["w1"])
        self.assertEqual(self.underutilised(), ["w3"])

    def test_even_loads_are_neither(self):
        """Nothing to do is said so."""
        self.busy_for(3.0, 3.0, 3.0)
        self.assertEqual((self.overloaded(), self.underutilised()), ([], []))

    def test_a_steep_imbalance(self):
        """The heaviest is first, the lightest are found."""
        self.busy_for(1.0, 2.0, 3.0, 5.0, 9.0)
        self.assertEqual(self.overloaded()[0], "w5")
        self.assertEqual(self.underutilised()[0], "w1")
        self.assertNotIn("w5", self.underutilised())

    def test_one_giant(self):
        """Fourteen against almost nothing."""
        self.busy_for(0.0, 1.0, 2.0, 3.0, 14.0)
        self.assertEqual(self.overloaded(), ["w5"])
        self.assertEqual(self.underutilised()[0], "w1")

    def test_seconds_decide_not_numbers_of_tasks(self):
        """Ten short tasks are less than one long one."""
        self.cluster.join("many", capabilities=CPU)
        self.cluster.submit(*(task(f"{number}", expected_s=0.02) for number in range(10)), run="short")
        self.cluster.join("one", capabilities=CPU)
        self.cluster.submit(task("long", expected_s=9.0), run="long", ready=False)
        self.cluster.ready("one", run="long")
        self.assertGreater(self.worker("many").lease_count, self.worker("one").lease_count)
        self.assertEqual(self.overloaded(), ["one"])
        self.assertEqual(self.underutilised(), ["many"])


class TaskMigrationTests(BalancerCase):
    """Waiting work moves from the overloaded to the underutilised worker."""

    def overload(self, **options: object) -> None:
        """``busy`` runs one long task and has another one waiting behind it."""
        self.cluster.join("busy", capabilities=W2)
        self.cluster.submit(
            task("head", expected_s=10.0, hedge=False),
            task("waiting", expected_s=10.0, hedge=False, **options),  # type: ignore[arg-type]
        )
        self.cluster.start("head")
        self.assertEqual([self.cluster.worker_of(name) for name in ("head", "waiting")], ["busy", "busy"])

    def revoked(self) -> set[int]:
        return {lease for revoke in self.cluster.all(commands.RevokeLeases) for lease in revoke.lease_ids}

    def test_it_moves_to_the_idle_worker_and_runs_once(self):
        """Asked back, given back, granted again, one verdict, no attempt lost."""
        self.overload()
        self.join_and_prepare("idle", W1)
        self.cluster.wait(0.5)
        self.assertEqual(self.revoked(), {self.cluster.leases["waiting"].lease_id})
        self.cluster.give_back("waiting")
        self.assertEqual(self.cluster.worker_of("waiting"), "idle")
        self.cluster.finish("waiting", "head")
        self.assertEqual(self.cluster.verdicts(), {"head": Verdict.PASSED, "waiting": Verdict.PASSED})
        self.assertEqual([outcome.attempt for outcome in self.cluster.outcomes()], [1, 1])

    def test_what_runs_already_is_never_moved(self):
        """Only what waits."""
        self.overload()
        self.join_and_prepare("idle", W1)
        self.cluster.wait(60.0)
        self.assertNotIn(self.cluster.leases["head"].lease_id, self.revoked())

    def test_it_never_moves_to_a_worker_that_cannot_run_it(self):
        """An idle worker without what the task needs is no help."""
        self.overload(requirements=needs(requires="memory>=12GB"))
        self.join_and_prepare("idle", W1)
        self.cluster.wait(60.0)
        self.assertEqual(self.revoked(), set())
        self.assertEqual(W1.resources["memory"], 8 * GB)

    def test_what_started_while_it_was_asked_back_stays_and_runs_once(self):
        """The worker decides the race: its result counts, and nobody runs it again."""
        self.overload()
        self.join_and_prepare("idle", W1)
        self.cluster.wait(0.5)
        self.assertTrue(self.revoked())
        self.cluster.finish("head")
        self.cluster.start("waiting")
        self.cluster.finish("waiting")
        self.assertEqual(self.cluster.worker_of("waiting"), "busy")
        self.assertEqual(self.cluster.verdicts(), {"head": Verdict.PASSED, "waiting": Verdict.PASSED})

    def test_short_work_is_not_worth_moving(self):
        """It is done sooner where it is."""
        self.cluster.join("busy", capabilities=CPU)
        self.cluster.submit(*(task(f"{number}", expected_s=0.001, hedge=False) for number in range(10)))
        self.cluster.start("0")
        self.join_and_prepare("idle", CPU)
        self.cluster.wait(0.01)
        self.assertEqual(self.revoked(), set())

    def test_nothing_ever_ping_pongs(self):
        """However often workers come and go idle, a task moves at most as often as the limit says."""
        self.overload()
        names = ["busy"]
        for number in range(8):
            names.append(f"idle-{number}")
            self.join_and_prepare(names[-1], W1)
            self.cluster.wait(1.0)
            for name in ("waiting",):
                lease = self.cluster.leases[name]
                if lease.lease_id in self.revoked():
                    self.cluster.give_back(name)
        moves = len(self.revoked())
        self.assertGreaterEqual(moves, 1)
        self.assertLessEqual(moves, self.cluster.state.cluster.limits.moves_max)


class HedgingTests(BalancerCase):
    """The last tests are tried on idle machines too; the first verdict counts."""

    def test_a_test_that_runs_far_too_long_is_hedged_and_the_loser_is_ended(self):
        """One task, one verdict, the other attempt is killed."""
        self.join({"w1": CPU, "w2": CPU})
        self.submit_prepared(
            *(task(f"done-{number}", group=f"{number}", expected_s=1.0) for number in range(20)),
            task("slow", group="slow", expected_s=1.0),
        )
        while set(self.running()) != {"slow"}:
            self.cluster.now += 1.0
            self.start_running()
            self.cluster.finish(*(name for name in self.running() if name != "slow"), duration_s=1.0)
        first = self.cluster.leases["slow"]
        first_worker = self.cluster.worker_of("slow")
        self.start_running()
        self.cluster.wait(120.0)
        second = self.cluster.leases["slow"]
        self.assertNotEqual(second.lease_id, first.lease_id, "a second attempt was started")
        self.assertNotEqual(self.cluster.worker_of("slow"), first_worker)
        self.cluster.finish("slow", duration_s=1.0)
        killed = [lease for kill in self.cluster.all(commands.KillLeases) for lease in kill.lease_ids]
        self.assertEqual(killed, [first.lease_id])
        self.cluster.report(first, first_worker, Verdict.CANCELLED)
        self.assertEqual(len(self.cluster.verdicts()), 21)
        self.assertEqual(self.cluster.verdicts()["slow"], Verdict.PASSED)

    def test_what_forbids_it_is_never_hedged(self):
        """A test with side effects says so."""
        self.join({"w1": CPU, "w2": CPU})
        self.submit_prepared(task("slow", expected_s=1.0, hedge=False))
        self.start_running()
        self.cluster.wait(600.0)
        self.assertEqual(len(self.cluster.all(commands.GrantLeases)), 1)

    def test_a_test_that_alone_decides_the_end_is_hedged_before_any_slot_is_idle(self):
        """It was begun on a machine that turns out to be slow: its second attempt comes behind another one's work."""
        self.join(dict.fromkeys(("slow", "usual", "third", "fourth"), CPU))
        self.cluster.apply(events.SlownessRecalled(dict.fromkeys(("slow", "usual"), 1.0)))
        self.cluster.submit(
            task("long", expected_s=100.0), *(task(f"{number}", expected_s=1.0) for number in range(60)), ready=False
        )
        for name in ("slow", "usual"):
            self.cluster.ready(name)
        self.start_running()
        self.assertEqual(self.running()["long"], "slow")
        for _ in range(60):
            for worker in self.workers():
                slowness = 2.0 if worker.worker_id == "slow" else 1.0
                self.balancer.finished(worker, 1.0, slowness, True, self.task("long").task_class)
        self.cluster.wait(1.0)
        self.assertEqual(self.cluster.worker_of("long"), "usual")
        self.assertNotIn("usual", {w for name, w in self.running().items() if name == "long"}, "it waits its turn")
        self.cluster.finish(*(live.task.task_id for live in self.worker("usual").slots[0].leases.values()))
        self.assertEqual(self.cluster.verdicts()["long"], Verdict.PASSED)
        self.assertEqual(len(self.cluster.all(commands.KillLeases)), 1)


class PriorityInversionTests(BalancerCase):
    """Urgent work does not wait for long while others go on with what is less urgent."""

    def asked_back(self) -> list[str]:
        names = {
            lease.lease_id: lease.task_id for grant in self.cluster.all(commands.GrantLeases) for lease in grant.leases
        }
        return [names[lease] for revoke in self.cluster.all(commands.RevokeLeases) for lease in revoke.lease_ids]

    def test_an_urgent_test_does_not_wait_behind_a_long_one(self):
        """It goes to the other worker, which is busy too, but with short tests that are less urgent."""
        self.join({"busy": CPU, "other": CPU})
        self.cluster.submit(
            task("long", expected_s=60.0, priority=10),
            task("urgent", expected_s=0.3, priority=5),
            *(task(f"low-{number}", expected_s=0.3) for number in range(20)),
        )
        self.start_running()
        self.assertEqual(self.cluster.worker_of("urgent"), "busy")
        self.cluster.wait(1.0)
        self.assertEqual(self.asked_back(), ["urgent"])
        self.cluster.give_back("urgent")
        self.cluster.finish("low-0", duration_s=0.3)
        self.assertEqual(self.cluster.worker_of("urgent"), "other")

    def test_a_long_test_that_has_not_begun_gives_way(self):
        """The urgent one comes when each worker has a test running and a long one next."""
        self.join({"w": CPU})
        self.cluster.submit(task("first", expected_s=1.5, priority=1), task("long", expected_s=60.0), run="low")
        self.start_running()
        self.cluster.submit(task("urgent", expected_s=0.3, priority=5))
        self.assertNotIn("urgent", self.cluster.leases)
        self.cluster.wait(1.0)
        self.assertEqual(self.asked_back(), ["long"])
        self.cluster.give_back("long")
        self.assertEqual(self.cluster.worker_of("urgent"), "w")


class PerformanceBasedTests(BalancerCase):
    """The history of durations and failures per worker counts."""

    def setUp(self) -> None:
        """Four equal machines."""
        super().setUp()
        self.join(dict.fromkeys(("fast", "usual", "slow", "failing"), CPU))
        self.submit_prepared(task("t", depends_on=["u"], expected_s=1.0), task("u", requirements=CUDA))

    def work(self) -> None:
        for _ in range(30):
            self.balancer.finished(self.worker("fast"), 1.0, 0.5, True)
            self.balancer.finished(self.worker("usual"), 1.0, 1.0, True)
            self.balancer.finished(self.worker("slow"), 1.0, 2.0, True)
            self.balancer.finished(self.worker("failing"), 1.0, 1.0, True)
        for _ in range(4):
            self.balancer.failed(self.worker("failing"))

    def test_without_history_all_are_equal(self):
        """Nobody is preferred for nothing."""
        self.assertEqual(len({score.total for score in self.scores("t").values()}), 1)

    def test_faster_and_more_reliable_scores_higher_and_failing_lowest(self):
        """In this order."""
        self.work()
        scores = self.scores("t")
        self.assertEqual(sorted(scores, key=lambda name: -scores[name].total), ["fast", "usual", "slow", "failing"])

    def test_the_parts_say_why(self):
        """Speed for the slow one, reliability for the failing one."""
        self.work()
        scores = self.scores("t")
        self.assertEqual(scores["fast"].speed, 1.0)
        self.assertLess(scores["slow"].speed, scores["usual"].speed)
        self.assertLess(scores["failing"].reliability, 0.1)
        self.assertEqual(scores["slow"].reliability, 1.0)

    def test_a_worker_that_works_again_recovers(self):
        """Nobody is damned for ever."""
        self.work()
        before = self.scores("t")["failing"].reliability
        for _ in range(40):
            self.balancer.finished(self.worker("failing"), 1.0, 1.0, True)
        self.assertGreater(self.scores("t")["failing"].reliability, 0.9)
        self.assertLess(before, 0.1)

    def test_a_task_is_expected_to_take_longer_on_the_slower_worker(self):
        """Four times as slow, told by thirty measurements; what little is known of it keeps the estimate careful."""
        self.work()
        expected_s = {name: self.balancer.expected_on(self.worker(name), self.task("t")) for name in ("fast", "slow")}
        self.assertGreater(expected_s["slow"] / expected_s["fast"], 2.5)
        self.assertLess(expected_s["slow"] / expected_s["fast"], 4.2)


if __name__ == "__main__":
    raise SystemExit(run_file(__name__))
