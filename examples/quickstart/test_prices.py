"""Parametrised tests, a skip and an expected failure."""

from __future__ import annotations

import sys
from decimal import Decimal

import pytest
from orders import VAT_PERCENT, gross


@pytest.mark.parametrize("country", sorted(VAT_PERCENT))
@pytest.mark.parametrize("net", ["0.00", "1.00", "19.99", "100.00", "12345.67"])
def test_gross_is_never_below_net(net: str, country: str) -> None:
    assert gross(net, country) >= Decimal(net)


@pytest.mark.parametrize(("country", "expected"), [("de", "119.00"), ("fr", "120.00"), ("hu", "127.00")])
def test_gross_of_a_hundred(country: str, expected: str) -> None:
    assert gross("100", country) == Decimal(expected)


def test_unknown_country() -> None:
    with pytest.raises(KeyError):
        gross("1.00", "atlantis")


@pytest.mark.xfail(reason="rounds half to even, the tax office wants half up", strict=True)
def test_half_a_cent_is_rounded_up() -> None:
    assert gross("0.0375", "fr") == Decimal("0.05")


@pytest.mark.skipif(sys.platform != "win32", reason="prints through the Windows spooler")
def test_price_labels_are_printed() -> None:
    raise AssertionError("only Windows gets here")
