"""One deliberate break of the product for each category of the tests, and the test that must notice it.

``old`` is in its file exactly once. The list is data: ``run_mutations.py`` tries it, ``README.md`` shows it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutation:
    """``file`` is below ``src/fleetest``; ``test`` is a name of unittest in ``test_file``."""

    category: str
    what: str
    file: str
    old: str
    new: str
    test_file: str
    test: str


def _mutations() -> tuple[Mutation, ...]:
    found: list[Mutation] = []

    def of(test_file: str, category: str, test: str, what: str, file: str, old: str, new: str) -> None:
        found.append(Mutation(category, what, file, old, new, test_file, test))

    # Task scheduler
    scheduler = "test_scheduler.py"
    of(
        scheduler,
        "task matching",
        "TaskMatchingTests.test_tasks_of_every_kind_find_their_worker_in_one_fleet",
        "every worker seems to satisfy every condition",
        "core/matching.py",
        "        holds(condition, capabilities) for condition in requirements.constraints\n    )\n\n\ndef preference",
        "        True for condition in requirements.constraints\n    )\n\n\ndef preference",
    )
    of(
        scheduler,
        "hardware requirements",
        "HardwareRequirementTests.test_all_requirements_must_hold_together",
        "one of several conditions is enough",
        "core/matching.py",
        "for name, amount in requirements.resources) and all(",
        "for name, amount in requirements.resources) and any(",
    )
    of(
        scheduler,
        "priority",
        "PrioritySchedulingTests.test_higher_priority_first",
        "lower priority first",
        "core/group_queue.py",
        "self.levels.sort(key=lambda level: -level.priority)",
        "self.levels.sort(key=lambda level: level.priority)",
    )
    of(
        scheduler,
        "fair share",
        "FairShareTests.test_weights_are_shares",
        "weights count for nothing",
        "core/fair_share.py",
        "seconds / run.weight",
        "seconds",
    )
    of(
        scheduler,
        "retries",
        "RetryTests.test_the_limit_of_retries_holds",
        "one retry too many",
        "core/attempt_handling.py",
        "task.retries_used < task.spec.retries",
        "task.retries_used <= task.spec.retries",
    )
    of(
        scheduler,
        "dependencies",
        "DependencyTests.test_a_failed_prerequisite_ends_all_that_depends_on_it",
        "a failed prerequisite counts as done",
        "core/task_handling.py",
        "if prerequisite.verdict in _SUCCESS:",
        "if prerequisite.verdict is not None:",
    )
    of(
        scheduler,
        "timeouts",
        "TimeoutTests.test_a_worker_that_does_not_enforce_it_loses_the_task",
        "an overrun lease is kept",
        "core/attempt_handling.py",
        "        self.void(live, reason)\n\n    def _void_one",
        "\n    def _void_one",
    )
    of(
        scheduler,
        "cancellation",
        "CancellationTests.test_nothing_is_handed_out_after_it",
        "queued tasks of a cancelled run stay queued",
        "core/run_handling.py",
        "if task.state in (TaskState.PENDING, TaskState.QUEUED)]",
        "if task.state is TaskState.PENDING]",
    )

    of(
        scheduler,
        "richer requirements",
        "RicherRequirementTests.test_one_of_several_alternatives_is_enough",
        "all alternatives must hold",
        "core/matching.py",
        "return any(constraint_holds(constraint, capabilities) for constraint in condition.alternatives)",
        "return all(constraint_holds(constraint, capabilities) for constraint in condition.alternatives)",
    )
    of(
        scheduler,
        "ageing",
        "AgeingTests.test_work_of_low_priority_gets_its_turn_although_urgent_work_never_ends",
        "nothing ages",
        "core/ageing.py",
        "and now - level.served_at >= self._ageing_s",
        "and now - level.served_at >= 1e9",
    )

    of(
        scheduler,
        "several machines",
        "PrioritySchedulingTests.test_the_priority_of_a_test_counts_against_one_for_several_machines",
        "a test's own priority counts for nothing against gangs",
        "core/gangs.py",
        "(other, scheduling.top_priority(other))",
        "(other, other.run.priority)",
    )
    of(
        scheduler,
        "missing workers",
        "MissingWorkerTests.test_a_worker_that_cannot_execute_a_suite_counts_for_the_other_suites_only",
        "who cannot execute a suite counts for it all the same",
        "core/missing_workers.py",
        "count += workers - suite.unable.get(capability_kind, 0)",
        "count += workers",
    )

    # Health monitor
    health = "test_health_monitor.py"
    of(
        health,
        "heartbeat timeout",
        "HeartbeatTimeoutTests.test_suspect_then_lost_at_exactly_the_stated_times",
        "lost after seven intervals",
        "health_monitor/heartbeats.py",
        "LOST_INTERVALS = 6.0",
        "LOST_INTERVALS = 7.0",
    )
    of(
        health,
        "recovery",
        "RecoveryTests.test_one_that_beats_again_returns_to_healthy",
        "once suspect, always suspect",
        "core/worker_handling.py",
        "worker.is_silent = change.health is Health.SUSPECT",
        "worker.is_silent = True",
    )
    of(
        health,
        "alerts",
        "AlertTests.test_silence_raises_one_alert_with_worker_kind_and_time",
        "no alert for silence",
        "core/worker_handling.py",
        "        if worker.is_silent:\n            self._standing.alert(",
        "        if False:\n            self._standing.alert(",
    )

    of(
        health,
        "trust",
        "TrustTests.test_a_failure_on_probation_is_quarantine_for_twice_as_long",
        "failures on probation are forgiven",
        "health_monitor/trust.py",
        'self._open(record, f"failed again on probation: {reason}", now)',
        "pass",
    )

    of(
        health,
        "memory",
        "TrustTests.test_a_quarantine_outlives_the_coordinator",
        "quarantines end with the coordinator",
        "core/remembering.py",
        "tuple(cluster.health.records()),",
        "(),",
    )

    # Load balancer
    balancer = "test_load_balancer.py"
    of(
        balancer,
        "worker scoring",
        "WorkerScoringTests.test_only_w2_has_a_score_for_cuda",
        "a score for those that cannot run it",
        "load_balancer.py",
        "if not worker.slots or not placement.is_eligible(task.task_class, worker):",
        "if not worker.slots:",
    )
    of(
        balancer,
        "task assignment",
        "TaskAssignmentTests.test_the_scarce_worker_is_kept_while_others_can_serve",
        "special workers are asked like others",
        "core/placement.py",
        "        return cached[1]\n\n    # Readiness",
        "        return 0\n\n    # Readiness",
    )
    of(
        balancer,
        "load balancing",
        "LoadBalancingTests.test_a_mixed_queue_ends_on_fitting_workers_with_even_load",
        "a worker takes plain work before what only it can do",
        "task_scheduler.py",
        "queue.level.priority, placement.is_scarce(queue.level.line.task_class)",
        "queue.level.priority, False",
    )
    of(
        balancer,
        "workload detection",
        "WorkloadDetectionTests.test_loads_two_one_zero",
        "nobody is ever overloaded",
        "balancing/loads.py",
        "IMBALANCE = 1.25",
        "IMBALANCE = 125.0",
    )
    of(
        balancer,
        "task migration",
        "TaskMigrationTests.test_it_never_moves_to_a_worker_that_cannot_run_it",
        "work moves to whoever is idle",
        "balancing/migration.py",
        "(live, seconds) for live, seconds in donor.waiting if placement.is_eligible(live.task.task_class, receiver)",
        "(live, seconds) for live, seconds in donor.waiting",
    )
    of(
        balancer,
        "hedging",
        "HedgingTests.test_what_forbids_it_is_never_hedged",
        "what forbids it is hedged",
        "core/hedging.py",
        "        task.spec.hedge\n",
        "        True\n",
    )
    of(
        balancer,
        "early hedges",
        "HedgingTests.test_a_test_that_alone_decides_the_end_is_hedged_before_any_slot_is_idle",
        "nothing is hedged before a slot is idle",
        "balancing/hedging.py",
        "EARLY_GAIN_SHARE = 0.05",
        "EARLY_GAIN_SHARE = 1e9",
    )
    of(
        balancer,
        "priority inversions",
        "PriorityInversionTests.test_an_urgent_test_does_not_wait_behind_a_long_one",
        "urgent work waits wherever it is",
        "balancing/inversions.py",
        "WAIT_FACTOR = 2.0",
        "WAIT_FACTOR = 1e9",
    )
    of(
        balancer,
        "giving way",
        "PriorityInversionTests.test_a_long_test_that_has_not_begun_gives_way",
        "what has not begun never gives way",
        "balancing/inversions.py",
        "return found if _sum(found) >= wanted_s else []",
        "return []",
    )
    of(
        balancer,
        "performance",
        "PerformanceBasedTests.test_faster_and_more_reliable_scores_higher_and_failing_lowest",
        "failures are forgotten",
        "load_balancer.py",
        "RELIABILITY_AFTER_FAILURE = 0.5",
        "RELIABILITY_AFTER_FAILURE = 1.0",
    )

    # Integration
    whole = "test_integration.py"
    of(
        whole,
        "initialization",
        "InitializationTests.test_the_database_file_is_where_it_was_asked_to_be",
        "the database file is somewhere else",
        "storage/history.py",
        "self._path = path = path.absolute()",
        'self._path = path = path.absolute().with_suffix(".elsewhere")',
    )
    of(
        whole,
        "worker registration",
        "WorkerRegistrationTests.test_a_worker_tells_what_its_machine_has",
        "labels are not told",
        "hardware/detection.py",
        "attributes.update({name.lower(): values for name, values in (labels or {}).items()})",
        "pass",
    )
    of(
        whole,
        "task distribution",
        "TaskDistributionTests.test_with_one_free_slot_the_higher_priority_starts_first",
        "priorities count for nothing",
        "core/run_handling.py",
        "requirements, priority + run.priority, group",
        "requirements, 0, group",
    )
    of(
        whole,
        "hardware requirements",
        "HardwareRequirementTests.test_a_cpu_task_runs_and_a_gpu_task_waits_says_why_and_runs_when_a_gpu_joins",
        "what nobody has is there",
        "core/matching.py",
        "return all(capabilities.resources.get(name, 0.0) >= amount for name, amount in requirements.resources) and all(",
        "return all(",
    )
    of(
        whole,
        "execution",
        "TaskExecutionTests.test_a_failing_command_is_failed",
        "a failing command is a success",
        "processes/command_process.py",
        "if exit_status == spec.expected_exit_status:",
        "if exit_status >= spec.expected_exit_status:",
    )
    of(
        whole,
        "worker health",
        "WorkerHealthTests.test_heartbeats_keep_workers_healthy_and_the_last_one_is_recent",
        "workers do not beat",
        "worker.py",
        "if not self.settings.heartbeat or self.settings.is_embedded:",
        "if self.settings.heartbeat:",
    )
    of(
        whole,
        "dashboard",
        "DashboardTests.test_counts_agree_with_the_coordinator",
        "busy slots are not counted",
        "api/handlers/server.py",
        "        used += busy",
        "        used += 0",
    )
    of(
        whole,
        "fault tolerance",
        "FaultToleranceTests.test_the_commands_of_a_killed_worker_die_with_it",
        "orphans are left alone",
        "processes/orphan_watch.py",
        "        os.killpg(group, signal.SIGKILL)",
        "        pass",
    )
    of(
        whole,
        "concurrency",
        "ConcurrencyTests.test_as_many_run_at_once_as_there_are_slots",
        "a worker offers one slot only",
        "worker.py",
        "            slots=settings.slots,\n            capabilities",
        "            slots=1,\n            capabilities",
    )

    # Benchmark
    benchmark, name = "test_benchmark.py", "DistributedFrameworkBenchmark.test_0"
    of(
        benchmark,
        "database",
        f"{name}0_benchmark_database_operations",
        "some attempts are not recorded",
        "storage/history.py",
        "        self._queue.extend(records)\n",
        "        self._queue.extend(records[: len(self._queue) % 7])\n",
    )
    of(
        benchmark,
        "worker registration",
        f"{name}1_benchmark_worker_registration",
        "a worker replaces whoever came before",
        "core/cluster.py",
        "        self.workers[worker.worker_id] = worker\n",
        "        self.workers = {worker.worker_id: worker}\n",
    )
    of(
        benchmark,
        "task creation",
        f"{name}2_benchmark_task_creation",
        "tasks beyond five hundred are dropped",
        "core/run_handling.py",
        "            if spec.task_id in run.tasks:",
        "            if spec.task_id in run.tasks or len(run.tasks) >= 500:",
    )
    of(
        benchmark,
        "task assignment",
        f"{name}3_benchmark_task_assignment",
        "special work is never chosen",
        "core/matching.py",
        "        holds(condition, capabilities) for condition in requirements.constraints\n    )\n\n\ndef preference",
        "        False for condition in requirements.constraints\n    )\n\n\ndef preference",
    )
    of(
        benchmark,
        "load balancing",
        f"{name}4_benchmark_load_balancing",
        "nothing ever moves",
        "balancing/migration.py",
        "WORTH_MOVING_S = 0.05",
        "WORTH_MOVING_S = 1e9",
    )
    of(
        benchmark,
        "health monitoring",
        f"{name}5_benchmark_health_monitoring",
        "nobody is ever lost",
        "health_monitor/heartbeats.py",
        "LOST_INTERVALS = 6.0",
        "LOST_INTERVALS = 1e9",
    )
    of(
        benchmark,
        "concurrent operation",
        f"{name}6_benchmark_concurrent_operations",
        "a result in ten is not recorded",
        "storage/history.py",
        "        self._queue.extend(records)\n",
        "        self._queue.extend(records[: len(self._queue) % 7])\n",
    )
    return tuple(found)


MUTATIONS = _mutations()
