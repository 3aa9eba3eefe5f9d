"""The launchers that people use, run for real: torchrun with restarts, accelerate launch, the Trainer."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from distributed import programs_launched as programs
from distributed.ranks import Ranks
from genesis_moe.distributed import latest

TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2")
# Its name for several processes, which the programs then keep on the CPU; with --cpu it starts one.
ACCELERATE = ("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0")
PATIENCE_SECONDS = 900.0  # three programs import torch one after the other, perhaps on a busy machine
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "GLOO_SOCKET_IFNAME": "lo",
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
}


def launched(*arguments: str | Path, folder: Path) -> tuple[str, str]:
    """What it prints, and what on standard error. Nothing of it is left when this returns."""
    process = subprocess.Popen(
        [sys.executable, "-m", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **ENVIRONMENT, "HF_HOME": str(folder / "home"), "TMPDIR": str(folder)},
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=PATIENCE_SECONDS)
    finally:
        if process.poll() is None:
            process.terminate()  # the workers have sessions of their own: torchrun ends them
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, errors[-6000:]
    return output, errors


def losses(printed: str) -> dict[str, float]:
    return {label: float(loss) for label, loss in re.findall(r"((?:step|epoch) +\d+)  loss (\S+)", printed)}


@pytest.fixture
def examples(root: Path) -> Path:
    return root / "examples" / "python"


def test_a_killed_rank_is_restarted_by_torchrun(ranks: Ranks, examples: Path, tmp_path: Path) -> None:
    example = str(examples / "distributed.py")
    whole = losses(ranks.run(programs.alone, example, world=1, wait=PATIENCE_SECONDS)[0])
    output, _ = launched(
        *TORCHRUN, "--max-restarts", "1", programs.__file__, example, "30", tmp_path / "run", folder=tmp_path
    )
    assert sorted(re.findall(r"rank \d, life \d", output)) == [
        f"rank {rank}, life {life}" for rank in (0, 1) for life in (0, 1)
    ]
    seen = re.findall(r"step +(\d+)  loss", output)
    assert seen == ["0", "20", "20", "40", "59"], "from the checkpoint after step 19"
    found = losses(output)
    assert found.keys() == whole.keys() and found == pytest.approx(whole, abs=2e-4)
    assert whole["step 59"] < 0.8 * whole["step  0"]
    path = latest(tmp_path / "run")
    assert path is not None and path.name == "step-000000060"


@pytest.mark.parametrize("name", ["accelerate_training.py", "trainer.py"])
def test_example(ranks: Ranks, examples: Path, tmp_path: Path, name: str) -> None:
    alone = losses(ranks.run(programs.alone, str(examples / name), world=1, wait=PATIENCE_SECONDS)[0])
    output, _ = launched(*ACCELERATE, examples / name, folder=tmp_path)
    assert "processes 2" in output and "processes 1" not in output
    assert len(alone) >= 3 and losses(output) == pytest.approx(alone, abs=2e-3)
