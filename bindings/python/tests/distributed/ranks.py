"""Processes that tests run functions in, as ranks of one group: started once, Gloo over loopback.

A hang is an error within seconds: the group has a timeout, and so has waiting for an answer.
They are forks of one server that has imported torch, which is most of what a rank's start costs. The
server imports no genesis_moe: its library does not work in a fork.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing import get_context, set_forkserver_preload
from pathlib import Path
from typing import Any

# Generous, since the machine may be busy; what must fail quickly says so.
TIMEOUT_SECONDS = 120.0
PRELOAD = [
    "torch._dynamo",  # the first optimiser imports it
    "torch.distributed.checkpoint.state_dict",
    "torch.distributed.fsdp",
    "torch.distributed.tensor",
    "transformers.models.mixtral.modeling_mixtral",
]


class Ranks:
    """``run(function, *arguments)`` calls ``function(*arguments)`` on every rank; the results, by rank."""

    def __init__(self, number: int, **environment: str) -> None:
        context = get_context("forkserver")
        set_forkserver_preload(PRELOAD)
        self.number = number
        self.folder = tempfile.TemporaryDirectory(prefix="gmoe-ranks-")
        self.runs = 0
        self.pipes, self.processes = [], []
        for _ in range(number):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, sys.path, environment), daemon=True)
            process.start()
            theirs.close()
            self.pipes.append(ours)
            self.processes.append(process)
        # Imports take long where the machine is busy; the ranks meet only once all have them behind them.
        for rank, pipe in enumerate(self.pipes):
            assert pipe.poll(600) and pipe.recv() == "ready", f"rank {rank} did not start"

    def run(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        world: int | None = None,
        timeout: float = TIMEOUT_SECONDS,
        wait: float = 2 * TIMEOUT_SECONDS,
    ) -> list[Any]:
        """The results of the first ``world`` ranks; an AssertionError with the traceback where one fails."""
        answers = self.answers(function, *arguments, world=world, timeout=timeout, wait=wait)
        for rank, (done, value) in enumerate(answers):
            assert done, f"rank {rank}:\n{value}"
        return [value for _, value in answers]

    def answers(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        world: int | None = None,
        timeout: float = TIMEOUT_SECONDS,
        wait: float = 2 * TIMEOUT_SECONDS,
    ) -> list[tuple[bool, Any]]:
        """(True, result) or (False, traceback) of each rank; (False, "ended") of one that is gone."""
        world = self.number if world is None else world
        self.runs += 1
        meet = str(Path(self.folder.name) / f"meet-{self.runs}")
        for rank, pipe in enumerate(self.pipes[:world]):
            pipe.send((function, arguments, rank, world, meet, timeout))
        answers = []
        for rank, pipe in enumerate(self.pipes[:world]):
            assert pipe.poll(wait), f"rank {rank} does not answer"
            try:
                answers.append(pipe.recv())
            except EOFError:
                answers.append((False, "ended"))
        return answers

    def close(self) -> None:
        for pipe in self.pipes:
            pipe.close()
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGCONT)  # a test may have stopped it
        for process in self.processes:
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join()
        self.folder.cleanup()


def _serve(pipe: Any, path: list[str], environment: dict[str, str]) -> None:
    os.environ.update({"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", **environment})
    sys.path[:] = path
    import torch
    import torch.distributed as dist

    import genesis_moe.moe  # noqa: F401

    torch.set_num_threads(1)
    pipe.send("ready")
    while True:
        try:
            function, arguments, rank, world, meet, timeout = pipe.recv()
        except EOFError:
            return
        torch.manual_seed(0)
        try:
            dist.init_process_group(
                "gloo",
                init_method=f"file://{meet}",
                rank=rank,
                world_size=world,
                timeout=timedelta(seconds=timeout),
            )
            pipe.send((True, function(*arguments)))
        except BaseException:
            pipe.send((False, traceback.format_exc()))
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()
