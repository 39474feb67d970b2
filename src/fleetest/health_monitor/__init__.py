"""The health policy: who is there, who is trusted with work, whose results stand out."""

from fleetest.health_monitor.heartbeats import ADAPTED_MAX, LOST_INTERVALS, SUSPECT_INTERVALS
from fleetest.health_monitor.monitor import HealthMonitor

__all__ = ["ADAPTED_MAX", "LOST_INTERVALS", "SUSPECT_INTERVALS", "HealthMonitor"]
