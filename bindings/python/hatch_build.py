"""Puts the shared library into the wheel, and the tag that goes with it.

`make wheel` lays the library, its BLAS and the header below src/genesis_moe before. A wheel that is
built from the source distribution or a checkout has no library yet: it is built here, by Go and a C
compiler, for this machine and without a BLAS beside it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

LIBRARY = "libgenesis_moe.so"
PLATFORM_VARIABLE = "GENESIS_MOE_WHEEL_PLATFORM"


class LibraryHook(BuildHookInterface):
    """Named custom in pyproject.toml."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel" or version == "editable":
            return
        package = Path(self.root) / "src" / "genesis_moe"
        if not (package / "lib" / LIBRARY).exists():
            self._build(package)
        platform = os.environ.get(PLATFORM_VARIABLE) or sysconfig.get_platform()
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform.replace('-', '_').replace('.', '_')}"

    def _build(self, package: Path) -> None:
        bundled = Path(self.root) / "go"
        source = bundled if bundled.is_dir() else Path(self.root).parents[1]
        for program, what in (("go", "Go 1.26, https://go.dev"), ("make", "make"), ("cc", "a C compiler")):
            if shutil.which(program) is None:
                raise RuntimeError(
                    f"genesis-moe: there is no wheel for this platform, and building the library needs {what}"
                )
        built = source / "build" / "wheel" / LIBRARY
        self.app.display_info(f"building {LIBRARY} with Go")
        subprocess.run(
            ["make", "-s", "-f", "capi/build.mk", f"LIBRARY={built}", str(built)], cwd=source, check=True
        )
        for folder, files in (("lib", [built]), ("include", (source / "include").glob("*.h*"))):
            (package / folder).mkdir(exist_ok=True)
            for file in files:
                shutil.copy(file, package / folder)
