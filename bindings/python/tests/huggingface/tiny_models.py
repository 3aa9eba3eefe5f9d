"""Tiny random models of the families that can be injected."""

from __future__ import annotations

import importlib
from typing import Any

import torch
import transformers
from torch import nn

import genesis_moe as gm

_COMMON = {
    "vocab_size": 61,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": None,
    "pad_token_id": 0,
}

# Name of a case -> model class, configuration.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("MixtralForCausalLM", {"intermediate_size": 24, "num_local_experts": 4}),
    "qwen3_moe": (
        "Qwen3MoeForCausalLM",
        {
            "moe_intermediate_size": 24,
            "intermediate_size": 48,
            "num_experts": 4,
            "head_dim": 8,
            "norm_topk_prob": True,
        },
    ),
    "qwen3_moe unnormalised": (
        "Qwen3MoeForCausalLM",
        {
            "moe_intermediate_size": 24,
            "intermediate_size": 48,
            "num_experts": 4,
            "head_dim": 8,
            "norm_topk_prob": False,
        },
    ),
    "olmoe": ("OlmoeForCausalLM", {"intermediate_size": 24, "num_experts": 4}),
    "gpt_oss": ("GptOssForCausalLM", {"intermediate_size": 24, "num_local_experts": 4, "head_dim": 8}),
    "deepseek_v3": (
        "DeepseekV3ForCausalLM",
        {
            "intermediate_size": 48,
            "moe_intermediate_size": 24,
            "n_routed_experts": 8,
            "n_group": 4,
            "topk_group": 2,
            "first_k_dense_replace": 1,
            "num_key_value_heads": 4,
            "q_lora_rank": 16,
            "kv_lora_rank": 16,
            "qk_nope_head_dim": 8,
            "qk_rope_head_dim": 8,
            "v_head_dim": 8,
        },
    ),
}


def build(case: str, seed: int = 0, **config: Any) -> Any:
    """A model in eval mode with eager experts and weights of a useful size; config: changes of its configuration."""
    class_name, own = CASES[case]
    model_class = getattr(transformers, class_name)
    torch.manual_seed(seed)
    settings = {**_COMMON, **own, "experts_implementation": "eager", **config}
    model = model_class(model_class.config_class(**settings))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # transformers' 0.02 leaves routers undecided and experts without effect.
            if parameter.dim() >= 2 or "bias" in name:
                parameter.normal_(std=0.3)
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.normal_(std=0.1)
    return model.eval()


def exact_router(case: str) -> str:
    """The router whose injection must not change a model of this case."""
    return "deepseek" if case == "deepseek_v3" else "hamiltonian"


def relative_difference(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """max |actual - expected| / max |expected|."""
    assert actual.shape == expected.shape
    return ((actual - expected).abs().max() / expected.abs().max().clamp_min(1e-30)).item()


def loss_and_gradients(
    model: nn.Module, input_ids: torch.Tensor, **kwargs: Any
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The logits of a forward, and the gradient of the loss by every parameter's name."""
    model.zero_grad()
    output = model(input_ids, labels=input_ids, **kwargs)
    output.loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return output.logits.detach(), gradients


def routers_of(model: nn.Module) -> list[Any]:
    """The injected routers of a model."""
    return [m for m in model.modules() if isinstance(m, gm.huggingface.InjectedRouter)]


def original_router(case: str) -> type:
    """The router class that transformers uses in a case."""
    paths = importlib.import_module("genesis_moe.huggingface.families").MODE_OF
    wanted = case.split()[0].replace("_", "")
    path = next(p for p in paths if p.rpartition(".")[2].lower().startswith(wanted))
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)
