"""A run of the study `compare` whose batch is cut between the ranks of torch.distributed."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

import genesis_moe as gm
from genesis_moe.distributed import clip_grad_norm_, shard_experts
from genesis_moe.studies.compare.arms import Arm
from genesis_moe.studies.compare.corpus import Corpus
from genesis_moe.studies.compare.measures import held_out_loss
from genesis_moe.studies.compare.model import LanguageModel
from genesis_moe.studies.compare.training import Run, Settings, optimizer_of

LAYOUTS = ("ddp", "fsdp2", "experts")


class DistributedRun(Run):
    """One rank of a run. Every rank has the same part of each batch, so a mean over ranks is the mean.

    layout: one of LAYOUTS, or "one" for the whole on one rank. dtype: of parameters, prices and
    products; the initial values are those of float32.
    """

    def __init__(
        self,
        layout: str,
        arm: Arm,
        seed: int,
        settings: Settings,
        corpus: Corpus,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(arm, seed, settings, corpus, Path())  # it leaves no files
        self.layout, self.ranks = layout, dist.get_world_size()
        if layout not in ("one", *LAYOUTS) or (layout == "one" and self.ranks > 1):
            raise ValueError(f"layout: {layout!r} on {self.ranks} ranks, want one of {', '.join(LAYOUTS)}")
        if settings.batch % self.ranks:
            raise ValueError(f"batch: {settings.batch}, want a multiple of {self.ranks} ranks")
        self.model.to(dtype)
        # What a checkpoint of one process holds, to be evaluated by the code that evaluates it.
        self.whole = LanguageModel(settings.shape, arm.build(settings.shape, seed), seed).to(dtype)
        self.network = self._spread()
        self.optimizer = optimizer_of(self.model, arm, settings)
        self.optimizer.param_groups = _by_kind(self.optimizer.param_groups)
        self.digests: list[int] = []  # of prices and gaps after each step
        self.parted: int | None = None  # the first step after which ranks had others

    def _spread(self) -> nn.Module:
        if self.layout == "one":
            return self.model
        if self.layout == "fsdp2":
            for block in self.model.blocks:
                fully_shard(block)
            fully_shard(self.model)
            return self.model
        if self.layout == "experts":
            shard_experts(self.model, init_device_mesh("cpu", (self.ranks,)))
        return DistributedDataParallel(self.model)

    def _mine(self, text: Tensor) -> Tensor:
        return text.chunk(self.ranks)[dist.get_rank()]

    def _total(self, numbers: Tensor) -> Tensor:
        total = numbers.clone()
        dist.all_reduce(total)
        return total

    def _clip_gradients(self) -> None:
        clip_grad_norm_(self.model.parameters(), self.settings.clip)

    def _train_step(self) -> float:
        loss = super()._train_step()
        mine = torch.tensor(zlib.crc32(b"".join(b.numpy().tobytes() for b in self.routing_buffers())))
        everyone = [torch.empty_like(mine) for _ in range(self.ranks)]
        dist.all_gather(everyone, mine)
        if self.parted is None and any(other != mine for other in everyone):
            self.parted = self.step
        self.digests.append(int(mine))
        return loss

    def routing_buffers(self) -> list[Tensor]:
        """Prices and gaps, by layer."""
        routers = [m for m in self.model.modules() if isinstance(m, gm.Router)]
        return [b for router in routers for b in (router.price, router.gap) if b is not None]

    def train_here(self) -> dict[str, Any]:
        """Trains from the beginning to the end; the result, on every rank."""
        while self.step < self.settings.steps:
            self._train_step()
        self._evaluate(self.settings.final_windows)
        found = self.curves["evaluations"][-1]
        experts = [layer.expert_parallel for layer in self._mixtures]
        traffic = [vars(e.traffic) for e in experts if e is not None]
        sent = torch.tensor([sum(t.values()) - t["forward_rows"] for t in traffic] or [0]).sum()
        return {
            "layout": self.layout,
            "ranks": self.ranks,
            "dtype": str(next(self.model.parameters()).dtype).removeprefix("torch."),
            "arm": self.arm.name,
            "seed": self.seed,
            "steps": self.step,
            "held_out": found["loss"],
            "held_out_by_domain": found["loss_by_domain"],
            "experts_per_token": found["experts_per_token"],
            "training_loss": [round(loss, 6) for loss in self.curves["loss"]],
            "ranks_parted_at": self.parted,
            "buffers_crc32": self.digests,
            "buffers": [buffer.tolist() for buffer in self.routing_buffers()],
            "exchanged_bytes": int(self._total(sent)) if traffic else None,
        }

    def _evaluate(self, windows: int) -> None:
        options = StateDictOptions(full_state_dict=True)
        self.whole.load_state_dict(get_model_state_dict(self.model, options=options))
        found: list[Any] = [None]
        if dist.get_rank() == 0:
            found = [held_out_loss(self.whole, self.corpus, windows, self.settings.batch)]
        dist.broadcast_object_list(found, src=0)
        self.curves["evaluations"].append({"step": self.step, **found[0]})


def _by_kind(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A fused optimiser takes a group's parameters in one call, DTensors or others, not both."""
    split = []
    for group in groups:
        for kind in (True, False):
            chosen = [p for p in group["params"] if isinstance(p, DTensor) is kind]
            if chosen:
                split.append({**group, "params": chosen})
    return split


def first_difference(one: dict[str, Any], other: dict[str, Any]) -> int | None:
    """The first step after which the routing buffers of two runs are not the same bits; None: never."""
    unequal = np.flatnonzero(np.array(one["buffers_crc32"]) != np.array(other["buffers_crc32"]))
    return int(unequal[0]) + 1 if unequal.size else None
