"""Many threads on one engine, and blocks of arguments that never mix."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import torch

import genesis_moe as gm
from cases import experts_case
from genesis_moe import _call, functional


def test_concurrent_forwards_and_backwards_are_bit_equal() -> None:
    cases = [experts_case(5 + i, 16, 12, 4, 2, torch.float32) for i in range(4)]
    for case in cases:
        case.x.requires_grad_()

    def run(i: int) -> tuple[torch.Tensor, torch.Tensor]:
        case = cases[i % 4]
        y = functional.experts(*case.tensors())
        (gradient,) = torch.autograd.grad(y.square().sum(), case.x)
        return y.detach(), gradient

    alone = [run(i) for i in range(4)]
    gate = threading.Barrier(8)

    def many(i: int) -> bool:
        gate.wait()
        for _ in range(50):
            y, gradient = run(i)
            if not (torch.equal(y, alone[i % 4][0]) and torch.equal(gradient, alone[i % 4][1])):
                return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(many, range(8)))
    assert 1 <= len(_call.experts_forward.free) <= 9


def test_one_layer_in_many_threads() -> None:
    layer = gm.MoE(16, 12, 4).eval()
    x = torch.randn(9, 16)
    want = layer(x).detach()
    with ThreadPoolExecutor(8) as pool, torch.no_grad():
        assert all(torch.equal(y, want) for y in pool.map(lambda _: layer(x).detach(), range(64)))


def test_a_failing_call_gives_its_block_back() -> None:
    case = experts_case(5, 16, 12, 4, 2, torch.float32)
    functional.experts(*case.tensors())
    free = len(_call.experts_forward.free)
    for _ in range(5):
        try:
            functional.experts(case.x, case.index, case.weights, case.gate_up_proj, case.down_proj[:, :, :-1])
        except gm.InvalidArgumentError:
            continue
        raise AssertionError("down_proj was too small")
    assert len(_call.experts_forward.free) == free


def test_errors_are_of_their_thread() -> None:
    case = experts_case(5, 16, 12, 4, 2, torch.float32)

    def spoil(i: int) -> bool:
        try:
            functional.experts(
                case.x, case.index, case.weights[:, : i % 2], case.gate_up_proj, case.down_proj
            )
        except gm.InvalidArgumentError as error:
            return f"[5, {i % 2}]" in str(error)
        return False

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(spoil, range(200)))
