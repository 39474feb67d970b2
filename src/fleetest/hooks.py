"""The coordinator's hooks (pluggy, project ``fleetest``): which policies a fleet is run by."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import pluggy

from fleetest.core.model import Limits
from fleetest.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

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
    def fleetest_make_scheduler(self, limits: Limits, name: str | None) -> SchedulingPolicy | None:
        """The policy that decides which task a slot gets next: of this name, or the default if it is None."""

    @hookspec(firstresult=True)
    def fleetest_make_balancer(self, limits: Limits, name: str | None) -> BalancingPolicy | None:
        """The policy that knows the speed of workers, moves waiting work and hedges.

        ``name`` is what the user asked for, None if nothing; our own names are never asked for here.
        """

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


def make_cluster_state(
    manager: pluggy.PluginManager,
    limits: Limits,
    epoch: int,
    *,
    balancing: str | None = None,
    scheduler: str | None = None,
) -> ClusterState:
    """The state of a new coordinator, with the plugins' policies where they offer any and ours elsewhere.

    ``balancing`` and ``scheduler`` name policies, see ``make_balancer`` and ``make_scheduler``. Raises UserError for a
    name that nobody knows.
    """
    from fleetest.core.cluster_state import ClusterState
    from fleetest.health_monitor import HealthMonitor

    hook = manager.hook
    return ClusterState(
        make_scheduler(manager, limits, scheduler),
        make_balancer(manager, limits, balancing),
        hook.fleetest_make_health_monitor(limits=limits) or HealthMonitor(),
        limits=limits,
        epoch=epoch,
    )


def make_scheduler(manager: pluggy.PluginManager, limits: Limits, name: str | None) -> SchedulingPolicy:
    """The scheduling policy of this name: a plugin's, or ``module:Class``; None: a plugin's choice, else ours.

    Raises UserError if there is none.
    """
    from fleetest.core.policies import SchedulingPolicy
    from fleetest.task_scheduler import TaskScheduler

    if name is not None and ":" in name:
        policy: SchedulingPolicy = _instance("scheduler", name, SchedulingPolicy)
        return policy
    found: SchedulingPolicy | None = manager.hook.fleetest_make_scheduler(limits=limits, name=name)
    if found is None and name is not None:
        raise UserError(f"unknown scheduler {name!r}: give a name that a plugin knows, or module:Class")
    return found or TaskScheduler()


def make_balancer(manager: pluggy.PluginManager, limits: Limits, name: str | None) -> BalancingPolicy:
    """The balancing policy of this name: ours, a plugin's, or ``module:Class``; None: a plugin's choice, else adaptive.

    Raises UserError if there is none.
    """
    from fleetest.balancing.simple import LeastLoaded, RoundRobin
    from fleetest.core.policies import BalancingPolicy
    from fleetest.load_balancer import LoadBalancer

    ours: dict[str, Callable[[], BalancingPolicy]] = {
        "adaptive": LoadBalancer,
        "round-robin": RoundRobin,
        "least-loaded": LeastLoaded,
    }
    if name in ours:
        return ours[name]()
    if name is not None and ":" in name:
        policy: BalancingPolicy = _instance("balancing", name, BalancingPolicy)
        return policy
    found: BalancingPolicy | None = manager.hook.fleetest_make_balancer(limits=limits, name=name)
    if found is None and name is not None:
        known = ", ".join(ours)
        raise UserError(f"unknown balancing {name!r}: give {known}, a name that a plugin knows, or module:Class")
    return found or LoadBalancer()


def _instance(kind: str, name: str, protocol: type) -> Any:
    """An object of a user's class."""
    module, _, attribute = name.partition(":")
    try:
        policy = getattr(importlib.import_module(module), attribute)()
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        if isinstance(error, ModuleNotFoundError):
            reason += "; its folder must be in PYTHONPATH"
        raise UserError(f"{kind} {name!r} cannot be loaded as module:Class ({reason})") from error
    missing = [method for method in vars(protocol) if method[0] != "_" and not hasattr(policy, method)]
    if missing:
        what = protocol.__name__.removesuffix("Policy").lower()
        raise UserError(f"{kind} {name!r} is no {what} policy: it has no {', '.join(missing)}")
    return policy
