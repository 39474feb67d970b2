"""Hook proxies, made once per file: pytest makes a new one for every hook of every test."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict


def cache_hook_proxies(session: Any) -> None:
    """Let ``session.gethookproxy`` answer from memory until another conftest is loaded.

    A proxy leaves out the conftests that do not apply to a path. With conftests side by side pytest would build it, and
    one hook caller for each hook, again at each use: an eighth of the cost of an empty test.
    """
    conftests = getattr(session.config.pluginmanager, "_conftest_plugins", None)
    if not isinstance(conftests, set):
        return
    make = session.gethookproxy
    proxies: Dict[Any, Any] = {}
    known = len(conftests)

    def gethookproxy(fspath: Any) -> Any:
        nonlocal known
        proxy = proxies.get(fspath)
        if proxy is None or known != len(conftests):
            if known != len(conftests):
                proxies.clear()
                known = len(conftests)
            proxy = proxies[fspath] = make(fspath)
        return proxy

    session.gethookproxy = gethookproxy
