"""The step ``tests``: the tests of PyTorch and transformers on CUDA, by pytest."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def main() -> int:
    tests = Path(__file__).resolve().parents[4] / "tests" / "cuda" / "test_gpu.py"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests)]
    return subprocess.run(command, cwd=tests.parents[2]).returncode


if __name__ == "__main__":
    sys.exit(main())
