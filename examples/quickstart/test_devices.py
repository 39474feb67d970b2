"""Tests that need something of the machine they run on: the fleet finds one, and books what they use."""

from __future__ import annotations

import os
import time

import pytest

pytestmark = pytest.mark.fleet(timeout=30)


@pytest.mark.fleet(requires="os!=plan9", memory="16MiB")
def test_runs_where_there_is_memory() -> None:
    assert len(bytes(1024 * 1024)) == 1024 * 1024


@pytest.mark.fleet(lock="label-printer")
@pytest.mark.parametrize("label", ["lamp", "desk", "chair"])
def test_only_one_at_a_time_prints(label: str) -> None:
    assert label.isalpha()


@pytest.mark.parametrize("scanner", range(8))
def test_slow_scanner_answers(scanner: int) -> None:
    """Eight times a quarter of a second of waiting: one after the other that takes two seconds."""
    time.sleep(0.25)
    assert os.getpid() > 0
