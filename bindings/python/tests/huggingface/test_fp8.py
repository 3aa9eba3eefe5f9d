"""Experts in 8 bits in transformers' models: quantized by us, and transformers' own FP8Experts."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import transformers.modeling_utils  # noqa: F401  what every model imports, and what our registration waits for
from torch import Tensor
from transformers import MixtralConfig
from transformers.integrations.moe import use_experts_implementation

import genesis_moe as gm
import reference
from genesis_moe import functional
from huggingface.tiny_models import build, relative_difference

fp8 = pytest.importorskip("transformers.integrations.finegrained_fp8")
E4M3 = torch.float8_e4m3fn


def quantized(case: str, **config: Any) -> Any:
    return gm.quantize(build(case, experts_implementation="genesis_moe", **config))


def perplexity(model: Any, input_ids: Tensor) -> float:
    with torch.no_grad():
        return math.exp(model(input_ids, labels=input_ids).loss)


def test_a_model_is_near_what_it_was(case: str, input_ids: Tensor) -> None:
    model = build(case, experts_implementation="genesis_moe")
    before = perplexity(model, input_ids)
    experts = [m for m in gm.quantize(model).modules() if hasattr(m, "is_transposed")]
    assert experts and all(m.down_proj.dtype == E4M3 for m in experts)
    after = perplexity(model, input_ids)
    assert after != before and abs(math.log(after / before)) < 0.1
    again = copy.deepcopy(model)
    assert perplexity(again, input_ids) == after


def test_an_injected_model(input_ids: Tensor) -> None:
    """Router, prices and budget are as ever; bfloat16 outside the experts."""
    model = gm.inject(build("mixtral").bfloat16(), router="hamiltonian")
    before = perplexity(model, input_ids)
    gm.quantize(model)
    after = perplexity(model, input_ids)
    assert math.isfinite(after) and abs(math.log(after / before)) < 0.2
    generated = model.generate(input_ids[:, :4], max_new_tokens=3, do_sample=False)
    assert generated.shape == (3, 7)


def test_a_state_round_trips(input_ids: Tensor, tmp_path: Any) -> None:
    model = quantized("mixtral")
    torch.save(model.state_dict(), tmp_path / "state.pt")
    other = quantized("mixtral")
    with torch.no_grad():
        for tensor in other.state_dict().values():
            tensor.zero_() if tensor.dtype != E4M3 else tensor.view(torch.uint8).zero_()
    other.load_state_dict(torch.load(tmp_path / "state.pt"))
    assert torch.equal(other(input_ids).logits, model(input_ids).logits)


def test_it_must_be_ours(input_ids: Tensor) -> None:
    with pytest.raises(
        gm.InvalidArgumentError, match=r"experts_implementation: 'eager' for .*, want \"genesis_moe\""
    ):
        gm.quantize(build("mixtral"))
    model = quantized("mixtral")
    with pytest.raises(gm.UnsupportedError, match="no backward pass"):
        model(input_ids, labels=input_ids).loss.backward()
    model.set_experts_implementation("eager")
    with pytest.raises(RuntimeError):  # of torch, which multiplies no float8 with float32
        model(input_ids)


def test_what_could_not_come_back_is_refused(input_ids: Tensor, tmp_path: Any) -> None:
    model = quantized("mixtral")
    with pytest.raises(gm.UnsupportedError, match="save_pretrained: the experts were quantized"):
        model.save_pretrained(tmp_path)
    with pytest.raises(
        gm.InvalidArgumentError, match=r"gate_up_proj: dtype torch\.bfloat16, want float8_e4m3fn"
    ):
        model.to(torch.bfloat16)(input_ids)


# ------------------------------------------------------------ transformers' own experts


class Experts(fp8.FP8Experts):  # type: ignore[misc]
    """A class of its own, since the decorator changes the one that it is given."""


def fp8_experts(implementation: str = "genesis_moe", **options: Any) -> Any:
    settings = {"block_size": (128, 128), **{k: v for k, v in options.items() if k in INIT}}
    config = MixtralConfig(
        **{
            "hidden_size": 140,
            "intermediate_size": 136,
            "num_local_experts": 4,
            **{k: v for k, v in options.items() if k not in INIT},
        }
    )
    config._experts_implementation = implementation
    kind = type("Experts", (Experts,), {})
    torch.manual_seed(3)
    decorated = use_experts_implementation(
        experts_class=kind,
        experts_interface=fp8.ALL_FP8_EXPERTS_FUNCTIONS,
        has_gate=settings.get("has_gate", True),
    )
    module: Any = decorated(config, **settings)
    for name in ("gate_up_proj" if module.has_gate else "up_proj", "down_proj"):
        weight = getattr(module, name)
        scale = getattr(module, name + "_scale_inv")
        if (
            weight.dtype == E4M3
            and scale.dtype == torch.float32
            and tuple(module.block_size or ()) == (128, 128)
        ):
            codes, scales = functional.quantize(torch.randn(weight.shape) / weight.shape[2] ** 0.5)
            weight.data.copy_(codes)
            scale.data.copy_(scales)
    return module.requires_grad_(False)


INIT = ("block_size", "activation_scheme", "scale_fmt", "has_gate")


def plain_linear(x: Tensor, weight: Tensor, scale: Tensor, *_: Any, **__: Any) -> Tensor:
    """What transformers' kernel computes, which needs a GPU: activations by 128 columns, weights by 128 x 128."""
    rounded = reference.round_e4m3(x.double())
    decoded = reference.decode(weight[None], scale[None])[0]
    return (rounded @ decoded.T).to(x.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "options",
    [{}, {"has_gate": False}, {"swiglu_limit": 0.5}, {"swiglu_limit": 0.5, "swiglu_alpha": 1.5}],
    ids=str,
)
def test_as_eager(monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], dtype: torch.dtype) -> None:
    monkeypatch.setattr(fp8, "fp8_linear", plain_linear)
    ours, eager = fp8_experts(**options), fp8_experts("eager", **options)
    x, index = torch.randn(11, 140).to(dtype), torch.rand(11, 5).argsort(1)[:, :3]  # of 5: the last is absent
    weights = torch.rand(11, 3)
    got, want = ours(x, index, weights), eager(x, index, weights)
    # An h close to a tie may be rounded to its other neighbour; eager rounds to dtype between the products too.
    assert relative_difference(got.float(), want.float()) < {torch.float32: 5e-3, torch.bfloat16: 3e-2}[dtype]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block_size": (64, 128)}, r"block_size \(64, 128\)"),
        ({"block_size": None}, "block_size None"),
        ({"activation_scheme": "static"}, "activation_scheme 'static'"),
        ({"scale_fmt": "ue8m0"}, "scales of torch.float8_e8m0fnu"),
        ({"expert_dtype": "fp4"}, "weights in fp4"),
    ],
)
def test_other_formats_are_refused(options: dict[str, Any], message: str) -> None:
    module = fp8_experts(**options)
    with pytest.raises(gm.UnsupportedError, match=message):
        module(torch.randn(2, 140), torch.zeros(2, 1, dtype=torch.int64), torch.ones(2, 1))


def test_scales_of_another_shape_are_refused() -> None:
    """transformers keeps two rows of scales for gates and ups that fit one block."""
    module = fp8_experts(intermediate_size=32, hidden_size=128)
    with pytest.raises(gm.InvalidArgumentError, match=r"gate_up_scale: shape \[4, 2, 1\], want \[4, 1, 1\]"):
        module(torch.randn(2, 128), torch.zeros(2, 1, dtype=torch.int64), torch.ones(2, 1))
