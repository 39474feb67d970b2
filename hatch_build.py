"""Compiles the core while a wheel is built, where that is asked for: see docs/how-to/compile-the-core.md.

Hatchling calls it when ``HATCH_BUILD_HOOKS_ENABLE`` is set. The extension modules lie in the wheel beside their
sources and are what Python imports then.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PARTS = ("core", "balancing/speeds.py", "task_scheduler.py")
"""What every assignment goes through."""
VALUES = ("core/model.py", "core/events.py", "core/commands.py", "core/alerts.py", "core/memory.py")
"""The wire and ``fleet.json`` are read and written by their annotations, which mypyc does not keep."""
INTERPRETED = frozenset({*VALUES, "core/__init__.py", "core/compilation.py"})


def sources(package: Path) -> list[str]:
    """The files to compile; ``package`` is the folder of ``fleetest``."""
    found = [path for part in PARTS for path in (package.glob(f"{part}/*.py") if "." not in part else [package / part])]
    return sorted(str(path) for path in found if path.relative_to(package).as_posix() not in INTERPRETED)


class CompiledCore(BuildHookInterface[Any]):
    _built = ""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            self.app.display_warning("fleetest: an editable installation is never compiled")
            return
        # Installed for builds with this hook only.
        from mypyc.build import mypycify
        from setuptools import Distribution

        self._built = tempfile.mkdtemp(prefix="fleetest-core-")
        built = Path(self._built)
        modules = mypycify(
            sources(Path(self.root, "src", "fleetest")),
            opt_level="3",
            group_name="fleetest_core",
            target_dir=str(built / "c"),
        )
        command = Distribution({"name": "fleetest", "ext_modules": modules}).get_command_obj("build_ext")
        command.build_lib, command.build_temp = str(built / "lib"), str(built / "objects")
        command.ensure_finalized()
        command.run()
        for path in (built / "lib").rglob("*.*"):
            if path.is_file():
                build_data["force_include"][str(path)] = path.relative_to(built / "lib").as_posix()
        build_data["pure_python"], build_data["infer_tag"] = False, True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if self._built:
            shutil.rmtree(self._built, ignore_errors=True)
