"""Every balancing policy that comes with Fleetest does what a policy must do."""

from fleetest.balancing.simple import LeastLoaded, RoundRobin
from fleetest.load_balancer import LoadBalancer
from fleetest.testing.balancer_conformance import BalancerConformance


class TestAdaptive(BalancerConformance):
    def make(self):
        return LoadBalancer()


class TestRoundRobin(BalancerConformance):
    def make(self):
        return RoundRobin()


class TestLeastLoaded(BalancerConformance):
    def make(self):
        return LeastLoaded()
