"""Which of the library's activations a transformers experts module asks for.

The interface says it in two places: ``act_fn``, and ``_apply_gate`` for the classes that do
not compute ``act_fn(gate) * up``. The first is looked up in a table. The second is Python
code, so it is tried, once per class and constants, on values for which all that the library
can compute differs; what agrees with none of it is refused by name, never approximated.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers.activations import ACT2FN


class Gate(NamedTuple):
    """How pre-activations ``z`` become what ``down_proj`` sees."""

    activation: str
    interleaved: bool = False
    alpha: float = 1.702
    limit: float = 7.0


# Keys of transformers' ACT2FN whose functions the library computes. Those that name the same
# function by another formula (gelu_new, gelu_fast: the tanh form; linear: nothing) share one.
_ACT2FN = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "relu": "relu",
    "relu2": "relu_squared",
    "quick_gelu": "quick_gelu",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
    "linear": "identity",
}
_FUNCTIONS = {
    nn.functional.silu: "silu",
    nn.functional.gelu: "gelu",
    nn.functional.relu: "relu",
    torch.relu: "relu",
    torch.sigmoid: "sigmoid",
    nn.functional.sigmoid: "sigmoid",
    torch.tanh: "tanh",
    nn.functional.tanh: "tanh",
}
_CLASSES: dict[type, str] = {
    nn.Identity: "identity",
    **{type(ACT2FN[key]): activation for key, activation in _ACT2FN.items() if key in ACT2FN},
}

# The constants that gates of transformers' models read from their module.
_CONSTANTS = ("swiglu_alpha", "swiglu_limit", "alpha", "limit")


def activation_name(act_fn: Any) -> str | None:
    """The library's name of an activation function or module, or None if it has none."""
    if isinstance(act_fn, nn.GELU):
        return {"none": "gelu", "tanh": "gelu_tanh"}[act_fn.approximate]
    if isinstance(act_fn, nn.Module):
        return _CLASSES.get(type(act_fn))
    return _FUNCTIONS.get(act_fn)


def gate_of(experts: Any) -> Gate:
    """The gate of an experts module.

    Raises NotImplementedError naming the activation or gate that the library does not have,
    and ValueError where the flag is_concatenated contradicts the module's gate.
    """
    act_fn = getattr(experts, "act_fn", None)
    activation = activation_name(act_fn)
    if activation is None and act_fn is not None and (not experts.has_gate or _has_default_gate(experts)):
        raise _refusal(type(experts).__name__, f"act_fn {_describe(act_fn)}")
    if not experts.has_gate:
        return Gate(str(activation))
    constants = tuple(getattr(experts, name, None) for name in _CONSTANTS)
    gate: Gate = _gate(type(experts), experts.is_concatenated, activation, constants)
    return gate


def _has_default_gate(experts: Any) -> bool:
    return getattr(type(experts)._apply_gate, "__name__", "") == "_default_apply_gate"


def _describe(act_fn: Any) -> str:
    return type(act_fn).__name__ if isinstance(act_fn, nn.Module) else repr(act_fn)


# torch.compile runs it while it traces and takes the answer as a constant. It can, because
# nothing but constants goes in: the module itself could not.
@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _gate(cls: type, is_concatenated: bool, activation: str | None, constants: tuple[Any, ...]) -> Gate:
    return _recognise(cls, is_concatenated, activation, constants)


@functools.lru_cache(maxsize=256)
def _recognise(cls: Any, is_concatenated: bool, activation: str | None, constants: tuple[Any, ...]) -> Gate:
    """The gate that a class's _apply_gate computes, found by trying each that the library has."""
    numbers = dict(zip(_CONSTANTS, constants, strict=True))
    alpha, limit = (
        next((float(numbers[n]) for n in names if isinstance(numbers[n], (int, float))), default)
        for names, default in ((("swiglu_alpha", "alpha"), 1.702), (("swiglu_limit", "limit"), 7.0))
    )
    probe = cls.__new__(cls)
    nn.Module.__init__(probe)
    for name, value in numbers.items():
        setattr(probe, name, value)
    if activation is not None:
        probe.act_fn = lambda z: _reference_activation(activation, z)

    candidates = [
        Gate(activation, interleaved, alpha, limit)
        for activation in ("clipped_swiglu", "clipped_silu")
        for interleaved in (False, True)
    ]
    if activation is not None:
        candidates += [Gate(activation, interleaved) for interleaved in (False, True)]
    for gate in candidates:
        if _computes(probe, gate):
            if gate.interleaved == is_concatenated:
                raise ValueError(
                    f"{cls.__name__}: is_concatenated={is_concatenated}, but its _apply_gate reads "
                    f"{'interleaved' if gate.interleaved else 'concatenated'} gate and up columns"
                )
            return gate
    raise _refusal(cls.__name__, f"_apply_gate of {cls._apply_gate.__qualname__}")


def _refusal(name: str, what: str) -> NotImplementedError:
    known = ", ".join(sorted(set(_ACT2FN.values())))
    return NotImplementedError(
        f'{name}: experts_implementation="genesis_moe" cannot compute its {what}; it knows {known} '
        f"(times up, when gated) and the clipped gates of gpt-oss and DeepSeek-V4. "
        f'Use experts_implementation="grouped_mm" or "eager" for this model.'
    )


def _computes(probe: Any, gate: Gate) -> bool:
    """Whether the probe's _apply_gate is this gate, on values that reach past every clip."""
    edge = abs(gate.limit) if math.isfinite(gate.limit) else 7.0
    one_axis = torch.cat(
        [
            torch.linspace(-8, 8, 33, dtype=torch.float64),
            edge * torch.tensor([-4.0, -1.25, -1.0, -0.75, 0.75, 1.0, 1.25, 4.0], dtype=torch.float64),
            torch.tensor([-100.0, -30.0, 30.0, 100.0], dtype=torch.float64),
        ]
    )
    gate_values, up_values = (v.reshape(-1, 3) for v in torch.meshgrid(one_axis, one_axis, indexing="ij"))
    if gate.interleaved:
        z = torch.stack([gate_values, up_values], dim=-1).flatten(-2)
    else:
        z = torch.cat([gate_values, up_values], dim=-1)
    with torch.no_grad():
        try:
            actual = probe._apply_gate(z)
        except Exception:
            return False
        expected = _reference(gate, gate_values, up_values)
    return actual.shape == expected.shape and torch.allclose(actual, expected, rtol=1e-6, atol=1e-6)


def _reference(gate: Gate, g: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """What the library computes (include/genesis_moe.h), in float64."""
    if gate.activation == "clipped_swiglu":
        g = g.clamp(max=gate.limit)
        return (u.clamp(-gate.limit, gate.limit) + 1) * g * torch.sigmoid(gate.alpha * g)
    if gate.activation == "clipped_silu":
        return nn.functional.silu(g.clamp(max=gate.limit)) * u.clamp(-gate.limit, gate.limit)
    return _reference_activation(gate.activation, g) * u


def _reference_activation(activation: str, z: torch.Tensor) -> torch.Tensor:
    match activation:
        case "silu":
            return nn.functional.silu(z)
        case "gelu":
            return nn.functional.gelu(z)
        case "gelu_tanh":
            return nn.functional.gelu(z, approximate="tanh")
        case "relu":
            return nn.functional.relu(z)
        case "relu_squared":
            return nn.functional.relu(z).square()
        case "quick_gelu":
            return z * torch.sigmoid(1.702 * z)
        case "sigmoid":
            return torch.sigmoid(z)
        case "tanh":
            return torch.tanh(z)
        case "identity":
            return z
    raise ValueError(f"activation: {activation!r}, not one of the library's")
