"""What one assignment costs in the core, by number of workers: the real state and policies, without sockets.

``python benchmarks/core_throughput.py`` prints the growth curve; ``--engines`` puts the schedulers of Dask and Ray on
no-op tasks beside it (installed into ``benchmarks/.venv-engines`` at the first call); ``--quick`` takes small sizes.
Each row is measured in a process of its own. See README.md for what the columns are.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

from fleetest.cli.garbage import spare_what_lives_long
from fleetest.core import cluster_state, commands, events
from fleetest.core.cluster_state import ClusterState
from fleetest.core.model import (
    NO_REQUIREMENTS,
    AttemptResult,
    Capabilities,
    Constraint,
    LeaseId,
    Limits,
    Operator,
    Requirements,
    RunId,
    TaskId,
    TaskSpec,
    Verdict,
    WorkerId,
)
from fleetest.health_monitor import HealthMonitor
from fleetest.load_balancer import LoadBalancer
from fleetest.task_scheduler import TaskScheduler

WORKERS = (10, 100, 1_000, 10_000)
TASKS = 1_000_000
MEASURED = 100_000
SLOTS = 4
TESTS_PER_GROUP = 50
RUN = RunId("r")
HERE = Path(__file__).parent
IS_COMPILED = not (cluster_state.__file__ or "").endswith(".py")
"""See docs/how-to/compile-the-core.md."""
ENGINES = HERE / ".venv-engines"
ENGINE_PACKAGES = ("dask[distributed]", "ray")
"""Their latest versions; what was measured is printed with the result."""


def capability_classes() -> list[Capabilities]:
    """A hundred kinds of machine."""
    return [
        Capabilities(
            {"os": ("linux",), "zone": (f"z{number % 10}",), "cuda": (f"{10 + number % 5}.{number % 4}",)},
            {"cpus": float(4 + number % 10), "gpus": float(number % 3)},
        )
        for number in range(100)
    ]


def requirement_kinds() -> list[Requirements]:
    """Twenty kinds: plain, labels, versions, and reserved resources."""
    zones = [Requirements(constraints=(Constraint("zone", Operator.EQ, f"z{number}"),)) for number in range(10)]
    versions = [Requirements(constraints=(Constraint("cuda", Operator.GE, f"{10 + n}"),)) for n in range(4)]
    cpus = [Requirements(resources=(("cpus", float(1 + number)),)) for number in range(3)]
    gpus = [Requirements(resources=(("gpus", float(1 + number)),)) for number in range(2)]
    return [NO_REQUIREMENTS, *zones, *versions, *cpus, *gpus]


def make_specs(count: int) -> list[TaskSpec]:
    chance, kinds = random.Random(1), requirement_kinds()
    specs = []
    for number in range(count):
        group = number // TESTS_PER_GROUP
        specs.append(
            TaskSpec(
                TaskId(f"tests/module_{group}.py::test_case_{number}"),
                group=f"tests/module_{group}.py",
                requirements=kinds[group % len(kinds)],
                expected_s=chance.lognormvariate(-2.0, 1.0),
            )
        )
    return specs


class Fleet:
    """Workers that answer at once, in the order in which they were given work."""

    def __init__(self) -> None:
        limits = Limits(heartbeat_interval_s=float("inf"), tasks_per_run=10**9)
        self.state = ClusterState(TaskScheduler(), LoadBalancer(), HealthMonitor(), limits)
        self.now = 0.0
        self.granted: deque[tuple[WorkerId, tuple[LeaseId, ...]]] = deque()
        """The ids only: commands live until they are sent."""
        self.assigning_s = 0.0
        self._time_assigning()

    def _time_assigning(self) -> None:
        run = self.state._assign

        def timed() -> None:
            began = time.process_time()
            run()
            self.assigning_s += time.process_time() - began

        self.state._assign = timed

    def apply(self, event: events.Event) -> int:
        """How many leases were granted."""
        count = 0
        for command in self.state.apply(event, self.now):
            if isinstance(command, commands.GrantLeases):
                count += len(command.leases)
                self.granted.append((command.worker_id, tuple([lease.lease_id for lease in command.leases])))
        return count

    def join(self, workers: int) -> None:
        kinds = capability_classes()
        for number in range(workers):
            worker_id = WorkerId(f"w{number}")
            self.apply(events.WorkerJoined(worker_id, "s", SLOTS, kinds[number % len(kinds)]))
            self.apply(events.SuiteReady(worker_id, RUN, ""))

    def work(self, limit: int) -> int:
        """Results come in, the next leases go out, until so many were granted; how many were."""
        count = 0
        while self.granted and count < limit:
            worker_id, lease_ids = self.granted.popleft()
            self.now += 1e-5
            results = [AttemptResult(lease_id, Verdict.PASSED, duration_s=0.13) for lease_id in lease_ids]
            count += self.apply(events.AttemptsFinished(worker_id, results))
        return count


def memory_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def measure(workers: int, tasks: int, measured: int) -> dict[str, float]:
    """One row."""
    specs = make_specs(tasks)
    # As in the coordinator's own process.
    spare_what_lives_long()
    fleet = Fleet()
    fleet.apply(events.RunSubmitted(RUN))
    began = time.process_time()
    fleet.join(workers)
    joined_s = time.process_time() - began
    before_bytes, began = memory_bytes(), time.process_time()
    fleet.assigning_s = 0.0
    first = fleet.apply(events.SuitePlanned(RUN, "", specs))
    planned_s = time.process_time() - began
    first_s = fleet.assigning_s
    per_task = (memory_bytes() - before_bytes) / tasks
    # One round, so that every slot has answered: what is made once for each worker is there.
    fleet.work(min(max(first, measured // 10), tasks // 4))
    fleet.assigning_s, began = 0.0, time.process_time()
    count = fleet.work(measured)
    cycle_s = time.process_time() - began
    return {
        "compiled": IS_COMPILED,
        "workers": workers,
        "tasks": tasks,
        "join_us": joined_s / workers * 1e6,
        "plan_us": (planned_s - first_s) / tasks * 1e6,
        "first_us": first_s / max(1, first) * 1e6,
        "first_count": first,
        "assign_us": fleet.assigning_s / max(1, count) * 1e6,
        "cycle_us": cycle_s / max(1, count) * 1e6,
        "bytes": per_task,
    }


def print_table(rows: list[dict[str, float]]) -> None:
    print(f"the core is {'compiled' if IS_COMPILED else 'interpreted'}")
    print("| workers | tasks | assignment | per second | full cycle | first grants | join | plan | queued task |")
    print("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['workers']:,} | {row['tasks']:,} | {row['assign_us']:.1f} us | {1e6 / row['assign_us']:,.0f} "
            f"| {row['cycle_us']:.1f} us | {row['first_us']:.1f} us ({row['first_count']:,}) | {row['join_us']:.0f} us "
            f"| {row['plan_us']:.1f} us | {row['bytes']:.0f} B |"
        )
    first, last = rows[0], rows[-1]
    ratio = last["assign_us"] / first["assign_us"]
    cycle = last["cycle_us"] / first["cycle_us"]
    print(f"{last['workers']:,} workers against {first['workers']:,}: assignment x{ratio:.2f}, full cycle x{cycle:.2f}")


def measure_apart(workers: int, tasks: int, measured: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--row", str(workers), str(tasks), str(measured)]
    row: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return row


# Engines -----------------------------------------------------------------------------------------------------------

DASK = """
import sys, time, distributed
from distributed import Client, LocalCluster, wait
if __name__ == "__main__":
    count = int(sys.argv[1])
    cluster = LocalCluster(n_workers=2, threads_per_worker=4, dashboard_address=None, host="127.0.0.1")
    client = Client(cluster)
    wait(client.map(lambda n: None, range(100), pure=False))
    began = time.perf_counter()
    wait(client.map(lambda n: None, range(count), pure=False))
    print("RESULT", distributed.__version__, (time.perf_counter() - began) / count * 1e6)
    client.close(); cluster.close()
"""
RAY = """
import sys, time, ray
ray.init(num_cpus=2, include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False)
@ray.remote
def nothing():
    return None
count = int(sys.argv[1])
ray.get([nothing.remote() for _ in range(100)])
began = time.perf_counter()
ray.get([nothing.remote() for _ in range(count)])
print("RESULT", ray.__version__, (time.perf_counter() - began) / count * 1e6)
ray.shutdown()
"""


def print_engines(count: int) -> None:
    """Dask and Ray from submission to result, on no-op tasks; a line instead where they cannot be had."""
    python = ENGINES / "bin" / "python"
    try:
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", str(ENGINES)], check=True, capture_output=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", *ENGINE_PACKAGES], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"Dask and Ray were not measured: they cannot be installed here ({error})")
        return
    for name, program in (("Dask", DASK), ("Ray", RAY)):
        script = ENGINES / f"{name.lower()}_no_op.py"
        script.write_text(program, encoding="utf-8")
        try:
            done = subprocess.run(
                [str(python), str(script), str(count)], capture_output=True, text=True, timeout=300, check=False
            )
            result = next((line.split() for line in done.stdout.splitlines() if line.startswith("RESULT")), None)
        except subprocess.TimeoutExpired:
            result = None
        if result is None:
            print(f"{name}: did not end with a result")
        else:
            cost_us = float(result[2])
            rate = f"{1e6 / cost_us:,.0f} per second"
            print(f"{name} {result[1]}: {cost_us:.0f} us per no-op task ({rate}), {count:,} tasks")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="100,000 tasks, fewer of them measured")
    parser.add_argument("--engines", action="store_true", help="measure Dask and Ray as well")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the rows there too")
    parser.add_argument("--row", nargs=3, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        print(json.dumps(measure(*options.row)))
        return
    tasks, measured = (100_000, 20_000) if options.quick else (TASKS, MEASURED)
    rows = [measure_apart(workers, tasks, measured) for workers in WORKERS]
    print_table(rows)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    if options.engines:
        print_engines(2_000 if options.quick else 20_000)


if __name__ == "__main__":
    main()
