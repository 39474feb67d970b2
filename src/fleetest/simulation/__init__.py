"""Whole fleets in virtual time: the real core and policies, simulated machines, links and tests."""
