"""Messages that are events, and commands that are messages: where the one is the other in different clothes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fleetest.core import commands, events
from fleetest.core.model import WorkerId
from fleetest.wire import messages as wire
from fleetest.wire.checks import check_results

DETAIL_CHARACTERS_MAX = 500


def _attempts_finished(worker_id: WorkerId, message: wire.AttemptsFinished) -> events.Event:
    check_results(message.results)
    return events.AttemptsFinished(worker_id, message.results)


EVENT_OF: Mapping[type, Callable[[WorkerId, Any], events.Event]] = {
    wire.AttemptsFinished: _attempts_finished,
    wire.AttemptsStarted: lambda worker_id, m: events.AttemptsStarted(worker_id, [lease for lease, _ in m.leases]),
    wire.LeasesReturned: lambda worker_id, m: events.LeasesReturned(worker_id, m.lease_ids, m.not_collectable),
    wire.InfrastructureFailed: lambda worker_id, m: events.InfrastructureFailed(
        worker_id, m.lease_ids, m.reason, m.has_started
    ),
    wire.Heartbeat: lambda worker_id, _: events.WorkerHeartbeat(worker_id),
    wire.Probed: lambda worker_id, m: events.WorkerProbed(worker_id, m.is_ok, m.detail[:DETAIL_CHARACTERS_MAX]),
    wire.Draining: lambda worker_id, _: events.WorkerDraining(worker_id),
}
"""By type of message: the event that it is, coming from that worker."""

MESSAGE_OF: Mapping[type, Callable[[Any], wire.CoordinatorMessage]] = {
    commands.GrantLeases: lambda c: wire.GrantLeases(slot=c.slot, leases=tuple(c.leases)),
    commands.SlotIdle: lambda c: wire.SlotIdle(slot=c.slot),
    commands.RevokeLeases: lambda c: wire.RevokeLeases(lease_ids=tuple(c.lease_ids)),
    commands.KillLeases: lambda c: wire.KillLeases(lease_ids=tuple(c.lease_ids), reason=c.reason),
    commands.SetHeartbeat: lambda c: wire.SetHeartbeat(interval_s=c.interval_s),
    commands.EndRun: lambda c: wire.EndRun(run_id=c.run_id),
}
"""By type of command: the message to its ``worker_id``."""
