"""Fixtures of module and class scope, set up once although many runners are at work."""

from __future__ import annotations

from pathlib import Path

import pytest
from orders import SoldOut, Stock


@pytest.fixture(scope="class")
def shop(stock: Stock) -> Stock:
    stock.add("lamp", 3)
    return stock


class TestOneShop:
    def test_starts_with_three_lamps(self, shop: Stock) -> None:
        assert shop.pieces("lamp") == 3

    def test_sells_no_more_than_there_is(self, shop: Stock) -> None:
        with pytest.raises(SoldOut):
            shop.sell("lamp", 4)

    def test_knows_no_desks(self, shop: Stock) -> None:
        assert shop.pieces("desk") == 0


def test_catalogue_names_are_lower_case(catalogue: dict[str, str]) -> None:
    assert all(name == name.lower() for name in catalogue)


def test_receipt_is_written(catalogue: dict[str, str], receipt: Path) -> None:
    receipt.write_text("\n".join(f"{name} {price}" for name, price in catalogue.items()))
    assert receipt.read_text().count("\n") == len(catalogue) - 1
