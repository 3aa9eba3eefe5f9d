"""The experts implementation against transformers' own: models of each family, and every flag."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, use_experts_implementation

import genesis_moe as gm
from huggingface.tiny_models import build, loss_and_gradients, relative_difference

TOLERANCE = 1e-5


def test_a_model_gives_the_same_logits_and_gradients(case: str, input_ids: torch.Tensor) -> None:
    model = build(case)
    logits, gradients = loss_and_gradients(model, input_ids)
    model.set_experts_implementation("genesis_moe")
    ours, our_gradients = loss_and_gradients(model, input_ids)
    assert relative_difference(ours, logits) < TOLERANCE
    assert our_gradients.keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert relative_difference(our_gradients[name], gradient) < TOLERANCE, name


def test_the_library_did_the_work(input_ids: torch.Tensor) -> None:
    model = build("mixtral", experts_implementation="genesis_moe")
    before = gm.engine_counters()["expert_rows"]
    model(input_ids)
    assert (
        gm.engine_counters()["expert_rows"] - before == 2 * 2 * input_ids.numel()
    )  # layers, experts per token


def test_from_pretrained_takes_the_name(input_ids: torch.Tensor, tmp_path: Any) -> None:
    model = build("mixtral")
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path, experts_implementation="genesis_moe")
    assert loaded.config._experts_implementation == "genesis_moe"
    assert relative_difference(loaded(input_ids).logits, model(input_ids).logits) < TOLERANCE


class _Interleaved:
    def _apply_gate(self: Any, z: torch.Tensor) -> torch.Tensor:
        return self.act_fn(z[..., ::2]) * z[..., 1::2]


def experts_module(
    *,
    is_transposed: bool = False,
    is_concatenated: bool = True,
    has_bias: bool = False,
    has_gate: bool = True,
    act: str = "silu",
    dtype: torch.dtype = torch.float32,
) -> Any:
    """A decorated experts module of 5 experts, H = 12, I = 8, as transformers' models write them."""

    class Experts(nn.Module):
        def __init__(self, config: Any) -> None:
            super().__init__()
            self.num_experts, self.act_fn = 5, ACT2FN[act]
            up_shape, down_shape = ((16 if has_gate else 8), 12), (12, 8)
            if is_transposed:
                up_shape, down_shape = up_shape[::-1], down_shape[::-1]
            name = "gate_up_proj" if has_gate else "up_proj"
            generator = torch.Generator().manual_seed(3)
            shapes = {name: up_shape, "down_proj": down_shape}
            if has_bias:
                shapes |= {f"{name}_bias": (16 if has_gate else 8,), "down_proj_bias": (12,)}
            for key, shape in shapes.items():
                value = 0.4 * torch.randn(5, *shape, generator=generator, dtype=torch.float64)
                self.register_parameter(key, nn.Parameter(value.to(dtype)))

        def forward(self, hidden_states: Any, top_k_index: Any, top_k_weights: Any) -> Any:
            raise AssertionError("transformers asks the implementation instead")

    if not is_concatenated:
        Experts._apply_gate = _Interleaved._apply_gate  # type: ignore[attr-defined]
    decorate = use_experts_implementation(
        is_transposed=is_transposed, is_concatenated=is_concatenated, has_bias=has_bias, has_gate=has_gate
    )
    return decorate(Experts)(SimpleNamespace(_experts_implementation="genesis_moe"))


def routing(dtype: torch.dtype = torch.float32, absent: bool = False) -> tuple[Any, Any, Any]:
    """Hidden states, indices and weights of 9 tokens with 3 slots each; some absent (5 or more) if asked."""
    generator = torch.Generator().manual_seed(4)
    hidden_states = torch.randn(9, 12, generator=generator, dtype=torch.float64).to(dtype)
    index = torch.rand(9, 5, generator=generator).argsort(dim=1)[:, :3].clone()
    weights = torch.rand(9, 3, generator=generator, dtype=torch.float64)
    if absent:
        index[::2, 1], index[4] = 5, torch.tensor([5, 6, 9])
        weights[index >= 5] = 0
    weights = weights if dtype == torch.float64 else weights.float()
    return hidden_states.requires_grad_(), index, weights.requires_grad_()


def outputs(module: Any, implementation: str, inputs: tuple[Any, Any, Any]) -> dict[str, torch.Tensor]:
    """The output of a forward, and every gradient of a fixed linear function of it."""
    module.config._experts_implementation = implementation
    hidden_states, index, weights = inputs
    module.zero_grad()
    hidden_states.grad = weights.grad = None
    y = module(hidden_states, index, weights)
    y.backward(torch.linspace(-1, 1, y.numel()).reshape(y.shape).to(y.dtype))
    named = {"hidden_states": hidden_states, "top_k_weights": weights, **dict(module.named_parameters())}
    return {"output": y.detach(), **{name: tensor.grad.clone() for name, tensor in named.items()}}


GATED = [
    {"is_transposed": t, "is_concatenated": c, "has_bias": b}
    for t, c, b in itertools.product((False, True), repeat=3)
]
PLAIN = [
    {"is_transposed": t, "has_bias": b, "has_gate": False}
    for t, b in itertools.product((False, True), repeat=2)
]


@pytest.mark.parametrize("flags", GATED + PLAIN, ids=lambda f: "-".join(f"{k}={v}" for k, v in f.items()))
@pytest.mark.parametrize("absent", [False, True], ids=["all slots", "absent slots"])
def test_every_flag(flags: dict[str, bool], absent: bool) -> None:
    module = experts_module(**flags)
    inputs = routing(absent=absent)
    expected = outputs(module, "batched_mm", inputs)
    for name, actual in outputs(module, "genesis_moe", inputs).items():
        assert actual.dtype == expected[name].dtype, name
        # batched_mm computes absent slots by expert E-1 and then multiplies by the weight 0;
        # the gradient of that weight is no one's and ours is 0.
        if name == "top_k_weights":
            expected[name][inputs[1] >= 5] = 0
        assert relative_difference(actual, expected[name]) < TOLERANCE, name


@pytest.mark.parametrize(
    "act", ["gelu", "gelu_pytorch_tanh", "relu", "relu2", "quick_gelu", "sigmoid", "tanh", "linear"]
)
@pytest.mark.parametrize("has_gate", [True, False])
def test_every_activation(act: str, has_gate: bool) -> None:
    module, inputs = experts_module(act=act, has_gate=has_gate, dtype=torch.float64), routing(torch.float64)
    expected = outputs(module, "batched_mm", inputs)
    for name, actual in outputs(module, "genesis_moe", inputs).items():
        assert relative_difference(actual, expected[name]) < 1e-12, name


def test_bfloat16_keeps_float32_weights_and_their_gradient() -> None:
    module, inputs = experts_module(dtype=torch.bfloat16), routing(torch.bfloat16)
    actual = outputs(module, "genesis_moe", inputs)
    assert actual["output"].dtype == torch.bfloat16
    assert actual["top_k_weights"].dtype == torch.float32
    precise = experts_module(dtype=torch.float64)
    precise.load_state_dict({name: p.double() for name, p in module.state_dict().items()})
    hidden_states, index, weights = inputs
    exact_inputs = (
        hidden_states.detach().double().requires_grad_(),
        index,
        weights.detach().double().requires_grad_(),
    )
    expected = outputs(precise, "batched_mm", exact_inputs)
    theirs = outputs(module, "batched_mm", inputs)
    for name, value in actual.items():
        error = relative_difference(value.double(), expected[name])
        # Not further from the exact value than transformers' own, or than two roundings of bfloat16.
        assert error < max(relative_difference(theirs[name].double(), expected[name]), 2**-7), name


def test_hidden_states_wider_than_the_weights() -> None:
    module = experts_module(dtype=torch.bfloat16)
    hidden_states, index, weights = routing(torch.float32)
    assert module(hidden_states, index, weights).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = experts_module()(hidden_states, index, weights)
    assert y.dtype == torch.float32
    assert relative_difference(y, experts_module()(hidden_states, index, weights)) < 0.02


def test_an_unknown_dtype_is_refused_by_name() -> None:
    hidden_states, index, weights = routing(torch.float16)
    with pytest.raises(gm.InvalidArgumentError, match=r"hidden_states: dtype torch.float16"):
        experts_module(dtype=torch.float16)(hidden_states, index, weights)


def test_no_tokens() -> None:
    hidden_states, index, weights = routing()
    assert experts_module()(hidden_states[:0], index[:0], weights[:0]).shape == (0, 12)


@pytest.mark.parametrize("flags", [{}, GATED[-1], PLAIN[0]], ids=["plain", "gpt-oss", "no gate"])
def test_torch_compile(flags: dict[str, bool]) -> None:
    module, inputs = experts_module(**flags), routing()
    expected = outputs(module, "genesis_moe", inputs)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    hidden_states, index, weights = inputs
    y = compiled(hidden_states, index, weights)
    torch.testing.assert_close(y, expected["output"], rtol=0, atol=0)


def test_the_name_is_registered() -> None:
    assert "genesis_moe" in ALL_EXPERTS_FUNCTIONS
