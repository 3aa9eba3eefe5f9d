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
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from genesis_moe import functional
from genesis_moe.huggingface.gate import gate_of

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
    if module.is_transposed:
        up, down = up.transpose(-2, -1), down.transpose(-2, -1)
    # The residual stream may be wider than the weights; the weights decide, as in
    # transformers' own grouped_mm.
    output: torch.Tensor = functional.experts(
        hidden_states.to(up.dtype),
        top_k_index,
        top_k_weights,
        up,
        down,
        gate_up_bias=getattr(module, f"{up_name}_bias") if module.has_bias else None,
        down_bias=module.down_proj_bias if module.has_bias else None,
        activation=gate.activation,
        gated=module.has_gate,
        interleaved=gate.interleaved,
        alpha=gate.alpha,
        limit=gate.limit,
        layer=getattr(module, "layer_number", 0),
    )
    return output.to(hidden_states.dtype)


def register() -> bool:
    """Adds the implementation to transformers'; False for a release that has no such table."""
    try:
        from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
    except ImportError:
        return False
    ALL_EXPERTS_FUNCTIONS.register(NAME, experts_forward)
    return True


def require() -> None:
    """Raises ImportError unless this release of transformers can use the implementation."""
    import transformers

    if not hasattr(transformers.PreTrainedModel, "set_experts_implementation"):
        raise ImportError(
            f"transformers {transformers.__version__} has no PreTrainedModel.set_experts_implementation, "
            f"which genesis_moe.inject needs: pip install 'transformers>=5.7'"
        )
