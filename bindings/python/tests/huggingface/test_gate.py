"""Activations and gates: each that is recognised is the function, others are refused by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.integrations.moe import _default_apply_gate

from genesis_moe import functional
from genesis_moe.huggingface import gate as gate_module
from genesis_moe.huggingface.gate import activation_name, gate_of


def module(apply_gate: Any = _default_apply_gate, **attributes: Any) -> Any:
    """An object with what the interface puts on an experts module."""
    flags = {"has_gate": True, "is_concatenated": True, "act_fn": nn.SiLU()}
    experts: Any = type("SomeExperts", (nn.Module,), {"_apply_gate": apply_gate})()
    for name, value in {**flags, **attributes}.items():
        setattr(experts, name, value)
    return experts


def interleaved_silu(self: Any, z: torch.Tensor) -> torch.Tensor:
    return nn.functional.silu(z[..., ::2]) * z[..., 1::2]


def clipped(self: Any, z: torch.Tensor) -> torch.Tensor:
    g, u = z.chunk(2, dim=-1)
    g = g.clamp(max=self.swiglu_limit)
    return (u.clamp(-self.swiglu_limit, self.swiglu_limit) + 1) * g * torch.sigmoid(g * self.swiglu_alpha)


def clipped_silu(self: Any, z: torch.Tensor) -> torch.Tensor:
    g, u = z.chunk(2, dim=-1)
    return nn.functional.silu(g.clamp(max=7.0)) * u.clamp(-7.0, 7.0)


def of_another_attribute(self: Any, z: torch.Tensor) -> torch.Tensor:
    g, u = z.chunk(2, dim=-1)
    return self.act_fn(g) * u * self.scale


def halved(self: Any, z: torch.Tensor) -> torch.Tensor:
    g, u = z.chunk(2, dim=-1)
    return 0.5 * self.act_fn(g) * u


@pytest.mark.parametrize("key", sorted(gate_module._ACT2FN))
def test_each_named_activation_is_the_same_function_in_the_library(key: str) -> None:
    act_fn = ACT2FN[key]
    name = activation_name(act_fn)
    assert name is not None
    z = torch.linspace(-9, 9, 181, dtype=torch.float64).reshape(-1, 1)
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    index = torch.zeros(len(z), 1, dtype=torch.int64)
    y = functional.experts(z, index, torch.ones_like(z), one, one, activation=name, gated=False)
    # gelu_fast rounds sqrt(2/pi) to ten digits.
    torch.testing.assert_close(y, act_fn(z), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(y, gate_module._reference_activation(name, z), rtol=1e-12, atol=1e-12)


def test_functions_and_torch_modules_count_too() -> None:
    assert activation_name(nn.functional.silu) == "silu"
    assert activation_name(nn.GELU()) == "gelu"
    assert activation_name(nn.GELU(approximate="tanh")) == "gelu_tanh"
    assert activation_name(nn.Identity()) == "identity"


@pytest.mark.parametrize("key", sorted(set(ACT2FN) - set(gate_module._ACT2FN) - {"xielu"}))
def test_other_activations_are_refused_by_name(key: str) -> None:
    act_fn = ACT2FN[key]
    for gated in (True, False):
        with pytest.raises(
            NotImplementedError, match=rf"SomeExperts: .* act_fn {type(act_fn).__name__}.*eager"
        ):
            gate_of(module(act_fn=act_fn, has_gate=gated))


def test_default_and_custom_gates_are_recognised() -> None:
    assert gate_of(module()) == ("silu", False, 1.702, 7.0)
    assert gate_of(module(act_fn=nn.ReLU(), has_gate=False)).activation == "relu"
    assert gate_of(module(interleaved_silu, is_concatenated=False))[:2] == ("silu", True)
    for alpha, limit in ((1.702, 7.0), (1.3, 2.5)):
        recognised = gate_of(module(clipped, swiglu_alpha=alpha, swiglu_limit=limit))
        assert recognised == ("clipped_swiglu", False, alpha, limit)
    assert gate_of(module(clipped_silu)) == ("clipped_silu", False, 1.702, 7.0)


@pytest.mark.parametrize("function", [of_another_attribute, halved])
def test_other_gates_are_refused_by_name(function: Any) -> None:
    with pytest.raises(
        NotImplementedError, match=rf"SomeExperts: .* _apply_gate of {function.__name__}.*eager"
    ):
        gate_of(module(function))


def test_a_flag_that_contradicts_the_code_is_refused() -> None:
    with pytest.raises(ValueError, match=r"is_concatenated=False.*reads concatenated"):
        gate_of(module(is_concatenated=False))
    with pytest.raises(ValueError, match=r"is_concatenated=True.*reads interleaved"):
        gate_of(module(interleaved_silu))


def test_a_changed_activation_is_seen() -> None:
    experts = module()
    assert gate_of(experts).activation == "silu"
    experts.act_fn = nn.ReLU()
    assert gate_of(experts).activation == "relu"
