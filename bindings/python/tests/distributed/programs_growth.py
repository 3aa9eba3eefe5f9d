"""What the ranks of test_growth.py do: train a layer whose experts split, other tokens on each rank."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import genesis_moe as gm
from distributed.training import HIDDEN, Block, full, mine_of
from genesis_moe import _step
from genesis_moe.distributed import latest, load, save, shard_experts

TOKENS = 96
OPTIONS = gm.MitosisOptions(
    interval=12, window=3, min_tokens=20, cooldown=8, ramp=6, max_cosine=1.0, spread=0.0
)
STEPS = 40
# Every interval tries something. By "strict" some of it is refused, by "lenient" nothing.
TRYING = {
    "strict": replace(OPTIONS, death_load=0.8, death_intervals=1),
    "lenient": replace(OPTIONS, death_load=0.2, death_intervals=1, loss_tolerance=1.0),
}
TRYING_STEPS = 110


def build(layout: str, options: gm.MitosisOptions = OPTIONS) -> tuple[Any, torch.optim.Optimizer]:
    torch.manual_seed(1)
    model: Any = torch.nn.Sequential(
        Block(gm.MoE(HIDDEN, 8, 3, top_k=2, max_experts=8, mitosis=options, router_dim=8))
    ).double()
    if layout == "experts":
        shard_experts(model, init_device_mesh("cpu", (dist.get_world_size(),)))
    if layout in ("ddp", "experts"):
        model = DistributedDataParallel(model)
    if layout == "fsdp2":
        fully_shard(model[0])
        fully_shard(model)
    return model, torch.optim.AdamW(model.parameters(), lr=3e-3)


def batch_of(seed: int) -> torch.Tensor:
    kinds = torch.randn(6, HIDDEN, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    kind = torch.randint(6, (TOKENS,), generator=generator)
    return kinds[kind] + 0.3 * torch.randn(TOKENS, HIDDEN, generator=generator, dtype=torch.float64)


def loss_of(model: Any, x: torch.Tensor) -> torch.Tensor:
    return (model(x) - x.flip(-1).tanh()).square().mean()


def steps(
    model: Any,
    optimizer: torch.optim.Optimizer,
    first: int,
    last: int,
    tokens: Callable[[torch.Tensor], torch.Tensor] = mine_of,
    **options: Any,
) -> None:
    """tokens: of a batch, this rank's."""
    for step in range(first, last):
        loss_of(model, tokens(batch_of(step))).backward()
        optimizer.step()
        optimizer.zero_grad()
        gm.step(model, optimizer, **options)


def layer_of(model: Any) -> gm.MoE:
    return next(m for m in model.modules() if isinstance(m, gm.MoE))


def state_of(model: Any, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    layer = layer_of(model)
    grown = next(iter(gm.report(model).values())).mitosis
    assert grown is not None
    return {
        "events": [(e.step, e.kind, e.slot) for e in grown.events],
        "names": list(grown.names),
        "clans": {name: buffer.clone() for name, buffer in layer.clans.named_buffers()},
        "price": layer.router.price.clone(),
        "parameters": {name: full(p) for name, p in layer.named_parameters()},
        "moments": [full(s["exp_avg_sq"]) for s in optimizer.state.values()],
    }


def whole(layout: str) -> dict[str, Any]:
    model, optimizer = build(layout)
    steps(model, optimizer, 0, STEPS)
    return state_of(model, optimizer)


def tried(layout: str, how: str) -> dict[str, Any]:
    """With held-out data, other tokens on each rank: experts also die and become independent."""
    model, optimizer = build(layout, TRYING[how])
    modes = set()

    def held_out() -> float:
        modes.add((model.training, torch.is_grad_enabled()))
        return float(loss_of(model, mine_of(batch_of(10_000))))

    steps(model, optimizer, 0, TRYING_STEPS, held_out=held_out)
    assert modes == {(False, False)} and model.training
    return state_of(model, optimizer)


def evaluated_elsewhere() -> str:
    """What held_out says of its all_reduce's device where the layer is not on the CPU; meta stands in for a GPU."""
    real = dist.all_reduce

    def tells(tensor: torch.Tensor, *_: Any, **__: Any) -> None:
        raise RuntimeError(f"asked for {tensor.device}")

    dist.all_reduce = tells
    try:
        _step._evaluation(torch.nn.Linear(2, 2), lambda: 1.0, None, torch.device("meta"))()
    except gm.DistributedError as error:
        return str(error)
    finally:
        dist.all_reduce = real
    return "nothing was raised"


def write(layout: str, folder: str, at: int) -> None:
    model, optimizer = build(layout)
    steps(model, optimizer, 0, at)
    save(folder, model, optimizer, at)


def read(layout: str, folder: str) -> dict[str, Any]:
    model, optimizer = build(layout)
    path = latest(folder)
    assert path is not None
    step, _ = load(path, model, optimizer)
    steps(model, optimizer, step, STEPS)
    return state_of(model, optimizer)


def in_groups(folder: str) -> dict[str, Any]:
    """Two ranks see the one half of the tokens, two the other, as beside tensor parallelism: data groups of two.

    What is summed over a data group, in training and in checkpoints.
    """
    data = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "same"))["data"].get_group()
    at = OPTIONS.interval + 2

    def half(batch: torch.Tensor) -> torch.Tensor:
        return batch.chunk(2)[data.rank()]

    def seen_by_all(model: Any) -> torch.Tensor:
        sums: torch.Tensor = layer_of(model).clans.get_extra_state()
        dist.all_reduce(sums, group=data)
        return sums

    model, optimizer = build("one")
    model = DistributedDataParallel(model, process_group=data)
    steps(model, optimizer, 0, at, half, process_group=data)
    save(folder, model, optimizer, at, process_group=data)
    seen = seen_by_all(model)
    assert seen.any(), "within a window"

    model, optimizer = build("one")
    model = DistributedDataParallel(model, process_group=data)
    path = latest(folder)
    assert path is not None
    load(path, model, optimizer, process_group=data)
    assert torch.allclose(seen_by_all(model), seen, atol=1e-9), "once"
    steps(model, optimizer, at, STEPS, half, process_group=data)
    return state_of(model, optimizer)
