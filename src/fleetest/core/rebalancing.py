"""Moves waiting work to idle slots: asks the balancing policy, asks leases back."""

from __future__ import annotations

from fleetest.core.cluster import Cluster
from fleetest.core.commands import RevokeLeases
from fleetest.core.dispatch import Dispatch
from fleetest.core.policies import Hedge

LOOK_S = 0.2
LOOK_MAX_S = 1.6
LOOK_AGAIN_S = 0.02
"""Not sooner, however many slots become idle: one look costs a pass over the busy slots."""


class Rebalancing:
    """Looks when a slot has just become idle, and again from time to time while others have work waiting."""

    def __init__(self, cluster: Cluster, dispatch: Dispatch) -> None:
        self._cluster, self._dispatch = cluster, dispatch
        self._interval_s = LOOK_S
        self._looked_at = -LOOK_AGAIN_S

    def after_event(self) -> None:
        cluster = self._cluster
        if len(cluster.leases) <= len(cluster.busy) or not self._dispatch.has_empty_slots:
            cluster.deadlines.cancel(("balance",))
            return
        if self._dispatch.left_empty:
            self._interval_s = LOOK_S
            if cluster.now >= self._looked_at + LOOK_AGAIN_S:
                self.look()
            else:
                cluster.deadlines.set(("balance",), self._looked_at + LOOK_AGAIN_S)
        elif ("balance",) not in cluster.deadlines:
            cluster.deadlines.set(("balance",), cluster.now + self._interval_s)

    def look(self) -> None:
        cluster = self._cluster
        self._looked_at = cluster.now
        idle = self._dispatch.empty_slots()
        moves = cluster.balancing.propose(idle, cluster.busy, cluster.now) if idle else ()
        for move in moves:
            if isinstance(move, Hedge):
                continue
            donor = move.donor
            leases = [
                live
                for live in move.leases
                if live.lease_id in donor.leases
                and not live.is_started
                and not live.is_revoked
                and live.task.moves < cluster.limits.moves_max
            ]
            if not leases or not donor.worker.is_linked:
                continue
            for live in leases:
                live.is_revoked = True
                live.task.moves += 1
            donor.is_shunned = donor.is_shunned or move.donor_is_stuck
            cluster.outbox.add(RevokeLeases(donor.worker.worker_id, [live.lease_id for live in leases]))
        self._interval_s = LOOK_S if moves else min(LOOK_MAX_S, 2 * self._interval_s)
        cluster.deadlines.set(("balance",), cluster.now + self._interval_s)
