"""pytest's ``--log-file``: the client has emptied it, the template and every runner add to it."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Optional


def take_log_file(config: Any) -> Optional[str]:
    """Keep pytest from opening the file, which would empty it again. Returns its path, or None without one."""
    if not hasattr(config.option, "log_file"):
        # -p no:logging
        return None
    path = config.option.log_file or config.getini("log_file")
    if not path or path == os.devnull:
        return None
    config.option.log_file = os.devnull
    return str(os.path.abspath(path))


def append_to_log_file(config: Any, path: str) -> None:
    """Let pytest's log handler add to the file. Raises OSError as pytest would."""
    config.option.log_file = path
    plugin = config.pluginmanager.get_plugin("logging-plugin")
    handler = getattr(plugin, "log_file_handler", None)
    if handler is None:
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    # In append mode the kernel keeps whole records of several processes apart.
    old = handler.setStream(open(path, "a", encoding="UTF-8"))  # noqa: SIM115
    handler.baseFilename = path
    if old is not None:
        old.close()
