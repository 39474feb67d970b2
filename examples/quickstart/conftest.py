from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from orders import Stock


@pytest.fixture(scope="session")
def catalogue() -> dict[str, str]:
    """Set up once per runner, as pytest would do once per process."""
    return {"lamp": "20.00", "desk": "149.90", "chair": "75.50"}


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stock]:
    """Set up once per module: its tests follow each other on one runner wherever that costs no time."""
    stock = Stock(tmp_path_factory.mktemp("stock") / "stock.sqlite")
    yield stock
    stock.close()


@pytest.fixture
def receipt(tmp_path: Path) -> Path:
    return tmp_path / "receipt.txt"
