"""The CUDA backend end to end on machines without a GPU; fake_gpu.py says how, and what that proves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from genesis_moe import doctor

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="session")
def driver() -> Path:
    """The folder with the fake driver and the emulated kernels; skips where the library has no kernels."""
    if doctor()["devices"]["cuda"]["details"]["kernels"].startswith("none"):
        pytest.skip("this build has no CUDA kernels")
    root = HERE.parents[3]
    command = ["make", "-s", "-j2", "-f", "cuda/build.mk", "fake-cuda"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return root / "build" / "fake"


def on_fake_gpu(driver: Path, check: str, log: Path | None = None, **settings: str) -> str:
    """Runs a check of fake_gpu.py in a process that finds the fake driver; what it prints."""
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": str(driver),
        "FAKE_CUDA_KERNELS": str(driver / "kernels.so"),
        **settings,
    }
    if log is not None:
        environment["FAKE_CUDA_LOG"] = str(log)
    command = [sys.executable, str(HERE / "fake_gpu.py"), check]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    "check", ["experts_float32", "experts_bfloat16", "router_float32", "router_bfloat16"]
)
def test_agrees_with_the_float64_reference(driver: Path, check: str) -> None:
    assert on_fake_gpu(driver, check, FAKE_CUDA_SEED="3") == "agree"


def test_the_work_of_experts_is_counted_on_the_device(driver: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert on_fake_gpu(driver, "ledger", log) == "agree"
    assert "kernel gmoe_ledger_add" in log.read_text()
    assert on_fake_gpu(driver, "ledger", FAKE_CUDA_CAPTURING="1") == "not counted"


def test_kernels_for_hopper(driver: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert on_fake_gpu(driver, "experts_bfloat16", log, GENESIS_MOE_EXPERT_KERNELS="hopper") == "agree"
    assert "kernel gmoe_experts_hopper_gate_up_" in log.read_text()


def test_weights_in_float8(driver: Path, tmp_path: Path) -> None:
    portable, hopper = tmp_path / "portable", tmp_path / "hopper"
    assert on_fake_gpu(driver, "experts_e4m3", portable, FAKE_CUDA_SEED="3") == "agree"
    assert on_fake_gpu(driver, "experts_e4m3", hopper, GENESIS_MOE_EXPERT_KERNELS="hopper") == "agree"
    launched = portable.read_text()
    assert "kernel gmoe_experts_decode_gate_up_" in launched and "_e4m3_bf16" in launched
    assert "kernel gmoe_experts_gate_up_nt_e4m3_f32" in launched and "_hopper_" not in launched
    assert "kernel gmoe_experts_hopper_gate_up_e4m3_bf16" in hopper.read_text()


def test_kernels_for_few_tokens_and_small_experts(driver: Path, tmp_path: Path) -> None:
    few, tiles = tmp_path / "few", tmp_path / "tiles"
    assert on_fake_gpu(driver, "experts_inference", few) == "agree"
    assert "kernel gmoe_experts_decode_down_bf16" in few.read_text()
    assert "kernel gmoe_experts_small_down_f32" in few.read_text()
    assert on_fake_gpu(driver, "experts_inference", tiles, GENESIS_MOE_EXPERT_KERNELS="tiles") == "agree"
    assert "_decode_" not in tiles.read_text() and "_small_" not in tiles.read_text()


def test_refusals(driver: Path) -> None:
    other, missing, small = on_fake_gpu(driver, "experts_refusals").split("\n")
    assert other.startswith("gate_up_proj: is on cuda:1, want cuda:0")
    assert missing.startswith("workspace: is NULL, want ")
    assert small.startswith("workspace_size: ")
    needed = int(missing.split(" bytes")[0].split()[-1])
    assert f"workspace_size: {needed - 1}, want at least {needed}" in small


def test_devices(driver: Path) -> None:
    first, second, third = on_fake_gpu(driver, "open").split("\n")
    assert first == second == "fine"
    assert third.startswith("NoDeviceError: device_id: 2")


@pytest.mark.parametrize(
    ("check", "setting", "wanted"),
    [
        ("open", "FAKE_CUDA_VERSION=11080", "DriverError: cuda: the driver"),
        ("open", "FAKE_CUDA_FAIL=cuInit=100", "NoDeviceError: cuda: the driver finds no GPU"),
        ("open", "FAKE_CUDA_CAPABILITY=75", "UnsupportedError: cuda: device 0 has compute capability 7.5"),
        ("one_forward", "FAKE_CUDA_FAIL=cuModuleLoadData=209", "UnsupportedError: cuda: loading the kernels"),
        ("one_forward", "FAKE_CUDA_FAIL=cuLaunchKernelEx:2=719", "DriverError: cuda: kernel gmoe_"),
        ("one_forward", "FAKE_CUDA_FAIL=cuLaunchKernelEx:1=2", "OutOfMemoryError: cuda: kernel gmoe_"),
    ],
)
def test_failures_are_exceptions(driver: Path, check: str, setting: str, wanted: str) -> None:
    name, value = setting.split("=", 1)
    assert on_fake_gpu(driver, check, **{name: value}).startswith(wanted)


def test_an_operation_only_launches(driver: Path, tmp_path: Path) -> None:
    """No operation but a report waits."""
    log = tmp_path / "log"
    assert on_fake_gpu(driver, "one_forward", log) == "fine"
    calls = [line.split()[0] for line in log.read_text().splitlines()]
    assert "cuLaunchKernelEx" in calls
    assert "cuStreamSynchronize" not in calls and "cuCtxSynchronize" not in calls
