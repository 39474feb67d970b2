"""The coordinator's hooks (pluggy, project ``fleetest``): which policies a fleet is run by."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

from fleetest.core.model import Limits
from fleetest.errors import UserError

if TYPE_CHECKING:
    from fleetest.core.cluster_state import ClusterState
    from fleetest.core.policies import BalancingPolicy, HealthPolicy, SchedulingPolicy

PROJECT = "fleetest"
ENTRY_POINTS = "fleetest"
"""Group of entry points whose modules or objects may hold hook implementations."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class PolicyHooks:
    """Each is asked once, when a coordinator starts; the first answer that is not None is taken."""

    @hookspec(firstresult=True)
    def fleetest_make_scheduler(self, limits: Limits) -> SchedulingPolicy | None:
        """The policy that decides which task a slot gets next."""

    @hookspec(firstresult=True)
    def fleetest_make_balancer(self, limits: Limits) -> BalancingPolicy | None:
        """The policy that moves waiting work between slots."""

    @hookspec(firstresult=True)
    def fleetest_make_health_monitor(self, limits: Limits) -> HealthPolicy | None:
        """The policy that judges workers by their signs of life."""


def plugin_manager(*, load_entry_points: bool = True) -> pluggy.PluginManager:
    """A manager that knows the hooks and, with ``load_entry_points``, the installed plugins.

    Raises UserError if one of them cannot be imported.
    """
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(PolicyHooks)
    if load_entry_points:
        try:
            manager.load_setuptools_entrypoints(ENTRY_POINTS)
        except Exception as error:
            message = f"a plugin of the entry point group {ENTRY_POINTS!r} cannot be loaded: {error}; remove or mend it"
            raise UserError(message) from error
    return manager


def make_cluster_state(manager: pluggy.PluginManager, limits: Limits, epoch: int) -> ClusterState:
    """The state of a new coordinator, with the plugins' policies where they offer any and ours elsewhere."""
    from fleetest.core.cluster_state import ClusterState
    from fleetest.health_monitor import HealthMonitor
    from fleetest.load_balancer import LoadBalancer
    from fleetest.task_scheduler import TaskScheduler

    hook = manager.hook
    return ClusterState(
        hook.fleetest_make_scheduler(limits=limits) or TaskScheduler(),
        hook.fleetest_make_balancer(limits=limits) or LoadBalancer(),
        hook.fleetest_make_health_monitor(limits=limits) or HealthMonitor(),
        limits=limits,
        epoch=epoch,
    )
