"""What test_launchers.py runs: an example alone in a rank, or, as a program, one that is killed in it."""

from __future__ import annotations

import contextlib
import io
import os
import runpy
import signal
import sys
import time

import torch.distributed as dist


def alone(example: str, *arguments: str) -> str:
    """What the example prints in one process."""
    dist.destroy_process_group()  # it makes its own
    printed, kept = io.StringIO(), sys.argv
    sys.argv = [example, *arguments]
    try:
        with contextlib.redirect_stdout(printed):
            runpy.run_path(example, run_name="__main__")
    finally:
        sys.argv = kept
    return printed.getvalue()


def main() -> None:
    """``programs_launched.py EXAMPLE STEP ...`` under torchrun: rank 1 dies in that step of its first life,
    after the optimiser's step and before the ranks have added up what they counted."""
    import genesis_moe as gm

    example, fatal = sys.argv[1], int(sys.argv[2])
    life, rank = int(os.environ["TORCHELASTIC_RESTART_COUNT"]), int(os.environ["RANK"])
    steps, real = 0, gm.step

    def step(*arguments: object, **options: object) -> None:
        nonlocal steps
        steps += 1
        if rank == 1 and life == 0 and steps == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        real(*arguments, **options)

    gm.step = step
    if rank == 1 and life == 1:
        time.sleep(3)  # rank 0 looks for it meanwhile, and must not find the one that is dead
    sys.argv = [example, *sys.argv[3:]]
    print(f"rank {rank}, life {life}", flush=True)
    runpy.run_path(example, run_name="__main__")


if __name__ == "__main__":
    main()
