"""Experts in float8_e4m3fn: the functions on NumPy and torch, layers that are quantized, and transformers' models."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import Tensor

import genesis_moe as gm
import reference
from genesis_moe import functional
from genesis_moe.options import experts_scalars

E4M3 = torch.float8_e4m3fn
OPS = torch.ops.genesis_moe


def eight(
    tokens: int,
    hidden: int,
    intermediate: int,
    experts: int,
    slots: int,
    dtype: torch.dtype,
    bias: bool = False,
) -> dict[str, Any]:
    """Arguments of functional.experts."""
    torch.manual_seed(tokens)
    accumulator = torch.float64 if dtype == torch.float64 else torch.float32
    up, up_scale = functional.quantize(torch.randn(experts, 2 * intermediate, hidden) / hidden**0.5)
    down, down_scale = functional.quantize(torch.randn(experts, hidden, intermediate) / intermediate**0.5)
    return {
        "hidden_states": torch.randn(tokens, hidden).to(dtype),
        "top_k_index": torch.rand(tokens, experts).argsort(1)[:, :slots],
        "top_k_weights": torch.rand(tokens, slots).to(accumulator),
        "gate_up_proj": up,
        "down_proj": down,
        "gate_up_scale": up_scale,
        "down_scale": down_scale,
        "gate_up_bias": torch.randn(experts, 2 * intermediate).to(dtype) if bias else None,
        "down_bias": torch.randn(experts, hidden).to(dtype) if bias else None,
    }


def wanted(given: dict[str, Any]) -> Tensor:
    double = {
        k: v.double() if isinstance(v, Tensor) and v.is_floating_point() and v.dtype != E4M3 else v
        for k, v in given.items()
    }
    order = ("hidden_states", "top_k_index", "top_k_weights", "gate_up_proj", "down_proj")
    rest = {k: v for k, v in double.items() if k not in order}
    return reference.experts(*(double[k] for k in order), **rest)


def off(got: Tensor, want: Tensor) -> float:
    return float((got.detach().double() - want.detach()).norm() / want.detach().norm())


def numpy_of(value: Any) -> Any:
    """As NumPy; 8 bits as uint8."""
    if not isinstance(value, Tensor):
        return value
    return value.view(torch.uint8).numpy() if value.dtype == E4M3 else value.numpy()


# ------------------------------------------------------------------------ functions


def test_every_number_is_torchs() -> None:
    """A weight of all halves between e4m3 numbers, with a scale of 1."""
    numbers = torch.arange(0x7F, dtype=torch.uint8).view(E4M3).float()
    middles = (numbers[1:] + numbers[:-1]) / 2
    weight = torch.cat([numbers, middles, middles * (1 + 2**-20), middles * (1 - 2**-20)])
    weight = torch.cat([weight, -weight])[None, None, :]
    weight = torch.cat([weight, torch.zeros(1, 1, -weight.shape[-1] % 127)], -1).reshape(1, -1, 127)[:, :128]
    weight = torch.cat([weight, torch.full((1, weight.shape[1], 1), 448.0)], -1)
    quantized, scale = functional.quantize(weight)
    assert scale.tolist() == [[[1.0]]]
    assert torch.equal(quantized.view(torch.uint8), weight.to(E4M3).view(torch.uint8))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_quantize(dtype: torch.dtype) -> None:
    weight = torch.randn(2, 200, 300).to(dtype)
    quantized, scale = functional.quantize(weight.transpose(1, 2))
    assert quantized.dtype == E4M3 and scale.shape == (2, 3, 2)
    largest = weight[1, :128, :128].float().abs().max()
    assert scale[1, 0, 0] == largest / 448
    decoded = reference.decode(quantized, scale)
    assert (
        (decoded - weight.transpose(1, 2).double()).abs() <= weight.transpose(1, 2).double().abs() / 16 + 1e-5
    ).all()
    narrow = dtype == torch.bfloat16
    array = weight.float().numpy().astype(ml_dtypes.bfloat16) if narrow else weight.numpy()
    codes, scales = functional.quantize(array.transpose(0, 2, 1))
    assert codes.dtype == np.uint8
    assert np.array_equal(codes, numpy_of(quantized)) and np.array_equal(scales, scale.numpy())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    "shape", [(5, 256, 128, 4, 2), (1, 130, 190, 3, 2), (40, 300, 65, 2, 1), (0, 8, 4, 2, 1), (3, 7, 5, 4, 2)]
)
def test_forward(shape: tuple[int, ...], dtype: torch.dtype, bias: bool) -> None:
    given = eight(*shape, dtype, bias)
    got = functional.experts(**given)
    assert got.dtype == dtype and got.shape == shape[:2]
    if not shape[0]:
        return
    # float64 differs by its sums alone; the others may round h to its other neighbour.
    assert off(got, wanted(given)) < {torch.float32: 3e-3, torch.bfloat16: 6e-3, torch.float64: 1e-7}[dtype]
    if dtype != torch.bfloat16:
        arrays = {k: numpy_of(v) for k, v in given.items()}
        assert np.array_equal(functional.experts(**arrays), got.numpy())
        for name in ("gate_up_proj", "down_proj"):
            arrays[name] = arrays[name].view(ml_dtypes.float8_e4m3fn)
        assert np.array_equal(functional.experts(**arrays), got.numpy())


def test_autocast_leaves_the_weights() -> None:
    given = eight(5, 256, 128, 4, 2, torch.float32, bias=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = functional.experts(**given)
    assert got.dtype == torch.bfloat16
    assert off(got, wanted(given)) < 0.05


def test_no_gradient() -> None:
    given = eight(5, 256, 128, 4, 2, torch.float32)
    given["hidden_states"].requires_grad_()
    output = functional.experts(**given)
    with pytest.raises(gm.UnsupportedError, match="gate_up_proj: dtype float8_e4m3fn has no backward pass"):
        output.sum().backward()
    assert given["hidden_states"].grad is None


def test_operators() -> None:
    given = eight(5, 256, 128, 4, 2, torch.float32, bias=True)
    functional.experts(**given)  # registers the operators
    order = [
        "hidden_states",
        "top_k_index",
        "top_k_weights",
        "gate_up_proj",
        "gate_up_bias",
        "down_proj",
        "down_bias",
        "gate_up_scale",
        "down_scale",
    ]
    arguments = (*(given[name] for name in order), *experts_scalars("silu", True, False, 1.702, 7.0))
    # Its test of the schema multiplies every input, which torch cannot do with float8.
    checks = ["test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic"]
    torch.library.opcheck(OPS.experts_forward_e4m3.default, arguments, test_utils=checks)
    torch.library.opcheck(OPS.experts_quantize.default, (torch.randn(2, 130, 3),), test_utils=checks)


def test_compiled() -> None:
    torch._dynamo.reset()
    given = eight(5, 256, 128, 4, 2, torch.float32)
    compiled = torch.compile(lambda kw: functional.experts(**kw), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(given), functional.experts(**given))
    layer = gm.quantize(gm.MoE(256, 128, 4, shared_experts=1))
    with torch.no_grad():
        x = torch.randn(3, 256)
        got = torch.compile(layer, fullgraph=True, backend="aot_eager")(x)
        assert torch.equal(got, layer(x))


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"gate_up_scale": None}, "gate_up_scale: is missing"),
    ({"down_scale": torch.ones(4, 1, 1)}, "down_scale: shape"),
    ({"down_scale": torch.ones(4, 2, 1).double()}, "down_scale: dtype float64"),
    ({"down_scale": 1.0}, "down_scale: float, want a torch.Tensor"),
    ({"down_proj": torch.randn(4, 256, 128)}, "down_proj: dtype float32, want one of .float8_e4m3fn"),
    ({"gate_up_proj": torch.randn(4, 256, 256)}, "down_proj: dtype float8_e4m3fn, want one of .float32"),
    (
        {"gate_up_proj": torch.randn(4, 256, 256), "down_proj": torch.randn(4, 256, 128)},
        "gate_up_scale: is given",
    ),
    (
        {"gate_up_proj": torch.zeros(4, 256, 256).to(torch.float8_e5m2)},
        "gate_up_proj: dtype torch.float8_e5m2",
    ),
    ({"hidden_states": torch.zeros(5, 256).to(E4M3)}, "hidden_states: dtype float8_e4m3fn"),
    ({"hidden_states": torch.zeros(5, 256).half()}, "hidden_states: dtype torch.float16"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_refused(change: dict[str, Any], message: str) -> None:
    given = {**eight(5, 256, 128, 4, 2, torch.float32), **change}
    with pytest.raises(gm.InvalidArgumentError, match=message):
        functional.experts(**given)


def test_quantize_refuses() -> None:
    weight = torch.zeros(2, 3, 4)
    weight[1, 2, 3] = math.nan
    with pytest.raises(gm.InvalidArgumentError, match=r"weight: not finite.* at \[1, 2, 3\]"):
        functional.quantize(weight)
    for wrong in (torch.zeros(3, 4), torch.zeros(2, 3, 4).half(), np.zeros((3, 4), np.float32), [1.0]):
        with pytest.raises(gm.InvalidArgumentError, match="weight: "):
            functional.quantize(wrong)
    with pytest.raises(gm.InvalidArgumentError, match="hidden_states: dtype uint8"):
        functional.experts(np.zeros((5, 256), np.uint8), *(numpy_of(torch.zeros(1)) for _ in range(4)))


# --------------------------------------------------------------------------- layers


def layer(**options: Any) -> gm.MoE:
    torch.manual_seed(0)
    return gm.MoE(140, 66, 4, top_k=2, **{"shared_experts": 1, "bias": True, **options})


def test_a_layer_is_near_what_it_was() -> None:
    before = layer()
    x = torch.randn(3, 7, 140)
    after = gm.quantize(copy.deepcopy(before))
    assert not after.training
    assert {n for n, _ in before.named_parameters()} - {n for n, _ in after.named_parameters()} == {
        "gate_up_proj", "down_proj", "shared_gate_up_proj", "shared_down_proj"
    }  # fmt: skip
    assert after.gate_up_proj.dtype == E4M3 and after.gate_up_proj_scale_inv.shape == (4, 2, 2)
    assert 1e-3 < off(after(x), before.eval()(x).double()) < 0.1
    again = copy.deepcopy(after)
    assert gm.quantize(again) is again and torch.equal(again(x), after(x))


def test_states_round_trip() -> None:
    x = torch.randn(9, 140)
    quantized = gm.quantize(layer())
    file = io.BytesIO()
    torch.save(quantized.state_dict(), file)
    file.seek(0)
    model = torch.nn.Sequential(layer(), torch.nn.Identity())
    fresh = model[0]
    state = {f"0.{name}": value for name, value in torch.load(file).items()}
    assert model.load_state_dict(state).missing_keys == []
    assert isinstance(fresh, gm.MoE) and torch.equal(fresh(x), quantized(x))
    with pytest.raises(RuntimeError, match=r"gate_up_proj: dtype torch\.float32, want torch.float8_e4m3fn"):
        fresh.load_state_dict(layer().state_dict())
    without = {name: value for name, value in quantized.state_dict().items() if "scale_inv" not in name}
    with pytest.raises(RuntimeError, match=r"gate_up_proj: dtype torch\.float8_e4m3fn without"):
        layer().load_state_dict(without, strict=False)


def test_casts_leave_codes_and_scales() -> None:
    quantized = gm.quantize(layer())
    codes = quantized.gate_up_proj.view(torch.uint8).clone()
    scales = quantized.gate_up_proj_scale_inv.clone()
    for cast in (torch.nn.Module.bfloat16, torch.nn.Module.double, torch.nn.Module.float):
        quantized = cast(quantized)
        assert torch.equal(quantized.gate_up_proj.view(torch.uint8), codes)
        assert torch.equal(quantized.gate_up_proj_scale_inv, scales)
        dtype = quantized.down_proj_bias.dtype
        assert quantized(torch.randn(3, 140, dtype=dtype)).dtype == dtype
    assert quantized.to("meta").gate_up_proj.device.type == "meta"


def growing() -> gm.MoE:
    return gm.MoE(16, 8, 2, top_k=1, max_experts=4)


def sharded() -> gm.MoE:
    made = layer()
    made.expert_parallel = object()  # type: ignore[assignment]
    return made


def shard(model: gm.MoE) -> None:
    """Refused before the mesh is asked anything but its dimensions."""
    from genesis_moe.distributed import shard_experts

    shard_experts(model, SimpleNamespace(ndim=1))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gm.quantize(growing()), "the layer has max_experts"),
        (lambda: gm.quantize(sharded()), "the experts of the layer are sharded"),
        (
            lambda: shard(gm.quantize(layer())),
            "the experts of the layer are float8_e4m3fn, and cannot be sharded",
        ),
        (lambda: gm.quantize(layer()).train(), "train: the experts are float8_e4m3fn"),
        (lambda: torch.nn.Sequential(gm.quantize(layer())).train(), "train: the experts"),
        (lambda: gm.quantize(layer()).reset_parameters(), "reset_parameters: the experts are"),
        (lambda: gm.quantize(layer())(torch.randn(2, 140)).sum().backward(), "no backward pass"),
    ],
)
def test_layers_refuse(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(gm.UnsupportedError, match=message):
        call()


def test_nothing_to_quantize() -> None:
    with pytest.raises(gm.InvalidArgumentError, match="model: Linear has neither"):
        gm.quantize(torch.nn.Linear(2, 2))
    broken = layer()
    with torch.no_grad():
        broken.down_proj[0, 1, 2] = math.inf
    with pytest.raises(gm.InvalidArgumentError, match=r"\[0, 1, 2\]"):
        gm.quantize(broken)


def test_a_refusal_changes_nothing() -> None:
    model = torch.nn.Sequential(layer(), layer())
    with torch.no_grad():
        model[1].down_proj[1, 2, 3] = math.nan
    with pytest.raises(gm.InvalidArgumentError, match=r"model: 1\.down_proj: weight: .*\[1, 2, 3\]"):
        gm.quantize(model)
    assert model.training
    assert all(weight.dtype == torch.float32 for weight in model.parameters())


def test_a_refused_state_is_not_loaded() -> None:
    dense = layer().state_dict()
    quantized = gm.quantize(layer())
    before = {name: value.clone() for name, value in quantized.state_dict().items() if name != "_extra_state"}
    with pytest.raises(RuntimeError, match="the layer was quantized"):
        quantized.load_state_dict(dense)
    for name, value in before.items():
        assert torch.equal(quantized.state_dict()[name].view(torch.uint8), value.view(torch.uint8)), name
