"""Which running tests may be executed a second time on another worker, while the first attempt goes on."""

from __future__ import annotations

from fleetest.core.entities import LiveLease, Task


def may_be_hedged(task: Task) -> bool:
    """False for what must not be executed twice at the same time, or not apart from its group."""
    requirements = task.requirements
    return (
        task.spec.hedge
        and requirements.workers == 1
        and not (requirements.locks or requirements.alone or task.group.keep_together)
    )


def may_hedge(live: LiveLease) -> bool:
    """True if a second attempt may join this one now: it runs or is next, or was asked back and nothing came of that.

    A task that was lost already is not tried on two workers at once: it may be what kills them.
    """
    task = live.task
    return (
        may_be_hedged(task)
        and task.lease is live
        and not task.extra_leases
        and (live.is_started or live.is_revoked or live.slot.head() is live)
        and not live.kill_reason
        and not task.is_suspect
        and task.run.cancellation is None
    )
