"""The public test kit: simulated fleets with faults by seed, a scripted cluster, and what every link must do."""

from fleetest.simulation.simulated_cluster import Policies, RecordedRun, SimulatedCluster
from fleetest.simulation.simulated_worker import Behaviour, Execution, SimulatedWorker
from fleetest.simulation.virtual_clock import VirtualClock

__all__ = [
    "Behaviour",
    "Execution",
    "Policies",
    "RecordedRun",
    "SimulatedCluster",
    "SimulatedWorker",
    "VirtualClock",
]
