"""A test case with a fleet of its own."""

from __future__ import annotations

import unittest

from support.fleet import LIMITS, Fleet
from support.following import Command, command


class FleetCase(unittest.TestCase):
    """One fleet per test."""

    limits = LIMITS

    def setUp(self) -> None:
        """A coordinator that answers, with an empty database, and no worker yet."""
        self.fleet = Fleet(self.limits)
        self.addCleanup(self.fleet.close)

    def tearDown(self) -> None:
        """Everything ends, and nothing stays behind: no process, no folder."""
        self.fleet.close()
        self.assertEqual(self.fleet.survivors(), [])
        self.assertFalse(self.fleet.directory.exists())

    def meets(self, name: str, **options: object) -> Command:
        """A task that runs until the test lets it go on."""
        return command(name, self.fleet.meeting.argv(name), **options)  # type: ignore[arg-type]
