"""Experts that split: same function, same FLOPs, state that survives, decisions that ranks share."""

from __future__ import annotations

import copy
import io
import itertools
import math
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import genesis_moe as gm
from genesis_moe.mitosis import split
from genesis_moe.mitosis.statistics import first_axis, fit, null_gain, outlying
from genesis_moe.mitosis.surgery import Change

OPTIONS = gm.MitosisOptions(interval=20, window=5, cooldown=20, min_tokens=100, ramp=4)
KINDS, WIDTH = 6, 16


def layer_of(dtype: torch.dtype = torch.float32, **options: Any) -> gm.MoE:
    torch.manual_seed(0)
    options = {"top_k": 2, "max_experts": 8, "mitosis": OPTIONS, **options}
    return gm.MoE(WIDTH, 24, 4, dtype=dtype, **options)


def task(step: int, dtype: torch.dtype = torch.float32, tokens: int = 128) -> tuple[Tensor, Tensor]:
    """Tokens around six centers, each kind with its own linear map to learn."""
    fixed = torch.Generator().manual_seed(1)
    centers = 2 * torch.randn(KINDS, WIDTH, generator=fixed)
    maps = torch.randn(KINDS, WIDTH, WIDTH, generator=fixed) / 4
    g = torch.Generator().manual_seed(1000 + step)
    kind = torch.randint(0, KINDS, (tokens,), generator=g)
    x = centers[kind] + 0.5 * torch.randn(tokens, WIDTH, generator=g)
    return x.to(dtype), torch.einsum("th,tho->to", x, maps[kind]).to(dtype)


OPTIMIZERS: dict[str, Any] = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=3e-3),
    "adam foreach amsgrad": lambda p: torch.optim.Adam(p, lr=3e-3, foreach=True, amsgrad=True),
    "adamw fused": lambda p: torch.optim.AdamW(p, lr=3e-3, fused=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=3e-2),
    "sgd momentum foreach": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9, foreach=True),
    "sgd momentum fused": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9, fused=True),
}


def optimizer_of(layer: gm.MoE, name: str = "adamw") -> torch.optim.Optimizer:
    experts = [layer.gate_up_proj, layer.down_proj]
    others = [p for n, p in layer.named_parameters() if "_proj" not in n]
    return OPTIMIZERS[name]([{"params": experts}, {"params": others, "weight_decay": 0.0}])


def train(layer: Any, optimizer: Any, start: int, stop: int, model: Any = None, **more: Any) -> list[float]:
    dtype = layer.gate_up_proj.dtype
    losses = []
    for i in range(start, stop):
        x, y = task(i, dtype)
        loss = ((layer if model is None else model)(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        gm.step(layer, optimizer, **more)
        losses.append(loss.item())
    return losses


def grown(layer: gm.MoE) -> Any:
    if layer.router.last_routing is None:
        layer(task(0, layer.gate_up_proj.dtype)[0])
    return gm.report(layer)["router"].mitosis


# ------------------------------------------------------------------ the split


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", ["top-1", "top-2", "budgeted"])
def test_a_split_keeps_the_function_and_the_flops(kind: str, dtype: torch.dtype) -> None:
    options = {"top-1": {"top_k": 1}, "top-2": {}, "budgeted": {"budget": 1.5}}[kind]
    layer = layer_of(dtype, **options)
    optimizer = optimizer_of(layer)
    train(layer, optimizer, 0, 6)
    x, _ = task(99, dtype, 500)
    layer.eval()

    def forward() -> tuple[Tensor, int]:
        before = gm.engine_counters()["expert_rows"]
        with torch.no_grad():
            return layer(x), gm.engine_counters()["expert_rows"] - before

    want, rows = forward()
    slots = [2, 2, 4]  # an undivided expert, then both of its children
    for expected, slot in zip((4, 5, 6), slots, strict=True):
        layer.clans.fitted_threshold.nan_to_num_()
        layer.clans.fitted_gain.fill_(0.5)  # a child may split at once here
        assert split(layer, slot, optimizer) == expected
        got, rows_now = forward()
        assert rows_now == rows
        # The children's weights are the parent's bits. A BLAS may sum a matrix of fewer rows in another order.
        exact = 1e-14 if dtype == torch.float64 else 1e-6
        assert torch.allclose(got, want, rtol=0, atol=exact)
        assert torch.equal(layer.gate_up_proj[expected], layer.gate_up_proj[slot])
        assert torch.equal(layer.down_proj[expected], layer.down_proj[slot])
    names = {"0", "1", "2.l.l", "2.l.r", "2.r.l", "2.r.r", "3"}
    assert set(grown(layer).names.values()) == names
    assert grown(layer).experts == 7 and grown(layer).clans == 4


def test_names_follow_the_tree() -> None:
    layer = layer_of()
    optimizer = optimizer_of(layer)
    train(layer, optimizer, 0, 6)
    layer.clans.fitted_threshold.nan_to_num_()
    layer.clans.fitted_gain.fill_(0.5)
    split(layer, 3, optimizer)
    layer.clans.fitted_gain.fill_(0.5)
    split(layer, 4, optimizer)
    report = grown(layer)
    assert report.names == {0: "0", 1: "1", 2: "2", 3: "3.l", 4: "3.r.l", 5: "3.r.r"}
    assert "3: 3.l (slot 3" in report.tree
    assert [(e.kind, e.slot, e.other) for e in report.events] == [("split", 3, 4), ("split", 4, 5)]
    assert "split of slot 3 in clan 3, new slot 4" in str(report.events[0])


def test_about_half_the_tokens_go_to_each_child() -> None:
    layer = layer_of()
    optimizer = optimizer_of(layer)
    train(layer, optimizer, 0, 5)
    new = split(layer, 0, optimizer)
    layer.eval()
    x, _ = task(50, tokens=4000)
    slots = layer.clans(x, layer.router(x))
    left, right = (slots == 0).sum().item(), (slots == new).sum().item()
    assert 0.3 < left / (left + right) < 0.7


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_state_is_divided(name: str) -> None:
    layer = layer_of()
    optimizer = optimizer_of(layer, name)
    train(layer, optimizer, 0, 6)
    before = copy.deepcopy(optimizer.state_dict())
    rows = {n: getattr(layer, n)[1].clone() for n in ("gate_up_proj", "down_proj")}
    new = split(layer, 1, optimizer)
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    factors = {"exp_avg": 0.5, "momentum_buffer": 0.5, "exp_avg_sq": 0.25, "max_exp_avg_sq": 0.25, "step": 1}
    for number, state in after["state"].items():
        for key, value in state.items():
            old = before["state"][number][key]
            if value is None or key == "step" or value.dim() != 3:
                assert value is old or torch.equal(value, old)
                continue
            for row in range(8):
                want = factors[key] * old[1] if row in (1, new) else old[row]
                assert torch.equal(value[row], want), (key, row)
    for n, row in rows.items():
        assert torch.equal(getattr(layer, n)[1], row) and torch.equal(getattr(layer, n)[new], row)
    train(layer, optimizer, 6, 12)
    assert not torch.equal(layer.down_proj[1], layer.down_proj[new])


def test_updates_of_children_rise_over_the_ramp() -> None:
    layer = layer_of()
    optimizer = optimizer_of(layer, "sgd")
    train(layer, optimizer, 0, 5)
    new = split(layer, 1, optimizer)
    shares = []
    for i in range(5, 11):
        before = layer.down_proj.detach().clone()
        x, y = task(i)
        optimizer.zero_grad()
        (layer(x) - y).square().mean().backward()
        gradient = layer.down_proj.grad.clone()
        optimizer.step()
        gm.step(layer, optimizer)
        moved = before - layer.down_proj.detach()
        shares.append((moved[new].norm() / (3e-2 * gradient[new]).norm()).item())
        assert torch.allclose(moved[0], 3e-2 * gradient[0], atol=1e-7)
    assert shares == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 1.0], rel=1e-3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, "optimizer: None"),
        (lambda p: torch.optim.RMSprop(p), "RMSprop, want torch.optim.Adam, AdamW or SGD"),
    ],
)
def test_an_optimizer_that_is_not_known_changes_nothing(make: Any, message: str) -> None:
    layer = layer_of()
    train(layer, optimizer_of(layer), 0, 5)
    before = copy.deepcopy(layer.state_dict())
    with pytest.raises((ValueError, NotImplementedError), match=message):
        split(layer, 1, make(layer.parameters()))
    with pytest.raises((ValueError, NotImplementedError), match=message):
        gm.step(layer, make(layer.parameters()))
    with pytest.raises(ValueError, match="does not hold"):
        split(layer, 1, torch.optim.SGD(layer.router.parameters(), lr=0.1))
    assert same(dict(layer.state_dict()), dict(before))


def test_unknown_state_of_a_subclass_is_refused_before_anything_changes() -> None:
    class Noted(torch.optim.AdamW):
        pass

    layer = layer_of()
    optimizer = Noted(layer.parameters())
    train(layer, optimizer, 0, 5)
    optimizer.state[layer.down_proj]["variance_of_mine"] = torch.zeros_like(layer.down_proj)
    before = copy.deepcopy(layer.state_dict())
    with pytest.raises(gm.UnsupportedError, match="variance_of_mine"):
        split(layer, 1, optimizer)
    assert same(dict(layer.state_dict()), dict(before))


def test_a_change_that_fails_half_way_is_taken_back() -> None:
    class Failing(Tensor):
        pass

    first, second = torch.zeros(3), torch.zeros(3)
    change = Change()
    change.write(first, 1, 5.0)
    change.write(second, 1, 5.0)
    tensor, index, _ = change._writes[1]
    change._writes[1] = (tensor, index, torch.zeros(7))  # cannot be written into one place
    with pytest.raises(RuntimeError):
        change.apply()
    assert first.sum() == 0 and second.sum() == 0


# ------------------------------------------------------------------ decisions


def test_experts_split_where_it_pays() -> None:
    layer = layer_of()
    optimizer = optimizer_of(layer)
    losses = train(layer, optimizer, 0, 200)
    report = grown(layer)
    splits = [event for event in report.events if event.kind == "split"]
    assert report.experts == 4 + len(splits) > 4
    assert sum(losses[-5:]) < sum(losses[:5]) / 4
    for event in splits:
        numbers = event.numbers
        assert event.step % OPTIONS.interval == 0
        assert numbers["cosine"] < 0 and numbers["gain"] > numbers["null_gain"] and numbers["excess"] > 0
    steps = [event.step for event in splits]
    assert all(b - a >= OPTIONS.cooldown for a, b in itertools.pairwise(steps))
    assert sum(report.loads.values()) == pytest.approx(1)


def test_no_room_is_reported_once() -> None:
    layer = layer_of(max_experts=5)
    optimizer = optimizer_of(layer)
    train(layer, optimizer, 0, 240)
    report = grown(layer)
    assert report.experts == 5
    kinds = [event.kind for event in report.events]
    assert kinds.count("split") == 1 and kinds.count("full") >= 1
    assert not any(a == b == "full" for a, b in itertools.pairwise(kinds))
    with pytest.raises(ValueError, match="all max_experts = 5 are in use"):
        split(layer, 0, optimizer)


def test_idle_experts_and_numbers_that_are_not_finite() -> None:
    layer = layer_of()
    optimizer = optimizer_of(layer)
    for _ in range(2 * OPTIONS.interval):
        gm.step(layer, optimizer)
    report = grown(layer)
    assert [event.kind for event in report.events] == ["idle"] and report.experts == 4
    for i in range(OPTIONS.interval):
        x, _ = task(i)
        x[::7] = math.nan
        with torch.no_grad():
            layer.train()(x)
        gm.step(layer, optimizer)
    report = grown(layer)
    assert report.experts == 4 and "not finite" in {event.kind for event in report.events}
    state = layer.state_dict()
    for name in ("clans.mean", "clans.axis", "clans.scale", "clans.interval_tokens"):
        assert state[name].isfinite().all(), name


def starved(layer: gm.MoE) -> None:
    """Clan 3 chooses nobody: its centroid looks away from everything."""
    with torch.no_grad():
        layer.router.price[3] = 50.0
    layer.router.price_rate = 0.0


@pytest.mark.parametrize("cost", [0.0, 1.0, math.nan])
def test_an_expert_without_tokens_dies_only_if_the_loss_holds(cost: float) -> None:
    layer = layer_of()
    starved(layer)
    optimizer = optimizer_of(layer)

    def held_out() -> float:
        assert not layer.training and not torch.is_grad_enabled()
        return 1.0 + (cost if math.isinf(layer.router.price[3]) else 0.0)

    train(layer, optimizer, 0, 60)
    assert grown(layer).names.get(3) == "3", "never without held_out"
    kinds = []
    train(layer, optimizer, 60, 100, held_out=held_out)
    kinds = [event.kind for event in grown(layer).events]
    assert layer.training
    if cost == 0.0:
        assert "death" in kinds and 3 not in grown(layer).names
        assert layer.router.price[3] == math.inf and layer.down_proj[3].abs().sum() == 0
        assert optimizer.state[layer.down_proj]["exp_avg"][3].abs().sum() == 0
    else:
        assert "death refused" in kinds and grown(layer).names[3] == "3"
        assert layer.router.price[3] == 50.0
    train(layer, optimizer, 100, 130)


@pytest.mark.parametrize("rise", [0.0, 1.0])
def test_a_child_becomes_independent_only_if_the_loss_holds(rise: float) -> None:
    layer = layer_of(mitosis=gm.MitosisOptions(interval=20, window=5, cooldown=20, min_tokens=10**9))
    optimizer = optimizer_of(layer)
    train(layer, optimizer, 0, 5)
    split(layer, 0, optimizer)
    before = grown(layer)
    train(layer, optimizer, 5, 40, held_out=lambda: 1.0 + rise * (layer.router.price[4] != math.inf).item())
    report = grown(layer)
    kinds = [event.kind for event in report.events]
    if rise:
        assert "promotion refused" in kinds and report.names == before.names
        return
    assert "promotion" in kinds and report.clans == 5 and report.experts == 5
    assert sorted(report.names.values()) == ["0", "1", "2", "3", "4"]
    train(layer, optimizer, 40, 45)


def test_a_dead_leaf_leaves_its_clan_to_its_sibling() -> None:
    layer = layer_of()
    optimizer = optimizer_of(layer)
    train(layer, optimizer, 0, 5)
    new = split(layer, 0, optimizer)
    layer.clans.threshold[0] = 1e9  # everything goes left
    train(layer, optimizer, 5, 80, held_out=lambda: 1.0)
    events = [event for event in grown(layer).events if event.kind == "death"]
    assert events and events[0].slot == new
    assert grown(layer).names.get(0, "").startswith("0")


def test_statistics_find_the_direction_and_the_groups() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(5000, 6, generator=g, dtype=torch.float64)
    x[:, 2] += 3 * (torch.rand(5000, generator=g) < 0.5) + 10
    state = [torch.zeros(1, 6, dtype=torch.float64), first_axis(1, 6), torch.ones(1, dtype=torch.float64)]
    for _ in range(8):
        sums: dict[str, Tensor] = {
            name: torch.zeros(shape, dtype=torch.float64)
            for name, shape in (("tokens", 1), ("sum", (1, 6)), ("power", (1, 6)), ("histogram", (1, 64)))
        }
        mean, axis, scale = state
        gm.functional.observe(
            x, torch.zeros(5000, 1, dtype=torch.int64), num_slots=1, mean=mean, axis=axis, scale=scale, **sums
        )
        found = fit(sums["tokens"], sums["sum"], sums["power"], sums["histogram"], mean, axis, scale)
        state = [found.mean, found.axis, found.scale]
    centered = x - x.mean(dim=0)
    first = torch.linalg.eigh(centered.T @ centered).eigenvectors[:, -1]
    assert (found.axis[0] @ first).abs() > 0.999
    assert torch.allclose(found.mean[0], x.mean(dim=0))
    along = x @ axis[0]
    assert found.threshold.item() == pytest.approx(along.median().item(), abs=0.05)
    assert found.deviation.item() == pytest.approx(along.std().item(), rel=1e-3)
    arguments = found.center.item(), found.deviation.item(), scale.item(), 95.0, 400
    null = null_gain(5000, *arguments)
    assert 2 / math.pi < null < found.gain.item() - 0.05, "two groups stand out"
    assert null == null_gain(5000, *arguments)
    assert null_gain(50, *arguments) > null, "few samples vary more"


def test_outlying() -> None:
    values = torch.tensor([1.0, 1.1, 0.9, 1.0, 3.0, math.nan])
    assert (outlying(values, 1.0) > 0).tolist() == [False, False, False, False, True, False]
    assert (outlying(torch.ones(4), 1.0) < 0).all()


def test_the_probe_is_the_cosine_of_the_two_sides() -> None:
    layer = layer_of(torch.float64, bias=True)
    clans = layer.clans
    clans.candidate.fill_(2)
    clans.candidate_direction.copy_(torch.randn(WIDTH, dtype=torch.float64))
    x, y = task(3, torch.float64)
    (layer(x) - y).square().mean().backward()
    routing = layer.last_routing
    right = (x @ clans.candidate_direction) >= 0
    parts = []
    for side in (~right, right):
        index = torch.where((routing.index == 2) & ~side[:, None], 8, routing.index)
        ours = [p.detach().clone().requires_grad_() for p in
                (layer.gate_up_proj, layer.down_proj, layer.gate_up_proj_bias, layer.down_proj_bias)]  # fmt: skip
        out = gm.functional.experts(
            x, index, routing.weights.detach(), ours[0], ours[1], gate_up_bias=ours[2], down_bias=ours[3]
        )
        # The same gradient of the output as in the whole layer.
        out.backward(2 * (layer(x) - y).detach() / y.numel())
        parts.append(torch.cat([p.grad[2].flatten() for p in ours]))
    left, right_side = parts
    want = torch.stack([left @ right_side, left @ left, right_side @ right_side])
    assert torch.allclose(clans.probe.grad, want, rtol=1e-9)


# -------------------------------------------------- checkpoints, kills, compilers


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, Tensor):
        return torch.equal(a.nan_to_num(123.0), b.nan_to_num(123.0))
    return a == b


def test_a_checkpoint_before_at_and_after_a_split_resumes_bit_for_bit() -> None:
    def states() -> tuple[gm.MoE, Any]:
        layer = layer_of(budget=1.5)
        return layer, optimizer_of(layer)

    layer, optimizer = states()
    saved: dict[int, bytes] = {}
    for i in range(60):
        train(layer, optimizer, i, i + 1)
        buffer = io.BytesIO()
        torch.save([layer.state_dict(), optimizer.state_dict()], buffer)
        saved[i + 1] = buffer.getvalue()
    at = next(event.step for event in grown(layer).events if event.kind == "split")
    for start in (at - 13, at - 1, at, at + 1, at + 2):
        other, its_optimizer = states()
        state, optimizer_state = torch.load(io.BytesIO(saved[start]))
        other.load_state_dict(state)
        its_optimizer.load_state_dict(optimizer_state)
        train(other, its_optimizer, start, 60)
        assert same(other.state_dict(), layer.state_dict()), start
        assert same(its_optimizer.state_dict(), optimizer.state_dict()), start


KILLED = """
import os, signal, sys, torch
sys.path.insert(0, sys.argv[1])
import test_mitosis as t
path, kill_at, stop = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
layer = t.layer_of()
optimizer = t.optimizer_of(layer)
start = 0
if os.path.exists(path):
    start, state, optimizer_state = torch.load(path)
    layer.load_state_dict(state)
    optimizer.load_state_dict(optimizer_state)
for i in range(start, stop):
    t.train(layer, optimizer, i, i + 1)
    if i + 1 == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
    if (i + 1) % 7 == 0 or i + 1 == stop:
        torch.save([i + 1, layer.state_dict(), optimizer.state_dict()], path + ".new")
        os.replace(path + ".new", path)
"""


def test_a_kill_between_checkpoint_and_split_loses_nothing(tmp_path: Path) -> None:
    here = str(Path(__file__).parent)
    environment = {**os.environ, "PYTHONPATH": str(Path(gm.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    layer = layer_of()
    optimizer = optimizer_of(layer)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    train(layer, optimizer, 0, 45)
    torch.set_num_threads(threads)
    at = next(event.step for event in grown(layer).events if event.kind == "split")
    path = str(tmp_path / "state.pt")
    for kill_at, code in ((at, -signal.SIGKILL), (0, 0)):
        done = subprocess.run(
            [sys.executable, "-c", KILLED, here, path, str(kill_at), "45"], env=environment, timeout=300
        )
        assert done.returncode == code
        assert torch.load(path)[0] == (at // 7 * 7 if kill_at else 45)
    _, state, optimizer_state = torch.load(path)
    assert same(state, layer.state_dict()) and same(optimizer_state, optimizer.state_dict())


def test_a_compiled_model_survives_splits_without_compiling_again() -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()  # which reset leaves, with the graphs of earlier tests
    layer = layer_of()
    eager = copy.deepcopy(layer)
    optimizer, its_optimizer = optimizer_of(layer), optimizer_of(eager)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        losses = train(layer, optimizer, 0, 45, model=compiled)
    assert grown(layer).experts > 4
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert losses == pytest.approx(train(eager, its_optimizer, 0, 45), rel=1e-3)
    assert grown(eager).names == grown(layer).names


def test_copies_pickles_and_dtypes() -> None:
    layer = layer_of()
    optimizer = optimizer_of(layer)
    train(layer, optimizer, 0, 21)
    x, _ = task(5)
    want = layer.eval()(x)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(x), want)
    low = copy.deepcopy(layer).bfloat16()
    assert low.clans.direction.dtype == torch.float32 and low.clans.sum.dtype == torch.float64
    assert low(x.bfloat16()).dtype == torch.bfloat16
    assert copy.deepcopy(layer).float().clans.sum.dtype == torch.float64
    fresh = gm.MoE(WIDTH, 24, 4, max_experts=8, device="meta").to_empty(device="cpu")
    fresh.reset_parameters()
    fresh.router.reset_parameters()
    fresh.clans.reset_parameters()
    assert fresh(x).isfinite().all() and torch.isinf(fresh.router.price).sum() == 4


RANK = """
import sys, torch, torch.distributed as dist
sys.path.insert(0, sys.argv[1])
import genesis_moe as gm, test_mitosis as t
rank = int(sys.argv[2])
dist.init_process_group("gloo", init_method="file://" + sys.argv[3], rank=rank, world_size=2)
layer = t.layer_of()
optimizer = t.optimizer_of(layer)
for i in range(60):
    x, y = t.task(2 * i + rank)  # other tokens on each rank
    optimizer.zero_grad()
    (layer(x) - y).square().mean().backward()
    for p in layer.parameters():
        if p.grad is not None:
            dist.all_reduce(p.grad)
            p.grad /= 2
    optimizer.step()
    gm.step(layer, optimizer)
torch.save([layer.state_dict(), optimizer.state_dict(), str(t.grown(layer).events)], sys.argv[4] + sys.argv[2])
dist.destroy_process_group()
"""


def test_ranks_take_the_same_decisions(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(gm.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    here, meet, out = str(Path(__file__).parent), str(tmp_path / "meet"), str(tmp_path / "out")
    ranks = [
        subprocess.Popen([sys.executable, "-c", RANK, here, str(rank), meet, out], env=environment)
        for rank in (0, 1)
    ]
    assert [rank.wait(timeout=300) for rank in ranks] == [0, 0]
    first, second = (torch.load(f"{out}{rank}") for rank in (0, 1))
    assert "split" in first[2]
    assert same(list(first), list(second))


# ------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"router": "mixtral"}, "only mode 'hamiltonian'"),
        ({"router": "deepseek"}, "only mode 'hamiltonian'"),
        ({"solver": "batch"}, "solver 'batch'"),
        ({"max_experts": 3}, "want at least num_experts = 4"),
        ({"router": gm.Router(WIDTH, 4)}, "Router of your own"),
        ({"max_experts": None}, "mitosis: was given without max_experts"),
    ],
)
def test_refusals(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        layer_of(**options)


@pytest.mark.parametrize(
    "options", [{"interval": 30}, {"window": 0}, {"ramp": 0}, {"null_percentile": 100.0}]
)
def test_thresholds_outside_their_range(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"mitosis.{next(iter(options))}"):
        gm.MitosisOptions(**options)


def test_a_layer_that_does_not_grow_has_no_clans() -> None:
    layer = gm.MoE(WIDTH, 24, 4)
    assert layer.clans is None and not any("clans" in name for name in layer.state_dict())
    with pytest.raises(ValueError, match="no max_experts"):
        split(layer, 0, None)
    layer(task(0)[0])
    gm.step(layer, 0.5)
    assert gm.report(layer)["router"].mitosis is None
