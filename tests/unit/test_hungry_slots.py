"""Slots that found nothing: listed by room and capabilities, those of the best workers first."""

import pytest

from fleetest.core.entities import Slot, Worker
from fleetest.core.hungry_slots import HungrySlots, Room
from fleetest.core.model import Capabilities, WorkerId


@pytest.fixture
def orders():
    return {}


@pytest.fixture
def hungry(orders):
    return HungrySlots(lambda worker: orders.get(worker.worker_id, 1.0))


def slot_of(name, kind=0):
    return Slot(Worker(WorkerId(name), "s", 0, Capabilities(), kind), 0)


def names(slots):
    return [slot.worker.worker_id for slot in slots]


def test_the_best_worker_comes_first_then_who_waits_longest(hungry, orders):
    orders.update(slow=2.0, fast=0.5)
    for name in ("slow", "a", "fast", "b"):
        hungry.put(slot_of(name), Room.EMPTY)
    assert names(hungry.best_first(Room.EMPTY, 0)) == ["fast", "a", "b", "slow"]


def test_looking_takes_nothing_away(hungry):
    for name in "abc":
        hungry.put(slot_of(name), Room.EMPTY)
    for slot in hungry.best_first(Room.EMPTY, 0):
        assert slot.worker.worker_id == "a"
        break
    assert names(hungry.best_first(Room.EMPTY, 0)) == ["a", "b", "c"]


def test_rooms_and_kinds_are_apart_and_full_slots_are_not_listed(hungry):
    empty, wanting, special, full = (slot_of(name, name == "special") for name in ("e", "w", "special", "f"))
    hungry.put(empty, Room.EMPTY)
    hungry.put(wanting, Room.WANTING)
    hungry.put(special, Room.EMPTY)
    hungry.put(full, Room.FULL)
    assert sorted(hungry.kinds(Room.EMPTY)) == [0, 1]
    assert hungry.kinds(Room.WANTING) == [0]
    assert set(hungry.empty()) == {empty, special}


def test_a_slot_has_one_room_at_a_time(hungry):
    slot = slot_of("a")
    for room in (Room.EMPTY, Room.WANTING, Room.EMPTY):
        hungry.put(slot, room)
    assert hungry.empty() == [slot]
    assert hungry.kinds(Room.WANTING) == []
    hungry.put(slot, Room.BLOCKED)
    assert not hungry.has_empty
    assert names(hungry.best_first(Room.EMPTY, 0)) == []


def test_what_came_and_went_leaves_nothing_behind(hungry):
    stays = slot_of("stays")
    hungry.put(stays, Room.EMPTY)
    for number in range(1000):
        slot = slot_of(str(number))
        hungry.put(slot, Room.EMPTY)
        hungry.remove(slot)
    assert names(hungry.best_first(Room.EMPTY, 0)) == ["stays"]
    assert len(hungry._empty[0].heap) < 100
