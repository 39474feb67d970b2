"""Submissions as they came, so that a run can be run again: one private file each, the oldest are removed."""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

import msgspec

from fleetest.wire.messages import SubmitRun

SUBMISSIONS_DIRECTORY = "submissions"
DRAFT_NAME = "submission"
KEPT_MAX = 500
_RUN_ID = re.compile(r"[0-9a-f]{32}")
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(SubmitRun)


class SubmissionStore:
    """Its methods do file work: call them on a thread. Only their owner can read the files: they hold environments."""

    def __init__(self, directory: Path, kept_max: int = KEPT_MAX) -> None:
        self._directory = directory
        self._kept_max = kept_max

    def save(self, submission: SubmitRun) -> None:
        """Raises OSError, UnicodeEncodeError."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        encoded = _encoder.encode(submission)
        draft = self._directory / f".{DRAFT_NAME}-{secrets.token_hex(8)}"
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "wb") as file:
                file.write(encoded)
            draft.replace(self._path(submission.run_id))
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        self._remove_oldest()

    def load(self, run_id: str) -> SubmitRun | None:
        """None if it is not kept, or was written by another version."""
        try:
            return _decoder.decode(self._path(run_id).read_bytes())
        except (OSError, ValueError, msgspec.MsgspecError):
            return None

    def _path(self, run_id: str) -> Path:
        """Raises ValueError for an id that is none, so that no path is ever made from one."""
        if not _RUN_ID.fullmatch(run_id):
            raise ValueError("not the id of a run")
        return self._directory / f"{run_id}.msgpack"

    def _remove_oldest(self) -> None:
        files = list(self._directory.glob("*.msgpack"))
        if len(files) > self._kept_max:
            files.sort(key=lambda path: path.stat().st_mtime)
            for path in files[: len(files) - self._kept_max]:
                path.unlink(missing_ok=True)
