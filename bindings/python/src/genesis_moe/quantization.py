"""Experts' weights in 8 bits, for inference: ``quantize``.

A weight becomes float8_e4m3fn with a float32 scale for each block of 128 x 128, as DeepSeek-V3 keeps them and
transformers names them: ``gate_up_proj`` and ``gate_up_proj_scale_inv``, ``down_proj`` and ``down_proj_scale_inv``.
All four are buffers: no optimiser sees them, and ``state_dict`` does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from genesis_moe import functional
from genesis_moe.errors import InvalidArgumentError, UnsupportedError
from genesis_moe.options import blocks

E4M3 = torch.float8_e4m3fn
SCALE = "_scale_inv"
_WEIGHTS = "gate_up_proj", "up_proj", "down_proj", "shared_gate_up_proj", "shared_down_proj"


def quantize(model: nn.Module) -> nn.Module:
    """Turns the weights of the model's experts into 8 bits, in place, for inference; returns it in eval mode.

    Of a number 4 bits of precision are left, with a scale for each 128 x 128 of a weight; activations are
    rounded likewise on their way into a product, with a scale for each 128 neighbours. See
    :func:`genesis_moe.functional.experts`. Routers, biases and everything else stay as they are.

    model: one with :class:`genesis_moe.MoE` layers, or a transformers model whose experts implementation
    is "genesis_moe". Refused by name, before anything is changed: layers that grow (max_experts), sharded
    experts, weights that are not float32, bfloat16 or, on the CPU, float64, or not finite. Experts that
    are in 8 bits already are left alone.

    Afterwards the model does not train: ``train()`` of a MoE layer, and ``backward`` through the experts,
    raise UnsupportedError. ``state_dict`` has codes and scales; a MoE layer that is given such a state
    becomes one of 8 bits. Casts (``model.to(torch.bfloat16)``) leave codes and scales of a MoE as they
    are; those of a transformers model are then refused, so cast before. ``save_pretrained`` refuses too:
    its formats have no place for them. Save the model before, or its ``state_dict`` with torch.save, and
    load that into a model that was quantized.
    """
    from genesis_moe.moe import MoE

    found = False
    for path, module in model.named_modules():
        name = path or "the layer"
        if isinstance(module, MoE):
            found = True
            _check_layer(name, module)
        elif _is_hosted(module):
            found = True
            _check_hosted(name, module)
        elif type(module).__name__ == "SparseMLP" and type(module).__module__.startswith("genesis_moe."):
            raise UnsupportedError(
                f"model: {name} is a SparseMLP of genesis_moe.calibrate, whose experts have no 8 bits"
            )
    if not found:
        raise InvalidArgumentError(
            f"model: {type(model).__name__} has neither a genesis_moe.MoE nor experts of transformers "
            f'with experts_implementation="genesis_moe"'
        )
    made = [
        (module, weight, *_quantized(f"{path}.{weight}" if path else weight, getattr(module, weight)))
        for path, module in model.named_modules()
        if isinstance(module, MoE) or _is_hosted(module)
        for weight in weights_of(module)
    ]
    for module, weight, codes, scale in made:  # all or none
        _replace(module, weight, codes, scale)
    return model.eval()


@torch.no_grad()
def _quantized(name: str, weight: Tensor) -> tuple[Tensor, Tensor]:
    try:
        codes, scale = functional.quantize(weight.detach())
    except (InvalidArgumentError, UnsupportedError) as error:
        raise type(error)(f"model: {name}: {error}") from error
    if weight.is_cuda and not bool(scale.isfinite().all()):  # where the library reads nothing back
        raise InvalidArgumentError(f"model: {name}: not finite, want finite numbers")
    return codes, scale


def weights_of(module: Any) -> Iterator[str]:
    """The names of a module's projections that are not in 8 bits."""
    for name in _WEIGHTS:
        value = getattr(module, name, None)
        if isinstance(value, Tensor) and value.dtype != E4M3:
            yield name


def is_quantized(module: Any) -> bool:
    """Whether a layer's experts are in 8 bits."""
    return f"down_proj{SCALE}" in module._buffers


def refuse_save(model: nn.Module) -> None:
    """What save_pretrained of a transformers model does first."""
    if any(_is_hosted(module) and is_quantized(module) for module in model.modules()):
        raise UnsupportedError(
            "save_pretrained: the experts were quantized by genesis_moe, which transformers' formats do not know; want "
            "save_pretrained before quantize, or torch.save(model.state_dict(), ...)"
        )


def scale_of(module: Any, weight: str) -> Tensor | None:
    """The scales of a projection in 8 bits; None for another."""
    scale: Tensor | None = getattr(module, weight + SCALE, None)
    return scale


def _replace(module: nn.Module, name: str, quantized: Tensor, scale: Tensor) -> None:
    delattr(module, name)
    module.register_buffer(name, quantized)
    module.register_buffer(name + SCALE, scale)


def _check_layer(name: str, layer: Any) -> None:
    if layer.clans is not None:
        raise UnsupportedError(f"model: {name} has max_experts; experts that split train, and have no 8 bits")
    if layer.expert_parallel is not None:
        raise UnsupportedError(f"model: the experts of {name} are sharded; want them whole for 8 bits")


def _is_hosted(module: Any) -> bool:
    """Whether a module is the experts of a transformers model."""
    flags = "is_transposed", "has_bias", "has_gate", "is_concatenated"
    return all(hasattr(module, flag) for flag in flags) and hasattr(module, "down_proj")


def _check_hosted(name: str, module: Any) -> None:
    chosen = module.config._experts_implementation
    if chosen != "genesis_moe":
        raise InvalidArgumentError(
            f'experts_implementation: {chosen!r} for {name}, want "genesis_moe": the others cannot multiply 8 bits'
        )


# ------------------------------------------------- what a layer does that is in 8 bits


def allocate(layer: nn.Module) -> None:
    """Makes a layer one of 8 bits without values, to load them."""
    for name in list(weights_of(layer)):
        weight = getattr(layer, name)
        experts, rows, columns = weight.shape
        scales = experts, blocks(rows), blocks(columns)
        _replace(
            layer,
            name,
            torch.empty_like(weight, dtype=E4M3, requires_grad=False),
            weight.new_empty(scales, dtype=torch.float32),
        )


def before_loading(layer: Any, state: dict[str, Any], prefix: str, errors: list[str]) -> bool:
    """A state with scales makes the layer one of 8 bits; one without does not go into a layer that is.

    False with an error: then nothing is to be loaded.
    """
    for name in _WEIGHTS:
        value = state.get(prefix + name)
        if not isinstance(value, Tensor):
            continue
        if (value.dtype == E4M3) != (prefix + name + SCALE in state):
            errors.append(
                f"{prefix}{name}: dtype {value.dtype} {'without' if value.dtype == E4M3 else 'with'} {name}{SCALE}"
            )
            return False
        if value.dtype == E4M3 and not is_quantized(layer):
            _check_layer(prefix.rstrip(".") or "the layer", layer)
            allocate(layer)
            layer.eval()
        elif value.dtype != E4M3 and is_quantized(layer):
            errors.append(f"{prefix}{name}: dtype {value.dtype}, want {E4M3}: the layer was quantized")
            return False
    return True


def apply_to(layer: nn.Module, apply: Callable[[], Any]) -> Any:
    """Moves a layer as nn.Module does, but casts neither codes nor scales."""
    kept = {name: value for name, value in layer._buffers.items() if name + SCALE in layer._buffers}
    kept |= {name: value for name, value in layer._buffers.items() if name.endswith(SCALE)}
    result = apply()
    for name, before in kept.items():
        after = layer._buffers[name]
        if before is not None and after is not None and after.dtype != before.dtype:
            layer._buffers[name] = before.to(after.device)
    return result
