"""Alerts: list, acknowledge."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

import msgspec

from fleetest.api import answers
from fleetest.api.answers import utc
from fleetest.api.context import Context
from fleetest.api.paging import Cursor, Limit, make_cursor, one_of, read_cursor
from fleetest.api.route import Call, Route
from fleetest.core import events
from fleetest.core.alerts import Alert
from fleetest.core.model import AlertId, Instant
from fleetest.transport.identity import Role
from fleetest.transport.problems import Problem

STATES = ("open", "acknowledged", "cleared")


class AlertsQuery(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    state: Annotated[str, msgspec.Meta(max_length=200, description=f"Of {', '.join(STATES)}; several with commas.")] = (
        ""
    )
    worker: Annotated[str, msgspec.Meta(max_length=200)] = ""
    limit: Limit = 100
    cursor: Cursor = ""


class AlertRoutes:
    def __init__(self, context: Context) -> None:
        self._context = context

    def routes(self) -> Sequence[Route]:
        return [
            Route("GET", "/api/v1/alerts", Role.VIEW, "Alerts, those that last first.", self.browse,
                  answers.Page[answers.Alert], query=AlertsQuery, shared_s=0.0, tag="alerts"),
            Route("POST", "/api/v1/alerts/{alert}/acknowledge", Role.ADMIN, "Say that you have taken note.",
                  self.acknowledge, answers.Alert, is_repeatable=True, tag="alerts", problems=(404, 422, 503)),
        ]  # fmt: skip

    async def browse(self, call: Call) -> answers.Page[answers.Alert]:
        query: AlertsQuery = call.query
        states = one_of(query.state, STATES, "state")
        after: tuple[int] | None = read_cursor(query.cursor, tuple[int])
        start = max(0, after[0]) if after is not None else 0
        found = [
            alert
            for alert in all_alerts(self._context)
            if (not states or alert.state in states) and (not query.worker or alert.worker_id == query.worker)
        ]
        following = start + query.limit
        cursor = make_cursor(following) if following < len(found) else None
        return answers.Page(items=found[start:following], next_cursor=cursor, total=len(found))

    async def acknowledge(self, call: Call) -> answers.Alert:
        alert_id = AlertId(call.path["alert"])
        known = {alert.alert_id: alert for alert in all_alerts(self._context)}
        if alert_id not in known:
            raise Problem(404, "unknown_alert", f"there is no alert {alert_id[:50]!r}: /api/v1/alerts lists them")
        self._context.fleet.apply(events.AlertAcknowledged(alert_id, call.identity.name))
        await self._context.keep()
        return next(alert for alert in all_alerts(self._context) if alert.alert_id == alert_id)


def all_alerts(context: Context) -> list[answers.Alert]:
    """Newest first: those that last, then those that are over."""
    known = [alert_answer(alert, context) for alert in reversed(context.fleet.state.cluster.alerts.all())]
    return [alert for alert in known if alert.cleared_at is None] + [alert for alert in known if alert.cleared_at]


def alert_counts(context: Context) -> answers.AlertCounts:
    states = [_state(alert) for alert in context.fleet.state.cluster.alerts.all()]
    return answers.AlertCounts(open=states.count("open"), acknowledged=states.count("acknowledged"))


def _state(alert: Alert) -> str:
    return "cleared" if alert.cleared_at is not None else "acknowledged" if alert.acknowledged_by else "open"


def alert_answer(alert: Alert, context: Context) -> answers.Alert:
    def at(instant: Instant | None) -> datetime | None:
        return utc(context.index.to_wall(instant)) if instant is not None else None

    raised_at = at(alert.raised_at)
    assert raised_at is not None
    return answers.Alert(
        alert_id=alert.alert_id,
        worker_id=alert.worker_id,
        cause=alert.cause,
        message=alert.message,
        state=_state(alert),
        raised_at=raised_at,
        acknowledged_by=alert.acknowledged_by,
        acknowledged_at=at(alert.acknowledged_at),
        cleared_at=at(alert.cleared_at),
    )
