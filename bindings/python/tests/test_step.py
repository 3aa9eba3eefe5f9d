"""gm.step: schedules, determinism, all ranks alike, and what it is for: balance and budget."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import genesis_moe as gm


def test_schedules() -> None:
    router = gm.Router(8, 8, top_k=3, budget=1.5)
    assert [router.budget_at(p) for p in (None, 0.0, 0.25, 0.5, 1.0)] == [1.5, 3.0, 2.25, 1.5, 1.5]
    rates = [router.price_rate_at(p) for p in (None, 0.0, 0.9, 0.95, 1.0)]
    assert rates == pytest.approx([0.02, 0.02, 0.02, 0.01, 0.0])
    assert gm.Router(8, 8, mode="deepseek").price_rate_at(None) == 1e-3
    assert gm.Router(8, 8, top_k=3).budget_at(0.3) == 3.0


@pytest.mark.parametrize("progress", [-0.1, 1.1, float("nan")])
def test_progress_outside_its_range(progress: float) -> None:
    with pytest.raises(ValueError, match="progress"):
        gm.step(gm.MoE(8, 8, 4), progress)


def test_a_model_without_routers_is_fine() -> None:
    gm.step(torch.nn.Linear(2, 2), 0.5)


def skewed(tokens: int) -> torch.Tensor:
    """Tokens of 4 kinds, the first far more frequent."""
    kinds = torch.randn(4, 16, generator=torch.Generator().manual_seed(1))
    kind = torch.multinomial(torch.tensor([0.7, 0.1, 0.1, 0.1]), tokens, replacement=True)
    return kinds[kind] + 0.5 * torch.randn(tokens, 16)


@pytest.mark.parametrize("mode", ["hamiltonian", "deepseek"])
def test_loads_become_balanced(mode: str) -> None:
    router = gm.Router(16, 8, top_k=2, mode=mode, price_rate=0.02)
    violations = []
    for _ in range(150):
        router(skewed(512))
        violations.append(gm.report(router)[""].max_violation)
        gm.step(router)
    assert sum(violations[-10:]) / 10 < min(0.5, violations[0] / 2)


def test_the_budget_is_met() -> None:
    router = gm.Router(16, 8, top_k=2, budget=1.25)
    active = []
    for i in range(400):
        router(skewed(256))
        active.append(gm.report(router)[""].mean_active)
        gm.step(router, i / 400)
    assert active[0] > 1.8, "training starts from nearly top_k"
    assert sum(active[-50:]) / 50 == pytest.approx(1.25, abs=0.1)


def test_steps_are_deterministic() -> None:
    def run() -> torch.Tensor:
        torch.manual_seed(5)
        layer = gm.MoE(16, 8, 8, budget=1.5)
        optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-2)
        for i in range(5):
            optimizer.zero_grad()
            layer(skewed(64)).square().mean().backward()
            optimizer.step()
            gm.step(layer, i / 5)
        return torch.cat([t.reshape(-1).double() for t in layer.state_dict().values()])

    assert torch.equal(run(), run())


RANK = """
import sys, torch, torch.distributed as dist
import genesis_moe as gm
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
torch.manual_seed(0)
model = torch.nn.Sequential(gm.MoE(8, 4, 4, budget=1.5), gm.MoE(8, 4, 4, router="deepseek"))
x = torch.randn(20, 8)
for part in (x[:4] if rank == 0 else x[4:]), :
    model(part)
gm.step(model, 0.3)
prices = torch.cat([model[0].router.price, model[0].router.gap, model[1].router.price]).detach()
torch.save(prices, sys.argv[3] + sys.argv[1])
dist.destroy_process_group()
"""


def test_all_ranks_move_alike_and_as_one(tmp_path: Path) -> None:
    source = str(Path(gm.__file__).parents[1])
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(rank), str(tmp_path / "meet"), str(tmp_path / "prices")],
            env={**os.environ, "PYTHONPATH": source},
        )
        for rank in (0, 1)
    ]
    assert [rank.wait(timeout=300) for rank in ranks] == [0, 0]
    prices = [torch.load(tmp_path / f"prices{rank}") for rank in (0, 1)]
    assert torch.equal(*prices)
    torch.manual_seed(0)
    model = torch.nn.Sequential(gm.MoE(8, 4, 4, budget=1.5), gm.MoE(8, 4, 4, router="deepseek"))
    model(torch.randn(20, 8))
    gm.step(model, 0.3)
    one = torch.cat([model[0].router.price, model[0].router.gap, model[1].router.price])
    assert torch.allclose(prices[0], one, atol=1e-7)
