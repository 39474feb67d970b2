"""What is known of workers beyond the life of one coordinator: told to whoever keeps it, and taken in again."""

from __future__ import annotations

from fleetest.core.alerts import COORDINATOR
from fleetest.core.cluster import Cluster
from fleetest.core.memory import ClusterMemory
from fleetest.core.policies import Finding


def remember(cluster: Cluster) -> ClusterMemory:
    """Equal to the last one unless something changed that must be kept."""
    drained = {worker.session: worker.worker_id for worker in cluster.workers.values() if worker.is_drain_requested}
    return ClusterMemory(
        dict(cluster.held_back),
        drained | cluster.absent_drains,
        cluster.alerts.all(),
        tuple(cluster.health.records()),
    )


def recall(cluster: Cluster, memory: ClusterMemory) -> None:
    """Nobody is told of the alerts again: they were when they were raised."""
    cluster.held_back.update(memory.held_back)
    for session, worker_id in memory.drains.items():
        cluster.keep_drain(session, worker_id)
    for alert in memory.alerts:
        cluster.alerts.recall(alert)
    lasting = [alert for alert in memory.alerts if alert.cleared_at is None]
    findings = [Finding(alert.worker_id, alert.cause, alert.message) for alert in lasting]
    cluster.health.recall(memory.records, findings, cluster.now)
    for worker_id in {alert.worker_id for alert in lasting} - {COORDINATOR}:
        # Whoever does not come back is not waited for without end; who does is judged by what it shows then.
        cluster.deadlines.set(("lost alert", worker_id), cluster.now + cluster.limits.lost_alert_s)
