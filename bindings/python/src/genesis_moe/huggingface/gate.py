"""Which of the library's activations a transformers experts module asks for.

The interface says it in two places: ``act_fn``, and ``_apply_gate`` for the classes that do
not compute ``act_fn(gate) * up``. The first is looked up in a table. The second is Python
code, so it is compared with what the library can compute on a probe, once per function and
constants; what compares equal to none of it is refused by name, never approximated.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import nn


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
_CLASSES: dict[type, str] = {nn.Identity: "identity"}


def _fill_classes() -> None:
    from transformers.activations import ACT2FN

    for key, activation in _ACT2FN.items():
        if key in ACT2FN:
            _CLASSES[type(ACT2FN[key])] = activation


def activation_name(act_fn: Any) -> str | None:
    """The library's name of an activation function or module, or None if it has none."""
    if isinstance(act_fn, nn.GELU):
        return {"none": "gelu", "tanh": "gelu_tanh"}[act_fn.approximate]
    if isinstance(act_fn, nn.Module):
        if len(_CLASSES) == 1:
            _fill_classes()
        return _CLASSES.get(type(act_fn))
    return _FUNCTIONS.get(act_fn)


def gate_of(experts: nn.Module) -> Gate:
    """The gate of an experts module; NotImplementedError, naming the cause, if we have none."""
    signature = _signature(experts)
    gate = _known.get(signature)
    if gate is None:
        gate = _recognise(experts, signature)
    return gate


class _Signature(NamedTuple):
    """All that a gate depends on; alpha and limit under the names that transformers uses."""

    apply_gate: Any
    act_fn: Any
    has_gate: bool
    is_concatenated: bool
    alpha: float
    limit: float


_known: dict[_Signature, Gate] = {}


def _signature(experts: Any) -> _Signature:
    act_fn = getattr(experts, "act_fn", None)
    # Modules compare by identity, which would fill the table with one entry a layer.
    kind = type(act_fn) if isinstance(act_fn, nn.Module) and not isinstance(act_fn, nn.GELU) else act_fn
    return _Signature(
        apply_gate=type(experts)._apply_gate if experts.has_gate else None,
        act_fn=kind,
        has_gate=experts.has_gate,
        is_concatenated=experts.is_concatenated,
        alpha=_constant(experts, ("swiglu_alpha", "alpha"), 1.702),
        limit=_constant(experts, ("swiglu_limit", "limit"), 7.0),
    )


def _constant(experts: Any, names: tuple[str, ...], default: float) -> float:
    for name in names:
        value = getattr(experts, name, None)
        if isinstance(value, (int, float)):
            return float(value)
    return default


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _recognise(experts: Any, signature: _Signature) -> Gate:
    name = type(experts).__name__
    activation = activation_name(getattr(experts, "act_fn", None))
    if not signature.has_gate:
        if activation is None:
            raise _refusal(name, f"act_fn {_describe(experts)}")
        return _remember(signature, Gate(activation))

    candidates = [
        Gate("clipped_swiglu", layout, signature.alpha, signature.limit) for layout in (False, True)
    ]
    if activation is not None:
        candidates += [Gate(activation, layout) for layout in (False, True)]
    for gate in candidates:
        if _computes(experts, gate):
            if gate.interleaved == signature.is_concatenated:
                raise ValueError(
                    f"{name}: is_concatenated={signature.is_concatenated}, but its _apply_gate reads "
                    f"{'interleaved' if gate.interleaved else 'concatenated'} gate and up columns"
                )
            return _remember(signature, gate)
    if activation is None and _is_default(signature.apply_gate):
        raise _refusal(name, f"act_fn {_describe(experts)}")
    raise _refusal(name, f"_apply_gate of {signature.apply_gate.__qualname__}")


def _remember(signature: _Signature, gate: Gate) -> Gate:
    _known[signature] = gate
    return gate


def _is_default(apply_gate: Any) -> bool:
    return getattr(apply_gate, "__name__", "") == "_default_apply_gate"


def _describe(experts: Any) -> str:
    act_fn = getattr(experts, "act_fn", None)
    return type(act_fn).__name__ if isinstance(act_fn, nn.Module) else repr(act_fn)


def _refusal(name: str, what: str) -> NotImplementedError:
    known = ", ".join(sorted(set(_ACT2FN.values())))
    return NotImplementedError(
        f'{name}: experts_implementation="genesis_moe" cannot compute its {what}; it knows {known} '
        f"(times up, when gated) and the clipped SwiGLU of gpt-oss. "
        f'Use experts_implementation="grouped_mm" or "eager" for this model.'
    )


def _computes(experts: Any, gate: Gate) -> bool:
    """Whether the module's _apply_gate is this gate, on values that reach past every clip."""
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
        probe = torch.stack([gate_values, up_values], dim=-1).flatten(-2)
    else:
        probe = torch.cat([gate_values, up_values], dim=-1)
    with torch.no_grad():
        try:
            actual = experts._apply_gate(probe)
        except Exception:
            return False
        expected = _reference(gate, gate_values, up_values)
    return actual.shape == expected.shape and torch.allclose(actual, expected, rtol=1e-6, atol=1e-6)


def _reference(gate: Gate, g: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """What the library computes (include/genesis_moe.h), in float64."""
    if gate.activation == "clipped_swiglu":
        g = g.clamp(max=gate.limit)
        return (u.clamp(-gate.limit, gate.limit) + 1) * g * torch.sigmoid(gate.alpha * g)
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
