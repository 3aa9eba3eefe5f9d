from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def fake_nvml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a driver library whose GPUs draw 200 W each."""
    folder = tmp_path_factory.mktemp("nvml")
    source = Path(__file__).resolve().parents[4] / "capi" / "testdata" / "fake_libnvidia_ml.c"
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-o", str(folder / "libnvidia-ml.so.1"), str(source), "-lm"], check=True
    )
    return folder


@pytest.fixture
def on_gpu(fake_nvml: Path) -> Callable[..., str]:
    """Runs a program in a Python of its own, with that driver; returns what it printed."""

    def run(program: str, *arguments: str, **environment: str) -> str:
        found = {
            **os.environ,
            "LD_LIBRARY_PATH": str(fake_nvml),
            "FAKE_NVML_WATTS": "200",
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            **environment,
        }
        command = [sys.executable, "-c", program, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=found, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
