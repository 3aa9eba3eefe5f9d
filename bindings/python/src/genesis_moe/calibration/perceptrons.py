"""Finding the gated MLPs of a dense model, and refusing what cannot be converted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from genesis_moe.errors import InvalidArgumentError, UnsupportedError

_PARTS = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Perceptron:
    """A gated MLP: ``down_proj(act(gate_proj(x)) * up_proj(x))``, and where it stands.

    name: of the module, relative to the base model. layer: the decoder layer that it is part of.
    """

    name: str
    attribute: str
    layer: nn.Module
    module: Any
    activation: str

    @property
    def hidden_size(self) -> int:
        return int(self.module.gate_proj.weight.shape[1])

    @property
    def intermediate_size(self) -> int:
        return int(self.module.gate_proj.weight.shape[0])

    def weights(self) -> tuple[Tensor, Tensor, Tensor]:
        """gate [I, H], up [I, H] and down [H, I] in float32."""
        found = [getattr(self.module, part).weight.detach().float() for part in _PARTS]
        return found[0], found[1], found[2]

    def replace(self, module: nn.Module) -> None:
        setattr(self.layer, self.attribute, module)


def decoder_layers(model: Any) -> nn.ModuleList:
    """The list of decoder layers of a transformers model."""
    base = model.base_model
    layers = getattr(base, "layers", None)
    if not isinstance(layers, nn.ModuleList) or len(layers) == 0:
        raise UnsupportedError(
            f"model: {type(model).__name__} has no list `layers` of decoder layers; want a dense model "
            "of the Llama family (LLaMA, Mistral, Qwen2, Qwen3, SmolLM2, Gemma)"
        )
    return layers


def find(model: Any) -> list[Perceptron]:
    """The MLP of every decoder layer, in order; raises UnsupportedError naming what is not convertible."""
    found: list[Perceptron] = []
    seen: dict[int, str] = {}
    for number, layer in enumerate(decoder_layers(model)):
        module: Any = getattr(layer, "mlp", None)
        name = f"layers.{number}.mlp"
        if type(module).__name__ == "SparseMLP":
            raise InvalidArgumentError(f"model: {name} is a SparseMLP; the model is calibrated already")
        _check_projections(name, module)
        found.append(Perceptron(name, "mlp", layer, module, _activation(name, module)))
        for part in _PARTS:
            key = getattr(module, part).weight.data_ptr()
            if key in seen:
                raise UnsupportedError(
                    f"model: {name}.{part} shares its weight with {seen[key]}; tied MLP weights cannot be converted"
                )
            seen[key] = f"{name}.{part}"
        _check_function(found[-1])
    return found


def _check_projections(name: str, module: Any) -> None:
    if module is None or not all(hasattr(module, part) for part in _PARTS):
        parts = ", ".join(key for key, _ in module.named_children()) if module is not None else "nothing"
        raise UnsupportedError(
            f"model: {name} has {parts}; want a gated MLP with {', '.join(_PARTS)}, as in LLaMA"
        )
    for part in _PARTS:
        linear: Any = getattr(module, part)
        weight: Any = getattr(linear, "weight", None)
        if not isinstance(weight, Tensor) or not weight.dtype.is_floating_point or weight.dim() != 2:
            kind = f"{type(linear).__name__} of dtype {getattr(weight, 'dtype', None)}"
            raise UnsupportedError(
                f"model: {name}.{part} is a {kind}; quantised weights cannot be converted: "
                "load the model dequantised (float32 or bfloat16)"
            )
        if type(linear) is not nn.Linear:
            raise UnsupportedError(
                f"model: {name}.{part} is a {type(linear).__name__}, want torch.nn.Linear, "
                "neither quantised nor adapted"
            )
        if weight.is_meta:
            raise UnsupportedError(f"model: {name}.{part} has no values (device meta)")
        if weight.element_size() < 2:
            raise UnsupportedError(
                f"model: {name}.{part} has dtype {weight.dtype}; quantised weights cannot be converted"
            )
        if getattr(linear, "bias", None) is not None:
            raise UnsupportedError(f"model: {name}.{part} has a bias, which the conversion does not keep")
        if not bool(torch.isfinite(weight).all()):
            raise InvalidArgumentError(f"model: {name}.{part} has weights that are NaN or infinite")


def _activation(name: str, module: Any) -> str:
    from genesis_moe.huggingface.gate import activation_name

    found = activation_name(getattr(module, "act_fn", None))
    if found is None:
        raise UnsupportedError(
            f"model: {name}.act_fn is {type(getattr(module, 'act_fn', None)).__name__}, "
            "which the experts of the library do not have"
        )
    return found


def _check_function(perceptron: Perceptron) -> None:
    """A look-alike that computes something else must not be converted as if it did not."""
    module = perceptron.module
    weight = module.gate_proj.weight
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, perceptron.hidden_size, generator=generator).to(weight)
    training = module.training
    module.eval()
    with torch.no_grad():
        wanted = module.down_proj(module.act_fn(module.gate_proj(x)) * module.up_proj(x))
        found = module(x)
    module.train(training)
    if not torch.allclose(found, wanted, rtol=1e-2, atol=1e-4 * float(wanted.abs().max()) + 1e-30):
        raise UnsupportedError(
            f"model: {perceptron.name} ({type(module).__name__}) does not compute "
            "down_proj(act_fn(gate_proj(x)) * up_proj(x))"
        )
