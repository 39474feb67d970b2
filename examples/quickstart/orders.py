"""A very small shop: something for the example tests to test."""

from __future__ import annotations

import sqlite3
from decimal import Decimal
from pathlib import Path

VAT_PERCENT = {"de": 19, "fr": 20, "hu": 27, "ch": 8}


class SoldOut(Exception):
    """There are fewer pieces than asked for."""


def gross(net: str, country: str) -> Decimal:
    """Price with tax, two digits."""
    factor = 1 + Decimal(VAT_PERCENT[country]) / 100
    return (Decimal(net) * factor).quantize(Decimal("0.01"))


class Stock:
    """Pieces in store, kept in an SQLite file."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path)
        self._database.execute("create table if not exists stock (name text primary key, pieces integer)")

    def add(self, name: str, pieces: int) -> None:
        self._database.execute(
            "insert into stock values (?, ?) on conflict (name) do update set pieces = pieces + excluded.pieces",
            (name, pieces),
        )
        self._database.commit()

    def pieces(self, name: str) -> int:
        row = self._database.execute("select pieces from stock where name = ?", (name,)).fetchone()
        return 0 if row is None else int(row[0])

    def sell(self, name: str, pieces: int) -> None:
        if self.pieces(name) < pieces:
            raise SoldOut(name)
        self.add(name, -pieces)

    def close(self) -> None:
        self._database.close()
