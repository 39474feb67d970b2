"""How large the loads of the benchmark are: small while pytest runs everything, full when it is called directly."""

from __future__ import annotations

is_full = False
