"""Did the kernel kill something for want of memory? Read from its counters, never guessed."""

from __future__ import annotations

from pathlib import Path


def _own_memory_events() -> list[Path]:
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    files = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            files.append(Path(f"/sys/fs/cgroup{path}", "memory.events"))
        elif "memory" in controllers.split(","):
            files.append(Path(f"/sys/fs/cgroup/memory{path}", "memory.oom_control"))
            files.append(Path("/sys/fs/cgroup/memory", "memory.oom_control"))
    return files


def read_oom_kills() -> int:
    """Sum of the ``oom_kill`` counters of our control group and of the machine; 0 where there are none."""
    kills = 0
    for file in [*_own_memory_events(), Path("/proc/vmstat")]:
        try:
            lines = file.read_text().splitlines()
        except OSError:
            continue
        kills += sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
    return kills


class OomWatch:
    """Tells whether the counters rose since they were last looked at."""

    def __init__(self) -> None:
        self._seen = read_oom_kills()

    def rose(self) -> bool:
        before, self._seen = self._seen, read_oom_kills()
        return self._seen > before
