"""A Hugging Face model: first our experts with its own router, then our router too."""

import torch
from transformers import MixtralConfig, MixtralForCausalLM

import genesis_moe as gm

torch.manual_seed(0)
config = MixtralConfig(
    vocab_size=256,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    num_local_experts=8,
)
model = MixtralForCausalLM(config).eval()
text = torch.randint(256, (2, 32))

with torch.no_grad():
    before = model(text).logits
    model.set_experts_implementation("genesis_moe")  # the same function, computed by us
    print("our experts differ by", f"{(model(text).logits - before).abs().max():.0e}")
    gm.inject(model, router="hamiltonian")  # started from the model's own gate
    print("our router differs by", f"{(model(text).logits - before).abs().max():.0e}")

model.train()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
loss = model(text, labels=text).loss
loss.backward()
optimizer.step()
gm.step(model)  # prices instead of an auxiliary loss
print(f"loss {loss.item():.2f}")
