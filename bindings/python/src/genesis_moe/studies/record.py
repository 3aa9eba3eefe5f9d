"""The record that every study writes: where it ran, on what, and the raw numbers."""

from __future__ import annotations

import json
import math
import os
import platform
import re
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any


def write_atomically(path: Path, data: bytes) -> None:
    """Replaces `path` by `data`: a reader sees the old file or the new one, never a part.

    The folder must be on one file system, which holds as the temporary file is its neighbour.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name + ".")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as JSON, atomically. NaN and infinity are refused: they are not JSON."""
    text = json.dumps(value, allow_nan=False, indent=1, sort_keys=False)
    write_atomically(path, (text + "\n").encode())


def finite(value: Any) -> Any:
    """The value with NaN and infinity as text, which JSON has no numbers for: they are what a failed check found."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path) -> Any:
    """Reads a JSON file; the error of a damaged one names it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not a JSON record ({error})") from error


UUID = re.compile(r"\b(?:GPU|MIG)-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def anonymous(value: Any) -> Any:
    """The value without whose machine it is of: in text, paths below the checkout and the home folder are cut to what
    lies below, and the numbers of GPUs are left out, as is what is called uuid or pid."""
    if isinstance(value, dict):
        return {key: anonymous(item) for key, item in value.items() if key not in ("uuid", "pid")}
    if isinstance(value, list | tuple):
        return [anonymous(item) for item in value]
    if not isinstance(value, str):
        return value
    for folder, instead in _folders():
        value = re.sub(rf"(?<![\w.-]){re.escape(folder)}(?![\w-])", instead, value)
    return UUID.sub("GPU", value)


def _folders() -> list[tuple[str, str]]:
    """The checkout, if this is one, and the home folder, each with what it is called instead."""
    here = [Path(__file__).absolute(), Path(__file__).resolve()]
    roots = [path.parents[5] for path in here if len(path.parents) > 5]
    found = [(str(root), ".") for root in roots if (root / ".git").exists()]
    home = os.path.expanduser("~")
    return [*found, (home, "~")] if len(Path(home).parts) > 1 else found


def environment() -> dict[str, Any]:
    """Versions, machine and commit of this process, for the record."""
    return {
        "commit": _commit(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in ("genesis-moe", "torch", "numpy")},
        "machine": {
            "processor": _processor(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "memory_bytes": _memory_bytes(),
            "system": f"{platform.system()} {platform.machine()}",
        },
        "byte_order": sys.byteorder,
    }


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> dict[str, Any] | None:
    """The checkout that this package is run from; None for an installed wheel."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    try:
        # A wheel in a virtual environment inside some checkout is not that checkout.
        git("ls-files", "--error-unmatch", "record.py")
        changed = git("status", "--porcelain", "--untracked-files=no", "--", str(folder.parent))
        return {"hash": git("rev-parse", "HEAD"), "changed": bool(changed)}
    except (OSError, subprocess.CalledProcessError):
        return None


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None
