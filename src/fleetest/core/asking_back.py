"""Leases that are asked back from their workers, which give back what has not begun."""

from __future__ import annotations

from collections.abc import Sequence

from fleetest.core.cluster import Cluster
from fleetest.core.commands import RevokeLeases
from fleetest.core.entities import LiveLease, Slot, Worker


def ask_back(cluster: Cluster, worker: Worker, leases: Sequence[LiveLease]) -> None:
    """Of one worker, which has a link."""
    for live in leases:
        live.is_revoked = True
        cluster.asked_back[live] = cluster.now
    cluster.outbox.add(RevokeLeases(worker.worker_id, [live.lease_id for live in leases]))


def part_suspect(cluster: Cluster, slot: Slot) -> None:
    """Ask back a suspect that waits in this slot, and whatever is behind one: it gets a slot to itself.

    That is where it would be if it had been a suspect when it was granted.
    """
    worker, leases = slot.worker, list(slot.leases.values())
    places = [place for place, live in enumerate(leases) if live.task.is_suspect]
    if not places or not worker.is_linked:
        return
    waiting = leases[max(1, places[0]) :]
    asked = [live for live in waiting if not (live.is_started or live.is_revoked or live.kill_reason)]
    if asked:
        ask_back(cluster, worker, asked)
    if waiting:
        slot.closed_by = leases[places[-1]]
