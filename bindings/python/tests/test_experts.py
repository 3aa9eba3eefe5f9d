"""functional.experts against the plain reference, for NumPy and torch, over shapes, strides and options."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cases import experts_case
from genesis_moe import functional
from genesis_moe.options import ACTIVATIONS

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 4e-2}


def agree(got: Tensor, want: Tensor, dtype: torch.dtype) -> None:
    scale = max(1.0, float(want.abs().max()) if want.numel() else 1.0)
    assert got.shape == want.shape
    assert torch.allclose(got.double(), want, rtol=0, atol=TOLERANCE[dtype] * scale), (
        (got.double() - want).abs().max()
    )


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("gated", [True, False])
def test_activations(activation: str, gated: bool, dtype: torch.dtype) -> None:
    if activation.startswith("clipped") and not gated:
        case = experts_case(2, 4, 3, 2, 1, dtype, gated=False, activation=activation)
        with pytest.raises(ValueError, match="gated"):
            functional.experts(*case.tensors(), **case.options)
        return
    for interleaved in (False, True) if gated else (False,):
        case = experts_case(
            9, 12, 10, 4, 2, dtype, bias=True, activation=activation, gated=gated, interleaved=interleaved
        )
        agree(functional.experts(*case.tensors(), **case.options), case.reference(), dtype)


@pytest.mark.parametrize("activation", ["clipped_swiglu", "clipped_silu"])
def test_clipping_has_its_parameters(activation: str) -> None:
    case = experts_case(
        9, 12, 10, 4, 2, activation=activation, interleaved=True, bias=True, alpha=0.7, limit=0.5
    )
    agree(functional.experts(*case.tensors(), **case.options), case.reference(), torch.float64)


def strided(t: Tensor, how: str) -> Tensor:
    """The same values in another layout."""
    if how == "transposed" and t.dim() >= 2:
        return t.transpose(-1, -2).contiguous().transpose(-1, -2)
    if how == "sliced":
        wide = t.new_zeros(*t.shape[:-1], 2 * t.shape[-1] + 1)
        wide[..., 1::2] = t
        return wide[..., 1::2]
    if how == "offset":
        long = t.new_zeros(t.numel() + 3)
        long[3:] = t.reshape(-1)
        return long[3:].view(t.shape)
    return t


layouts = st.sampled_from(["compact", "transposed", "sliced", "offset"])


@given(
    tokens=st.integers(0, 17),
    hidden=st.integers(1, 33),
    intermediate=st.integers(1, 19),
    experts=st.integers(1, 6),
    slots=st.integers(1, 4),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
    index_dtype=st.sampled_from([torch.int32, torch.int64]),
    sentinels=st.booleans(),
    bias=st.booleans(),
    how=st.tuples(*[layouts] * 5),
)
def test_any_shape_and_stride(
    tokens: int,
    hidden: int,
    intermediate: int,
    experts: int,
    slots: int,
    dtype: torch.dtype,
    index_dtype: torch.dtype,
    sentinels: bool,
    bias: bool,
    how: tuple[str, ...],
) -> None:
    case = experts_case(
        tokens,
        hidden,
        intermediate,
        experts,
        slots,
        dtype,
        sentinels=sentinels,
        bias=bias,
        index_dtype=index_dtype,
    )
    tensors = [strided(t, h) for t, h in zip(case.tensors(), how, strict=True)]
    agree(functional.experts(*tensors, **case.options), case.reference(), dtype)
    if dtype != torch.bfloat16:
        arrays = [t.numpy() for t in tensors]
        biases = {k: v.numpy() for k, v in case.options.items()}
        agree(torch.from_numpy(functional.experts(*arrays, **biases)), case.reference(), dtype)


@pytest.mark.parametrize("weights", ["compact", "transposed"])
def test_many_rows_of_bfloat16(weights: str) -> None:
    """Processors with AVX512_BF16 multiply these in hardware; no size fills a tile."""
    case = experts_case(150, 77, 141, 3, 2, torch.bfloat16, bias=True)
    x, index, gates, *matrices = case.tensors()
    tensors = [x, index, gates, *(strided(t, weights) for t in matrices)]
    agree(functional.experts(*tensors, **case.options), case.reference(), torch.bfloat16)


def test_numpy_takes_negative_and_broadcast_strides() -> None:
    case = experts_case(6, 8, 5, 3, 2)
    x, index, weights, gate_up, down = (t.numpy() for t in case.tensors())
    got = functional.experts(x[::-1], index[::-1], weights[::-1], gate_up[:, ::-1][:, ::-1], down)
    agree(torch.from_numpy(got[::-1].copy()), case.reference(), torch.float64)
    ones = np.broadcast_to(np.float64(1.0), weights.shape)
    case.weights = torch.ones_like(case.weights)
    agree(
        torch.from_numpy(functional.experts(x, index, ones, gate_up, down)), case.reference(), torch.float64
    )


def test_numpy_bfloat16() -> None:
    case = experts_case(6, 8, 5, 3, 2, torch.bfloat16)
    arrays = [
        t.float().numpy().astype(ml_dtypes.bfloat16) if t.dtype == torch.bfloat16 else t.numpy()
        for t in case.tensors()
    ]
    got = functional.experts(*arrays)
    assert got.dtype == ml_dtypes.bfloat16
    agree(torch.from_numpy(got.astype(np.float32)), case.reference(), torch.bfloat16)


def test_transposed_weights_are_views() -> None:
    """gpt-oss keeps [E, H, 2I]; no copy is made, and gradients come back in that layout."""
    case = experts_case(7, 8, 5, 3, 2, interleaved=True, bias=True, activation="clipped_swiglu")
    kept = case.gate_up_proj.transpose(1, 2).contiguous().requires_grad_()
    got = functional.experts(
        case.x, case.index, case.weights, kept.transpose(1, 2), case.down_proj, **case.options
    )
    agree(got, case.reference(), torch.float64)
    got.sum().backward()
    assert kept.grad is not None and kept.grad.shape == kept.shape
    case.gate_up_proj = kept.detach().transpose(1, 2).requires_grad_()
    case.reference().sum().backward()
    assert torch.allclose(kept.grad, case.gate_up_proj.grad.transpose(1, 2), atol=1e-12)


def test_tokens_without_an_expert_get_zeros() -> None:
    case = experts_case(5, 8, 5, 3, 2)
    case.index[2] = 3
    case.index[4] = torch.tensor([9, 2**31 - 1])
    got = functional.experts(*case.tensors())
    assert torch.equal(got[[2, 4]], torch.zeros(2, 8, dtype=torch.float64))
    agree(got, case.reference(), torch.float64)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_bad_token_stays_alone(bad: float) -> None:
    case = experts_case(9, 8, 5, 3, 2, torch.float32)
    before = functional.experts(*case.tensors())
    case.x[4, 3] = bad
    after = functional.experts(*case.tensors())
    others = [0, 1, 2, 3, 5, 6, 7, 8]
    assert torch.equal(after[others], before[others])
    assert not after[4].isfinite().all()


def test_results_do_not_depend_on_threads() -> None:
    import genesis_moe as gm

    case = experts_case(50, 32, 24, 8, 2, torch.float32)
    results = []
    try:
        for threads in (1, 2, 5, None):
            gm.set_num_threads(threads)
            results.append(functional.experts(*case.tensors()))
    finally:
        gm.set_num_threads(None)
    assert all(torch.equal(results[0], other) for other in results[1:])


def test_autocast() -> None:
    case = experts_case(6, 8, 5, 3, 2, torch.float32, bias=True)
    leaves = [t.requires_grad_() for t in (case.x, case.weights, case.gate_up_proj, case.down_proj)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = functional.experts(*case.tensors(), **case.options)
    assert got.dtype == torch.bfloat16
    agree(got.detach(), case.reference().detach(), torch.bfloat16)
    got.float().sum().backward()
    assert all(t.grad is not None and t.grad.dtype == torch.float32 for t in leaves)


def test_low_precision_weights_are_widened() -> None:
    case = experts_case(6, 8, 5, 3, 2, torch.bfloat16)
    weights = case.weights.to(torch.bfloat16).requires_grad_()
    case.weights = weights.detach().float()
    got = functional.experts(case.x, case.index, weights, case.gate_up_proj, case.down_proj)
    agree(got.detach(), case.reference(), torch.bfloat16)
    got.sum().backward()
    assert weights.grad is not None and weights.grad.dtype == torch.bfloat16
