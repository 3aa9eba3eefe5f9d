"""Megatron-Core's GPT model with the library's router and experts, after initialize_model_parallel."""

import torch
from megatron.core import parallel_state
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.transformer.transformer_config import TransformerConfig

import genesis_moe as gm
from genesis_moe.integrations.megatron import moe_submodules

config = TransformerConfig(
    num_layers=2, hidden_size=64, num_attention_heads=4, ffn_hidden_size=128, moe_ffn_hidden_size=128,
    num_moe_experts=8, moe_router_topk=2, moe_router_load_balancing_type="none",
    moe_token_dispatcher_type="alltoall", add_bias_linear=False, gated_linear_unit=True,
    activation_func=torch.nn.functional.silu, bias_activation_fusion=False, use_cpu_initialization=True,
    hidden_dropout=0.0, attention_dropout=0.0,
)  # fmt: skip
spec = get_gpt_layer_local_spec(num_experts=8, moe_grouped_gemm=False)
mlp = spec.submodules.mlp
mlp.submodules = moe_submodules(mlp.submodules, router="hamiltonian", budget=1.25)
model = GPTModel(config, spec, vocab_size=256, max_sequence_length=32)

optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
tokens = torch.randint(256, (4, 32))
positions = torch.arange(32).expand(4, -1)
mask = torch.ones(32, 32, dtype=torch.bool).triu(1)[None, None]
model(tokens, positions, mask, labels=tokens.roll(-1, 1)).mean().backward()
optimizer.step()
gm.step(model, process_group=parallel_state.get_tensor_and_data_parallel_group(with_context_parallel=True))
print("prices", model.decoder.layers[0].mlp.router.price.tolist())
