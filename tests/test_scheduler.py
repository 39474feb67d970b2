"""The task scheduler: who gets which task, and in which order.

The real scheduler inside the real core; the time is given. Runs alone (``python test_scheduler.py``) and with pytest.
"""

from __future__ import annotations

import dataclasses

from support.command_line import run_file
from support.machines import BROWSER, CPU, CUDA, FOUR_KINDS, ROCM, needs
from support.policy_case import SILENCE_IS_NO_SIGN, PolicyCase

from fleetest.core import commands, events
from fleetest.core.model import LeaseId, RunId, Verdict, WorkerId
from fleetest.testing.scripted_cluster import task


class TaskMatchingTests(PolicyCase):
    """Tasks are matched to the workers that can run them, and to no others."""

    def test_a_plain_task_fits_every_worker(self):
        """Who demands nothing can be run by anybody."""
        self.assertEqual(self.who_can_run(task("plain"), FOUR_KINDS), {"cpu", "cuda", "rocm", "browser"})

    def test_a_cpu_task_fits_every_worker_that_has_a_cpu(self):
        """Two of the four kinds offer processors."""
        self.assertEqual(self.who_can_run(task("cpu", requirements=needs(cpus=1)), FOUR_KINDS), {"cpu", "cuda"})

    def test_tasks_of_every_kind_find_their_worker_in_one_fleet(self):
        """All four workers and one task for each of them, submitted at once."""
        self.join(FOUR_KINDS)
        self.cluster.submit(
            task("in-firefox", requirements=needs(requires="feature=webgpu, browser=firefox")),
            task("on-cuda", requirements=needs(requires="cuda>=12")),
            task("on-rocm", requirements=needs(requires="rocm=present")),
            task("anywhere"),
        )
        self.assertEqual(
            self.running(), {"in-firefox": "browser", "on-cuda": "cuda", "on-rocm": "rocm", "anywhere": "cpu"}
        )

    def test_a_task_that_nobody_can_run_waits_and_says_why(self):
        """It stays queued, names what is lacking and who is closest, and runs as soon as such a worker joins."""
        self.join({"cpu": CPU})
        self.cluster.submit(task("gpu", requirements=needs(gpus=1)))
        self.assertEqual(self.running(), {})
        self.assertEqual(self.cluster.why("gpu"), "no worker has gpus 1 (closest: worker cpu lacks gpus 1 (has 0))")
        self.join_and_prepare("cuda", CUDA)
        self.assertEqual(self.running(), {"gpu": "cuda"})

    def test_a_task_that_nobody_can_run_holds_up_nothing(self):
        """However high its priority: what somebody can run goes on."""
        self.join({"cpu": CPU})
        self.cluster.submit(task("gpu", priority=100, requirements=needs(gpus=1)), task("plain"))
        self.assertEqual(self.running(), {"plain": "cpu"})

    def test_a_scarce_worker_is_kept_for_those_who_need_it(self):
        """The only GPU gets the GPU task although a plain one was there first."""
        self.join({"cuda": CUDA, "cpu": CPU})
        self.submit_prepared(task("plain"), task("gpu", requirements=needs(gpus=1)))
        self.assertEqual(self.running(), {"plain": "cpu", "gpu": "cuda"})

    def test_a_mixed_queue_is_worked_off_and_every_task_ran_where_it_fits(self):
        """200 tasks of five kinds: one verdict each, none on a worker that cannot."""
        kinds = {
            "plain": (needs(), set(FOUR_KINDS)),
            "cpu": (needs(cpus=1), {"cpu", "cuda"}),
            "cuda": (needs(requires="cuda>=12", gpus=1), {"cuda"}),
            "rocm": (needs(requires="rocm=present"), {"rocm"}),
            "web": (needs(requires="browser=chrome, feature=webnn"), {"browser"}),
        }
        self.join({"cpu": CPU, "cuda": CUDA, "rocm": ROCM, "browser": BROWSER}, slots=2)
        self.cluster.submit(
            *(
                task(f"{kind}-{number}", group=kind, requirements=requirements, expected_s=1.0)
                for number in range(40)
                for kind, (requirements, _) in kinds.items()
            )
        )
        order = self.work_off()
        for worker, name in order:
            with self.subTest(name):
                self.assertIn(worker, kinds[name.partition("-")[0]][1])
        self.assertEqual(len(order), 200)
        self.assertEqual(list(self.cluster.verdicts().values()), [Verdict.PASSED] * 200)


class HardwareRequirementTests(PolicyCase):
    """What a task requires of the machine is enforced."""

    def fits(self, **options: object) -> set[str]:
        return self.who_can_run(task("t", requirements=needs(**options)), FOUR_KINDS)

    def test_cuda_only_on_the_cuda_worker(self):
        """A vendor's interface is a capability like any other."""
        self.assertEqual(self.fits(requires="cuda>=12"), {"cuda"})
        self.assertEqual(self.fits(requires="rocm=present"), {"rocm"})

    def test_a_browser_and_its_feature(self):
        """WebGPU in Firefox: only the browser worker; in Safari: nobody."""
        self.assertEqual(self.fits(requires="feature=webgpu, browser=firefox"), {"browser"})
        self.assertEqual(self.fits(requires="feature=webnn, browser=edge"), {"browser"})
        self.assertEqual(self.fits(requires="feature=webgpu, browser=safari"), set())

    def test_memory(self):
        """At least 12 GB: only the two with 16; reserved or only compared."""
        self.assertEqual(self.fits(requires="memory>=12GB"), {"cuda", "rocm"})
        self.assertEqual(self.fits(memory="12GB"), {"cuda", "rocm"})
        self.assertEqual(self.fits(memory="8GB"), {"cpu", "cuda", "rocm", "browser"})
        self.assertEqual(self.fits(memory="17GB"), set())

    def test_compute_capability_is_compared_as_a_version(self):
        """7.5 is at least 7.0 and 7.5, not 8.0; and less than 7.10, which is no decimal number."""
        self.assertEqual(self.fits(requires="gpu.compute>=7.0"), {"cuda"})
        self.assertEqual(self.fits(requires="gpu.compute>=7.5"), {"cuda"})
        self.assertEqual(self.fits(requires="gpu.compute>=8.0"), set())
        self.assertEqual(self.fits(requires="gpu.compute<7.10"), {"cuda"})

    def test_all_requirements_must_hold_together(self):
        """Each of two holds on some worker, both on none: then nobody may run it."""
        self.assertEqual(self.fits(requires="browser=firefox"), {"browser"})
        self.assertEqual(self.fits(requires="cuda>=12, browser=firefox"), set())
        self.assertEqual(self.fits(requires="gpu.vendor=amd, memory>=12GB"), {"rocm"})
        self.assertEqual(self.fits(requires="gpu.vendor=amd", gpus=1), set())
        self.assertEqual(self.fits(requires="gpu.compute>=7.0, memory>=12GB", gpus=1, cpus=2), {"cuda"})

    def test_why_names_all_that_the_closest_worker_lacks(self):
        """Nobody has both; the sentence says so."""
        self.join(FOUR_KINDS)
        self.cluster.submit(task("t", requirements=needs(requires="cuda>=12, browser=firefox")))
        self.assertIn("no worker has all of", self.cluster.why("t"))
        self.assertIn("closest: worker", self.cluster.why("t"))

    def test_what_is_reserved_is_not_there_for_others(self):
        """Two tasks of one GPU each follow one another on a machine with one, whatever its slots."""
        self.join({"cuda": CUDA}, slots=2)
        self.cluster.submit(task("g1", requirements=needs(gpus=1)), task("g2", requirements=needs(gpus=1)))
        self.assertEqual(self.running(), {"g1": "cuda"})
        self.assertIn("waiting for gpus", self.cluster.why("g2"))
        self.cluster.finish("g1")
        self.assertEqual(self.running(), {"g2": "cuda"})

    def test_a_lock_is_held_by_one_task_of_the_whole_fleet(self):
        """Even on different machines; the sentence says who holds it."""
        self.join({"w1": CPU, "w2": CPU})
        self.cluster.submit(
            task("a", requirements=needs(lock="printer")), task("b", requirements=needs(lock="printer"))
        )
        self.assertEqual(set(self.running()), {"a"})
        self.assertIn("lock 'printer'", self.cluster.why("b").replace('"', "'"))
        self.cluster.finish("a")
        self.assertEqual(set(self.running()), {"b"})

    def test_a_task_that_wants_its_worker_alone_shares_it_with_nobody(self):
        """Nothing else runs beside it, in no slot of that machine."""
        self.join({"w": CPU}, slots=3)
        self.cluster.submit(task("a"), task("b"), task("measured", requirements=needs(alone=True)))
        together = set()
        while running := self.running():
            together.add(frozenset(running))
            self.cluster.finish(next(iter(running)))
        self.assertIn(frozenset({"measured"}), together)
        self.assertEqual([names for names in together if "measured" in names], [frozenset({"measured"})])


class RicherRequirementTests(PolicyCase):
    """Alternatives, wishes, units, and tasks for several machines at once."""

    def fits(self, **options: object) -> set[str]:
        return self.who_can_run(task("t", requirements=needs(**options)), FOUR_KINDS)

    def test_one_of_several_alternatives_is_enough(self):
        """Either vendor's interface will do; the other conditions must hold besides."""
        self.assertEqual(self.fits(requires="cuda>=12 | rocm=present"), {"cuda", "rocm"})
        self.assertEqual(self.fits(requires="cuda>=12 | rocm=present, os=linux"), {"cuda"})

    def test_a_wish_is_followed_if_it_can_be_and_never_refused(self):
        """With the preferred worker free it goes there, without one it goes anywhere."""
        wish = task("t", requirements=needs(prefer="browser=firefox"))
        self.join(FOUR_KINDS)
        self.submit_prepared(wish)
        self.assertEqual(self.running(), {"t": "browser"})
        self.assertEqual(self.who_can_run(wish, FOUR_KINDS), set(FOUR_KINDS))

    def test_sizes_have_units(self):
        """Powers of a thousand and of 1024 are told apart: 16 GB are less than 16 GiB."""
        self.assertEqual(self.fits(requires="memory>=16GB"), {"cuda", "rocm"})
        self.assertEqual(self.fits(requires="memory>=16GiB"), set())

    def test_a_task_for_two_machines_starts_on_both_at_once_or_not_at_all(self):
        """With one machine it waits; with two it has one lease on each, and one verdict."""
        self.join({"w1": CPU})
        self.cluster.submit(task("pair", requirements=needs(workers=2)))
        self.assertEqual(self.cluster.all(commands.GrantLeases), [])
        self.join_and_prepare("w2", CPU)
        granted = {grant.worker_id: grant.leases[0] for grant in self.cluster.all(commands.GrantLeases)}
        self.assertEqual(set(granted), {"w1", "w2"})
        for worker, lease in granted.items():
            self.cluster.apply(events.AttemptsStarted(worker, [lease.lease_id]))
        for worker, lease in granted.items():
            self.cluster.report(lease, worker)
        self.assertEqual(self.cluster.verdicts(), {"pair": Verdict.PASSED})


class MissingWorkerTests(PolicyCase):
    """Work that no known worker can do is told at once, and waited for as long as its run wants."""

    def test_a_worker_that_cannot_execute_a_suite_counts_for_the_other_suites_only(self):
        """The GPU worker lacks what one of two suites needs: only the GPU test of that one has nobody."""
        self.join({"cpu": CPU, "cuda": CUDA})
        run = RunId("two suites")
        self.cluster.apply(events.RunSubmitted(run, ("able", "unable"), wait_for_workers_s=60.0))
        for worker, suite in (("cpu", "able"), ("cpu", "unable"), ("cuda", "able")):
            self.cluster.apply(events.SuiteReady(WorkerId(worker), run, suite))
        self.cluster.apply(events.SuiteUnavailable(WorkerId("cuda"), run, "unable", "no such directory"))
        for suite in ("able", "unable"):
            gpu_test = dataclasses.replace(task(f"{suite}-gpu", requirements=needs(gpus=1)), suite=suite)
            self.cluster.apply(events.SuitePlanned(run, suite, [gpu_test]))
        (notice,) = self.cluster.all(commands.PublishNotice)
        self.assertTrue(notice.text.startswith("1 test waits for a worker with gpus 1"), notice.text)
        self.cluster.finish("able-gpu")
        self.cluster.wait(60.0)
        self.assertEqual(self.cluster.verdicts(run), {"able-gpu": Verdict.PASSED, "unable-gpu": Verdict.NOT_RUN})


class AgeingTests(PolicyCase):
    """Nothing starves."""

    limits = dataclasses.replace(SILENCE_IS_NO_SIGN, ageing_s=100.0, prefetch_tasks_max=1)

    def test_work_of_low_priority_gets_its_turn_although_urgent_work_never_ends(self):
        """Passed over for long enough, it is taken before what is more urgent."""
        self.join({"w": CPU})
        self.cluster.submit(*(task(f"u{n}", group=f"u{n}", expected_s=10.0) for n in range(60)), run="urgent")
        self.cluster.submit(task("late", group="late", expected_s=10.0), run="late", priority=-5)
        order = [name for _, name in self.work_off(10.0)]
        self.assertEqual(len(order), 61)
        self.assertGreater(order.index("late"), 5, "it is passed over at first")
        self.assertLess(order.index("late"), 30, "and not for ever")


class PrioritySchedulingTests(PolicyCase):
    """Order: by priority, then by submission."""

    def order(self, *tasks) -> list[str]:
        self.join({"w": CPU})
        self.cluster.submit(*tasks)
        return [name for _, name in self.work_off()]

    def test_higher_priority_first(self):
        """One slot; the highest starts first, whenever it was submitted."""
        order = self.order(*(task(f"p{level}", group=f"p{level}", priority=level) for level in (1, 5, 3, 9, -2)))
        self.assertEqual(order, ["p9", "p5", "p3", "p1", "p-2"])

    def test_equal_priority_in_order_of_submission(self):
        """Nothing else differs, so the first comes first."""
        names = [f"t{number}" for number in range(8)]
        self.assertEqual(self.order(*(task(name, group=name) for name in names)), names)

    def test_the_priority_of_a_run_is_added_to_that_of_its_tasks(self):
        """A task of an urgent run overtakes what waits of a patient one."""
        self.join({"w": CPU})
        self.cluster.submit(*(task(f"a{i}", group=f"a{i}", expected_s=10.0) for i in range(5)), run="patient")
        self.cluster.submit(task("b", expected_s=10.0), run="urgent", priority=1)
        order = [name for _, name in self.work_off()]
        self.assertLess(order.index("b"), 3, "only what is leased already is ahead of it")

    def test_the_priority_of_a_test_counts_against_one_for_several_machines(self):
        """What is urgent in a run of equal priority comes before the pair."""
        self.join({"w1": CPU, "w2": CPU})
        self.cluster.submit(*(task(name, group=name, expected_s=5.0) for name in ("x", "y")), run="first")
        self.cluster.start("x", "y")
        self.cluster.submit(task("pair", requirements=needs(workers=2)), run="pair")
        self.cluster.submit(*(task(name, group=name, priority=5, expected_s=5.0) for name in ("u", "v")), run="urgent")
        self.cluster.finish("x", "y", duration_s=5.0)
        self.assertLess({"u", "v"}, self.cluster.leases.keys())
        self.assertNotIn("pair", self.cluster.leases)
        self.cluster.finish("u", "v", duration_s=5.0)
        self.assertEqual(set(self.running()), {"pair"})

    def test_the_longest_expected_work_starts_first(self):
        """Of equal priority, so that nothing long is left for the end."""
        order = self.order(
            *(task(name, group=name, expected_s=seconds) for name, seconds in (("s", 1), ("l", 9), ("m", 3)))
        )
        self.assertEqual(order, ["l", "m", "s"])

    def test_the_expected_duration_never_beats_the_priority(self):
        """Whoever says what is urgent is believed."""
        order = self.order(
            task("long", group="a", expected_s=100.0), task("urgent", group="b", expected_s=0.1, priority=1)
        )
        self.assertEqual(order, ["urgent", "long"])


class FairShareTests(PolicyCase):
    """Concurrent runs share the fleet."""

    def shares(self, *weights: float) -> list[int]:
        """One run per weight, all of many equal tasks; how many each has got of the first 40."""
        self.join({"w": CPU})
        for number, weight in enumerate(weights):
            tasks = [task(f"{number}-{i}", group=f"{i}", expected_s=10.0) for i in range(60)]
            self.cluster.submit(*tasks, run=f"run{number}", owner=f"owner{number}", weight=weight)
        order: list[str] = []
        while len(order) < 42:
            name = next(iter(self.running()))
            order.append(name)
            self.cluster.now += 10.0
            self.cluster.finish(name, duration_s=10.0)
        return [sum(name.startswith(f"{number}-") for name in order[2:]) for number in range(len(weights))]

    def test_two_owners_get_the_same(self):
        """Whoever came first gets no more for it."""
        first, second = self.shares(1.0, 1.0)
        self.assertAlmostEqual(first, second, delta=2)

    def test_weights_are_shares(self):
        """A run of weight 3 gets three times what one of weight 1 gets."""
        light, heavy = self.shares(1.0, 3.0)
        self.assertAlmostEqual(heavy / light, 3.0, delta=0.5)


class RetryTests(PolicyCase):
    """How often a failing task is tried, and where."""

    def test_the_limit_of_retries_holds(self):
        """Two retries are three attempts; then the verdict stands."""
        self.join({"w1": CPU, "w2": CPU})
        self.cluster.submit(task("t", retries=2))
        for attempt in (1, 2, 3):
            self.assertEqual(self.cluster.leases["t"].attempt, attempt)
            self.assertEqual(self.cluster.verdicts(), {})
            self.cluster.finish("t", verdict=Verdict.FAILED)
        self.assertEqual(self.cluster.verdicts(), {"t": Verdict.FAILED})
        self.assertEqual([outcome.is_final for outcome in self.cluster.outcomes()], [False, False, True])

    def test_another_machine_is_tried_first(self):
        """What failed on one worker is tried on another if there is one."""
        self.join({"w1": CPU, "w2": CPU})
        self.cluster.submit(task("t", retries=1))
        first = self.cluster.worker_of("t")
        self.cluster.finish("t", verdict=Verdict.FAILED)
        self.assertNotEqual(self.cluster.worker_of("t"), first)
        self.cluster.finish("t")
        self.assertEqual(self.cluster.verdicts(), {"t": Verdict.PASSED})

    def test_a_retry_waits_for_its_backoff_and_each_further_one_twice_as_long(self):
        """To the millisecond; other work goes on meanwhile."""
        self.join({"w": CPU})
        self.cluster.submit(task("t", retries=2, backoff_s=10.0, hedge=False))
        for wait_s, attempt in ((10.0, 2), (20.0, 3)):
            self.cluster.finish("t", verdict=Verdict.FAILED)
            self.assertIn("before retry", self.cluster.why("t"))
            self.cluster.wait(wait_s - 0.001)
            self.assertEqual(self.running(), {})
            self.cluster.wait(0.001)
            self.assertEqual((self.running(), self.cluster.leases["t"].attempt), ({"t": "w"}, attempt))

    def test_what_passed_is_not_tried_again(self):
        """A retry is for failures."""
        self.join({"w": CPU})
        self.cluster.submit(task("t", retries=5))
        self.cluster.finish("t")
        self.assertEqual(self.cluster.verdicts(), {"t": Verdict.PASSED})
        self.assertEqual(len(self.cluster.all(commands.GrantLeases)), 1)

    def test_a_lost_worker_costs_an_attempt_and_no_retry(self):
        """Losing the machine is not the test's failure; losing three ends in quarantine."""
        self.join({"w1": CPU, "w2": CPU, "w3": CPU, "w4": CPU})
        self.cluster.submit(task("t", retries=0))
        for _ in range(3):
            self.cluster.start("t")
            self.cluster.disconnect(self.cluster.worker_of("t"), dead=True)
        self.assertEqual(self.cluster.verdicts(), {"t": Verdict.QUARANTINED})


class DependencyTests(PolicyCase):
    """A prerequisite that is unknown or failed is never treated as done."""

    def test_a_task_waits_for_what_it_depends_on(self):
        """And says so; it starts when the prerequisite has passed, not before."""
        self.join({"w1": CPU, "w2": CPU})
        self.cluster.submit(task("after", depends_on=["before"]), task("before"))
        self.assertEqual(set(self.running()), {"before"})
        self.assertIn("waiting for dependency before", self.cluster.why("after"))
        self.cluster.finish("before")
        self.assertEqual(set(self.running()), {"after"})

    def test_a_failed_prerequisite_ends_all_that_depends_on_it(self):
        """The whole chain is not run, and the reason names the culprit."""
        self.join({"w": CPU})
        self.cluster.submit(task("a"), task("b", depends_on=["a"]), task("c", depends_on=["b"]), task("other"))
        self.cluster.finish("a", verdict=Verdict.FAILED)
        self.cluster.finish("other")
        self.assertEqual(
            self.cluster.verdicts(),
            {"a": Verdict.FAILED, "b": Verdict.NOT_RUN, "c": Verdict.NOT_RUN, "other": Verdict.PASSED},
        )
        reasons = {outcome.task_id: outcome.reason for outcome in self.cluster.outcomes()}
        self.assertIn("a", reasons["b"])
        self.assertIn("failed", reasons["b"])

    def test_an_unknown_prerequisite_is_not_done(self):
        """A name that no task has must not let anything run."""
        self.join({"w": CPU})
        self.cluster.submit(task("t", depends_on=["misspelt"]))
        self.assertEqual(self.cluster.verdicts(), {"t": Verdict.NOT_RUN})
        self.assertIn("misspelt", self.cluster.outcomes()[0].reason)
        self.assertEqual(self.cluster.all(commands.GrantLeases), [])

    def test_a_circle_ends(self):
        """Tasks that wait for each other would wait for ever."""
        self.join({"w": CPU})
        self.cluster.submit(task("a", depends_on=["b"]), task("b", depends_on=["a"]), task("c"))
        self.cluster.finish("c")
        self.assertEqual(self.cluster.verdicts(), {"a": Verdict.NOT_RUN, "b": Verdict.NOT_RUN, "c": Verdict.PASSED})

    def test_a_retry_that_passes_counts_as_done(self):
        """The prerequisite's one verdict decides, not its first attempt."""
        self.join({"w": CPU})
        self.cluster.submit(task("a", retries=1), task("b", depends_on=["a"]))
        self.cluster.finish("a", verdict=Verdict.FAILED)
        self.assertNotIn("b", self.cluster.verdicts())
        self.cluster.finish("a")
        self.cluster.finish("b")
        self.assertEqual(self.cluster.verdicts(), {"a": Verdict.PASSED, "b": Verdict.PASSED})


class TimeoutTests(PolicyCase):
    """A task never holds its slot for longer than it may."""

    limits = dataclasses.replace(SILENCE_IS_NO_SIGN, lease_overrun_s=10.0)

    def test_the_lease_carries_the_timeout(self):
        """The worker enforces it, so it must be told."""
        self.join({"w": CPU})
        self.cluster.submit(task("t", timeout_s=5.0))
        self.assertEqual(self.cluster.leases["t"].timeout_s, 5.0)

    def test_a_timeout_is_a_verdict_and_may_be_retried(self):
        """It counts like a failure."""
        self.join({"w": CPU})
        self.cluster.submit(task("t", timeout_s=5.0, retries=1))
        self.cluster.finish("t", verdict=Verdict.TIMEOUT)
        self.cluster.finish("t", verdict=Verdict.TIMEOUT)
        self.assertEqual(self.cluster.verdicts(), {"t": Verdict.TIMEOUT})

    def test_a_worker_that_does_not_enforce_it_loses_the_task(self):
        """At the stated time, to the millisecond, and the task is tried elsewhere."""
        self.join({"w1": CPU, "w2": CPU})
        self.cluster.submit(task("t", timeout_s=5.0, hedge=False))
        self.cluster.start("t")
        first = self.cluster.worker_of("t")
        self.cluster.wait(14.999)
        self.assertEqual(self.cluster.all(commands.KillLeases), [])
        self.cluster.wait(0.001)
        self.assertEqual([kill.worker_id for kill in self.cluster.all(commands.KillLeases)], [first])
        self.assertEqual(self.cluster.leases["t"].attempt, 2)

    def test_a_task_without_timeout_is_never_taken_away(self):
        """A day later it still runs."""
        self.join({"w": CPU})
        self.cluster.submit(task("t", hedge=False))
        self.cluster.start("t")
        self.cluster.wait(86_400.0)
        self.assertEqual(set(self.running()), {"t"})


class CancellationTests(PolicyCase):
    """A cancelled run hands out nothing more and ends."""

    def test_what_waits_is_cancelled_and_what_runs_may_finish(self):
        """Every task has one verdict, and the run ends."""
        self.join({"w": CPU})
        self.cluster.submit(*(task(f"t{i}", expected_s=10.0) for i in range(5)))
        self.cluster.start("t0")
        self.cluster.cancel("stop")
        self.cluster.give_back(*(name for name in self.cluster.leases if name != "t0"))
        self.cluster.finish("t0")
        verdicts = self.cluster.verdicts()
        self.assertEqual(verdicts.pop("t0"), Verdict.PASSED)
        self.assertEqual(set(verdicts.values()), {Verdict.CANCELLED})
        self.assertEqual(len(verdicts), 4)
        self.assertEqual(len(self.cluster.all(commands.RunFinished)), 1)

    def test_a_kill_ends_what_runs(self):
        """The worker is told at once."""
        self.join({"w": CPU})
        self.cluster.submit(task("t"))
        self.cluster.start("t")
        emitted = self.cluster.cancel("stop", kill=True)
        self.assertIn(
            LeaseId(self.cluster.leases["t"].lease_id),
            [lease_id for kill in emitted if isinstance(kill, commands.KillLeases) for lease_id in kill.lease_ids],
        )

    def test_one_run_is_cancelled_and_the_other_goes_on(self):
        """A cancellation is of one run."""
        self.join({"w": CPU})
        self.cluster.submit(task("a"), run="one")
        self.cluster.submit(task("b"), run="other")
        self.cluster.start("a")
        self.cluster.cancel("stop", run="one", kill=True)
        self.cluster.finish("a", verdict=Verdict.CANCELLED)
        self.cluster.finish("b")
        self.assertEqual(self.cluster.verdicts("other"), {"b": Verdict.PASSED})

    def test_nothing_is_handed_out_after_it(self):
        """Not even to a worker that joins then."""
        self.join({"w": CPU})
        self.cluster.submit(*(task(name, expected_s=100.0) for name in "abc"))
        self.cluster.start("a")
        self.assertNotIn("c", self.cluster.leases)
        self.cluster.cancel("stop")
        granted = len(self.cluster.all(commands.GrantLeases))
        self.cluster.join("late")
        self.cluster.apply(events.SuiteReady(WorkerId("late"), RunId("run"), ""))
        self.assertEqual(len(self.cluster.all(commands.GrantLeases)), granted)


if __name__ == "__main__":
    raise SystemExit(run_file(__name__))
