"""The coordinator's epoch: a number that grows with every start, so that leases of an earlier one mean nothing."""

from __future__ import annotations

import os
import time
from pathlib import Path

from fleetest.errors import UserError

EPOCH_NAME = "epoch"
_START_OF_2020 = 1_577_836_800
_EPOCH_MAX = 2**31 - 1
"""Lease ids carry the epoch in their upper half and must fit 63 bits."""


def next_epoch(data_directory: Path) -> int:
    """Greater than every epoch handed out from this directory before; stored there.

    Also not smaller than the seconds since 2020, so that a directory that was deleted does not begin anew.
    Raises UserError if the directory cannot be written.
    """
    path = data_directory / EPOCH_NAME
    try:
        last = int(path.read_text("ascii"))
    except (FileNotFoundError, ValueError):
        last = 0
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    epoch = min(max(last + 1, int(time.time()) - _START_OF_2020), _EPOCH_MAX)
    draft = path.with_name(f".{EPOCH_NAME}-{os.getpid()}")
    try:
        draft.write_text(f"{epoch}\n", "ascii")
        draft.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    return epoch
