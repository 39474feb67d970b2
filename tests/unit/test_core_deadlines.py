"""Deadlines: earliest first, one per key, cancellable."""

from fleetest.core.deadlines import Deadlines


def test_they_come_in_order_and_only_when_due():
    deadlines = Deadlines()
    deadlines.set("b", 2.0)
    deadlines.set("a", 1.0)
    assert deadlines.next() == 1.0
    assert deadlines.pop_due(0.5) is None
    assert deadlines.pop_due(5.0) == "a"
    assert deadlines.pop_due(5.0) == "b"
    assert deadlines.pop_due(5.0) is None
    assert deadlines.next() is None


def test_setting_again_moves_and_cancelling_forgets():
    deadlines = Deadlines()
    deadlines.set("a", 1.0)
    deadlines.set("a", 3.0)
    deadlines.set("b", 2.0)
    assert len(deadlines) == 2
    deadlines.cancel("b")
    deadlines.cancel("unknown")
    assert "b" not in deadlines
    assert deadlines.pop_due(2.5) is None
    assert deadlines.next() == 3.0


def test_cancelled_ones_do_not_pile_up():
    deadlines = Deadlines()
    for number in range(10_000):
        deadlines.set(number, float(number))
        deadlines.cancel(number)
    assert len(deadlines) == 0
    assert len(deadlines._heap) < 200
