"""Clans and their slots, and closed experts, through the functional API of torch and NumPy."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import reference
from genesis_moe import InvalidArgumentError, RouterOptions, functional

OPS = torch.ops.genesis_moe
SLOTS, HIDDEN = 6, 5


def trees(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Clan 0 is slot 4; clan 1 is node 0: slot 1, or node 2: slot 0 or 3. Node 1 is free."""
    return {
        "root": torch.tensor([4, -1], dtype=torch.int32),
        "children": torch.tensor([[1, -3], [99, -99], [0, 3]], dtype=torch.int32),
        "direction": torch.randn(3, HIDDEN, dtype=dtype),
        "threshold": torch.randn(3, dtype=dtype) / 4,
    }


def plain_slots(x: Tensor, index: Tensor, tree: dict[str, Tensor]) -> list[list[int]]:
    return reference.descend(x, index, **tree, num_slots=SLOTS)[0].tolist()


def sums(*names: str) -> dict[str, Tensor]:
    shapes = {
        "sum": (SLOTS, HIDDEN),
        "power": (SLOTS, HIDDEN),
        "histogram": (SLOTS, functional.HISTOGRAM_BINS),
    }
    names = names or ("tokens", "skipped", "sum", "square", "power", "binding_sum", "histogram")
    return {name: torch.zeros(shapes.get(name, (SLOTS,)), dtype=torch.float64) for name in names}


def frame() -> dict[str, Tensor]:
    axis = torch.randn(SLOTS, HIDDEN, dtype=torch.float64)
    return {
        "mean": torch.randn(SLOTS, HIDDEN, dtype=torch.float64) / 4,
        "axis": axis / axis.norm(dim=1, keepdim=True),
        "scale": torch.full((SLOTS,), 2.0, dtype=torch.float64),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64])
def test_slots_are_those_of_the_trees(dtype: torch.dtype, index_dtype: torch.dtype) -> None:
    x, tree = torch.randn(40, HIDDEN, dtype=dtype), trees(dtype)
    index = torch.randint(0, 3, (40, 2), dtype=index_dtype)
    slot_index, counts = functional.descend(x, index, **tree, num_slots=SLOTS)
    assert slot_index.dtype == index_dtype
    assert slot_index.tolist() == plain_slots(x, index, tree)
    assert (
        counts.tolist() == torch.bincount(slot_index.long().flatten(), minlength=SLOTS + 1)[:SLOTS].tolist()
    )

    arrays = {name: tensor.numpy() for name, tensor in tree.items()}
    from_numpy, counts_numpy = functional.descend(x.numpy(), index.numpy(), **arrays, num_slots=SLOTS)
    assert from_numpy.dtype == index.numpy().dtype
    assert (from_numpy == slot_index.numpy()).all()
    assert (counts_numpy == counts.numpy()).all()


def test_bfloat16_and_clans_that_have_not_split() -> None:
    x = torch.randn(9, HIDDEN, dtype=torch.bfloat16)
    index = torch.randint(0, 2, (9, 1))
    root = torch.tensor([3, 5], dtype=torch.int32)
    slot_index, _ = functional.descend(x, index, root, num_slots=SLOTS)
    assert slot_index.tolist() == [[3 + 2 * clan] for (clan,) in index.tolist()]
    tree = trees()
    slot_index, _ = functional.descend(x, index, **tree, num_slots=SLOTS)
    assert slot_index.tolist() == plain_slots(x, index, tree)


def test_observe_adds_the_sums() -> None:
    x, index, binding = torch.randn(30, HIDDEN), torch.randint(0, SLOTS + 1, (30, 2)), torch.randn(30, 2)
    x[7, 3] = float("nan")
    given, into = frame(), sums()
    for part in (slice(0, 11), slice(11, 30)):
        functional.observe(x[part], index[part], num_slots=SLOTS, binding=binding[part], **given, **into)
    want, _ = reference.observe(x, index, sums(), num_slots=SLOTS, binding=binding, **given)
    assert want["skipped"].any() and want["tokens"].all()
    for name, value in want.items():
        torch.testing.assert_close(into[name], value, rtol=1e-12, atol=1e-12)

    whole = {name: tensor.numpy() for name, tensor in sums().items()}
    arrays = {name: tensor.numpy() for name, tensor in given.items()}
    functional.observe(x.numpy(), index.numpy(), num_slots=SLOTS, binding=binding.numpy(), **arrays, **whole)
    for name, value in whole.items():
        assert (value == into[name].numpy()).all(), name


def test_operators_keep_the_rules_and_compile() -> None:
    torch._dynamo.reset()
    warnings.simplefilter("ignore")
    x, index, tree = torch.randn(12, HIDDEN), torch.randint(0, 2, (12, 2)), trees()
    slot_index, _ = functional.descend(x, index, **tree, num_slots=SLOTS)
    given, into = frame(), sums("tokens", "sum", "power", "histogram")
    torch.library.opcheck(OPS.clans_descend.default, (x.requires_grad_(), index, *tree.values(), SLOTS))
    order = ("tokens", "skipped", "sum", "square", "power", "binding_sum", "histogram")
    arguments: tuple[Any, ...] = (
        x.detach(),
        slot_index,
        None,
        *given.values(),
        *(into.get(name) for name in order),
        SLOTS,
    )
    torch.library.opcheck(OPS.clans_observe.default, arguments)

    def step(x: Tensor, into: dict[str, Tensor]) -> Tensor:
        slots, _ = functional.descend(x * 1, index, **tree, num_slots=SLOTS)
        functional.observe(x * 1, slots, num_slots=SLOTS, **given, **into)
        return slots + 0 * (into["tokens"].sum() > 0)

    eager, compiled = sums("tokens", "power"), sums("tokens", "power")
    assert (step(x, eager) == torch.compile(step, fullgraph=True)(x, compiled)).all()
    assert eager["tokens"].sum() == 24
    for name, value in eager.items():
        assert torch.equal(value, compiled[name])


def test_a_split_does_not_recompile() -> None:
    """Shapes are static: what a split writes are values."""
    torch._dynamo.reset()
    warnings.simplefilter("ignore")
    x, index, tree = torch.randn(12, HIDDEN), torch.zeros(12, 1, dtype=torch.int64), trees()
    tree["root"][0] = 2
    compiled = torch.compile(
        lambda: functional.descend(x * 1, index, **tree, num_slots=SLOTS)[0], fullgraph=True
    )
    assert compiled().unique().tolist() == [2]
    tree["children"][1] = torch.tensor([2, 5])
    tree["root"][0] = -2
    with torch._dynamo.config.patch(error_on_recompile=True):
        slots = compiled()
    assert slots.tolist() == plain_slots(x, index, tree)
    assert slots.unique().tolist() == [2, 5]


def test_refusals_name_the_argument() -> None:
    x, index, tree = torch.randn(4, HIDDEN), torch.zeros(4, 1, dtype=torch.int64), trees()
    tree["children"][2, 1] = -1
    with pytest.raises(
        InvalidArgumentError, match=r"children: node 0 \(-1\) is reached twice, now from clan 1"
    ):
        functional.descend(x, index, **tree, num_slots=SLOTS)
    with pytest.raises(InvalidArgumentError, match="root: 4 for clan 0, want a slot 0 to 3"):
        functional.descend(x, index, **trees(), num_slots=4)
    with pytest.raises(InvalidArgumentError, match="root: is missing"):
        functional.descend(x, index, None, num_slots=SLOTS)
    with pytest.raises(InvalidArgumentError, match=r"root: list, want a torch\.Tensor"):
        functional.descend(x, index, [0, 1], num_slots=SLOTS)
    with pytest.raises(InvalidArgumentError, match="axis: is missing"):
        functional.observe(x, index, num_slots=SLOTS, **sums("power"))
    with pytest.raises(InvalidArgumentError, match="tokens: dtype float32, want one of"):
        functional.observe(x, index, num_slots=SLOTS, tokens=torch.zeros(SLOTS))
    fixed = np.zeros(SLOTS)
    fixed.setflags(write=False)
    with pytest.raises(InvalidArgumentError, match="tokens: is read-only"):
        functional.observe(x.numpy(), index.numpy(), num_slots=SLOTS, tokens=fixed)


def test_closed_experts_are_never_chosen() -> None:
    options = RouterOptions(top_k=2)
    x, centroids = torch.randn(50, HIDDEN), torch.randn(6, HIDDEN, requires_grad=True)
    price = torch.tensor([0.0, float("inf"), 0.1, float("inf"), 0.0, 0.0])
    routing = functional.route(x, centroids, options=options, price=price)
    assert not {1, 3} & set(routing.index.flatten().tolist())
    open_centroids = centroids.detach()[[0, 2, 4, 5]].requires_grad_()
    few = functional.route(x, open_centroids, options=options, price=price[[0, 2, 4, 5]])
    assert torch.equal(torch.tensor([0, 2, 4, 5])[few.index], routing.index)
    assert torch.equal(few.weights, routing.weights)
    upstream = torch.randn_like(routing.weights)
    (routing.weights * upstream).sum().backward()
    (few.weights * upstream).sum().backward()
    assert centroids.grad is not None
    assert (centroids.grad[[1, 3]] == 0).all()
    torch.testing.assert_close(centroids.grad[[0, 2, 4, 5]], open_centroids.grad)
    report = functional.report(options, routing.logits.detach(), routing.index, price)
    fewer = functional.report(options, few.logits.detach(), few.index, price[[0, 2, 4, 5]])
    numbers = {name: value for name, value in vars(fewer).items() if isinstance(value, float | int)}
    assert len(numbers) > 10
    for name, value in numbers.items():
        assert getattr(report, name) == pytest.approx(value, rel=1e-5, abs=1e-7), name
    functional.update(options, routing.counts, 50, price, rate=0.02)
    assert price[[1, 3]].isinf().all()
    assert price[[0, 2, 4, 5]].sum().abs() < 1e-6
    with pytest.raises(InvalidArgumentError, match="want at least top_k = 5 open ones"):
        functional.route(x, centroids, options=RouterOptions(top_k=5), price=price)
