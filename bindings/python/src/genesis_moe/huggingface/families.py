"""The routers of transformers that can be injected, and what they compute.

A family is recognised by the exact class of its router, and its settings are read from the
router itself, so that a configuration that departs from the published one is followed.
"""

from __future__ import annotations

from typing import Any

from torch import nn

# Routers with ``weight [E, H]`` (gpt-oss: ``bias [E]`` too) that return
# ``(router_logits, weights [T, K], indices [T, K])``; the mode that computes each exactly.
MODE_OF: dict[str, str] = {
    "transformers.models.mixtral.modeling_mixtral.MixtralTopKRouter": "mixtral",
    "transformers.models.qwen3_moe.modeling_qwen3_moe.Qwen3MoeTopKRouter": "mixtral",
    "transformers.models.olmoe.modeling_olmoe.OlmoeTopKRouter": "mixtral",
    "transformers.models.gpt_oss.modeling_gpt_oss.GptOssTopKRouter": "mixtral",
    "transformers.models.deepseek_v3.modeling_deepseek_v3.DeepseekV3TopkRouter": "deepseek",
}


def path_of(cls: type) -> str:
    """The key of :data:`MODE_OF` for a class."""
    return f"{cls.__module__}.{cls.__qualname__}"


def is_supported(module: nn.Module) -> bool:
    """Whether the module is a router of one of the families, not yet injected."""
    return path_of(type(module)) in MODE_OF


def own_settings(router: Any) -> dict[str, Any]:
    """The settings of ``genesis_moe.Router`` with which it computes what this router does."""
    mode = MODE_OF[path_of(type(router))]
    settings: dict[str, Any] = {
        "mode": mode,
        "top_k": router.top_k,
        "normalize_top_k": getattr(router, "norm_topk_prob", True),
        "scaling_factor": float(getattr(router, "routed_scaling_factor", 1.0)),
    }
    if mode == "deepseek":
        settings |= {"num_groups": router.num_group, "top_k_groups": router.topk_group}
    return settings
