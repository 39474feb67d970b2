"""Output that user code wrote past pytest's capture, on its way to the client: decoded, and bounded in rate."""

from __future__ import annotations

import codecs
import time

from fleetest.core.model import RunId
from fleetest.processes.reporting import Reporter
from fleetest.wire.messages import RunOutput

_BURST_BYTES = 4 * 1024 * 1024
_RATE_BYTES_PER_S = 1024 * 1024


class OutputForwarder:
    """Bytes over the rate are dropped, and how many is said in their place."""

    def __init__(self, run_id: RunId, reporter: Reporter) -> None:
        self._run_id = run_id
        self._reporter = reporter
        self._allowed_bytes = float(_BURST_BYTES)
        self._refilled_at = time.monotonic()
        self._dropped_bytes = 0
        make_decoder = codecs.getincrementaldecoder("utf-8")
        self._decoders = {stream: make_decoder("replace") for stream in ("stdout", "stderr")}

    def write(self, stream: str, data: bytes) -> None:
        now = time.monotonic()
        refill = (now - self._refilled_at) * _RATE_BYTES_PER_S
        self._refilled_at = now
        self._allowed_bytes = min(_BURST_BYTES, self._allowed_bytes + refill)
        if len(data) > self._allowed_bytes:
            self._dropped_bytes += len(data)
            return
        self._allowed_bytes -= len(data)
        self.say_what_was_dropped(stream)
        text = self._decoders[stream].decode(data)
        if text:
            self._tell(stream, text)

    def say_what_was_dropped(self, stream: str = "stderr") -> None:
        if self._dropped_bytes:
            self._tell(stream, f"\n... {self._dropped_bytes} bytes of output dropped ...\n")
            self._dropped_bytes = 0

    def _tell(self, stream: str, text: str) -> None:
        self._reporter.tell(RunOutput(run_id=self._run_id, stream=stream, text=text))
        self._reporter.wake()
