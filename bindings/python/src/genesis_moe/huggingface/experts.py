"""The experts implementation ``"genesis_moe"`` of transformers (5.7 and later).

transformers hands every decorated experts module's forward to a function
``fn(self, hidden_states [T, H], top_k_index [T, K], top_k_weights [T, K]) -> [T, H]``
and describes the module's layout by four flags, all honoured:

=================  ==========================================================================
``is_transposed``    weights are ``[E, H, 2I]`` and ``[E, I, H]``: passed as transposed views
``is_concatenated``  False: gate and up columns alternate
``has_bias``         ``gate_up_proj_bias [E, 2I]`` and ``down_proj_bias [E, H]``
``has_gate``         False: ``up_proj`` and ``act_fn`` alone
=================  ==========================================================================

With expert parallelism ``num_experts`` is the local number and an index >= ``num_experts`` is
absent, which is the library's convention as well.

transformers' own experts in fp8 (FP8Experts, of checkpoints such as DeepSeek-V3's) have a table of their own, where the
implementation is registered too: their blocks of 128 x 128 with float32 scales are the library's. Other blocks,
scales of powers of two (ue8m0), static scales of activations and fp4 are refused by name.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import nn

from genesis_moe import functional, quantization
from genesis_moe.errors import InvalidArgumentError, UnsupportedError
from genesis_moe.huggingface.gate import gate_of
from genesis_moe.huggingface.import_hook import when_imported

NAME = "genesis_moe"


def experts_forward(
    self: nn.Module,
    hidden_states: torch.Tensor,
    top_k_index: torch.Tensor,
    top_k_weights: torch.Tensor,
) -> torch.Tensor:
    """``sum_k w_tk * down_proj[e] act(gate_up_proj[e] x_t)`` with ``e = index_tk``, differentiable.

    hidden_states: ``[T, H]``. top_k_index: ``[T, K]`` integers; ids >= E are absent.
    top_k_weights: ``[T, K]``; float32 weights get float32 gradients also beside bfloat16
    hidden states. Returns ``[T, H]`` in the dtype of hidden_states. Raises
    NotImplementedError, naming it, for an activation or gate that the library has not.
    """
    module: Any = self
    gate = gate_of(module)
    up_name = "gate_up_proj" if module.has_gate else "up_proj"
    up, down = getattr(module, up_name), module.down_proj
    scales = _scales(module, up_name, up)
    if module.is_transposed:
        up, down = up.transpose(-2, -1), down.transpose(-2, -1)
        scales = _transposed(scales[0]), _transposed(scales[1])
    bias = getattr(module, f"{up_name}_bias") if module.has_bias else None
    # The residual stream may be wider than the weights; the weights decide, as in
    # transformers' own grouped_mm. Weights of 8 bits go with any.
    wanted = up.dtype
    if wanted == quantization.E4M3:
        wanted = hidden_states.dtype if bias is None else bias.dtype
    output: torch.Tensor = functional.experts(
        hidden_states.to(wanted),
        top_k_index,
        top_k_weights,
        up,
        down,
        gate_up_bias=bias,
        down_bias=module.down_proj_bias if module.has_bias else None,
        gate_up_scale=scales[0],
        down_scale=scales[1],
        activation=gate.activation,
        gated=module.has_gate,
        interleaved=gate.interleaved,
        alpha=gate.alpha,
        limit=gate.limit,
        layer=getattr(module, "layer_number", 0),
    )
    return output.to(hidden_states.dtype)


def _scales(module: Any, up_name: str, up: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Those of weights in 8 bits, ours or transformers'."""
    if up.dtype != quantization.E4M3:
        if up.dtype == torch.int8:
            raise _refusal(module, "weights in fp4")
        if quantization.is_quantized(module):
            raise InvalidArgumentError(
                f"{up_name}: dtype {up.dtype}, want float8_e4m3fn: it was quantized and then cast; cast before"
            )
        return None, None
    scales = quantization.scale_of(module, up_name), quantization.scale_of(module, "down_proj")
    if getattr(module, "activation_scheme", "dynamic") != "dynamic":
        raise _refusal(module, f"activation_scheme {module.activation_scheme!r}")
    block = getattr(module, "block_size", (128, 128))
    if block is None or tuple(block) != (128, 128):
        raise _refusal(module, f"block_size {block}")
    for scale in scales:
        if scale is not None and scale.dtype != torch.float32:
            raise _refusal(module, f"scales of {scale.dtype}")
    return scales


def _transposed(scale: torch.Tensor | None) -> torch.Tensor | None:
    return None if scale is None else scale.transpose(-2, -1)


def _refusal(module: Any, what: str) -> UnsupportedError:
    return UnsupportedError(
        f'{type(module).__name__}: experts_implementation="genesis_moe" cannot compute its {what}; of 8 bits it knows '
        f"float8_e4m3fn with a float32 scale for each 128 x 128 and dynamic scales of activations"
    )


def register() -> bool:
    """Adds the implementation to transformers'; False for a release that has no such table."""
    try:
        from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
    except ImportError:
        return False
    ALL_EXPERTS_FUNCTIONS.register(NAME, experts_forward)
    when_imported("transformers.integrations.finegrained_fp8", _register_fp8)
    return True


def _register_fp8(integration: ModuleType) -> None:
    table = getattr(integration, "ALL_FP8_EXPERTS_FUNCTIONS", None)  # releases differ
    if table is not None:
        table.register(NAME, experts_forward)


def require() -> None:
    """Raises ImportError unless this release of transformers can use the implementation."""
    import transformers

    if not hasattr(transformers.PreTrainedModel, "set_experts_implementation"):
        raise ImportError(
            f"transformers {transformers.__version__} has no PreTrainedModel.set_experts_implementation, "
            f"which genesis_moe.inject needs: pip install 'transformers>=5.7'"
        )
