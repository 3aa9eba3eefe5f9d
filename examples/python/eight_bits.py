"""Experts' weights in 8 bits, for inference."""

import io

import torch

import genesis_moe as gm

torch.manual_seed(0)
layer = gm.MoE(hidden_size=256, intermediate_size=384, num_experts=8, top_k=2)
x = torch.randn(16, 256)
with torch.no_grad():
    before = layer.eval()(x)

gm.quantize(layer)  # in place; the router stays as it is
with torch.no_grad():
    after = layer(x)
error = (after - before).norm() / before.norm()
print(f"{layer.gate_up_proj.dtype}, scales {list(layer.gate_up_proj_scale_inv.shape)}; off by {error:.1%}")
assert error < 0.1

# A state with codes and scales makes a new layer one of 8 bits.
file = io.BytesIO()
torch.save(layer.state_dict(), file)
file.seek(0)
other = gm.MoE(hidden_size=256, intermediate_size=384, num_experts=8, top_k=2)
other.load_state_dict(torch.load(file))
with torch.no_grad():
    assert torch.equal(other(x), after)
print(
    f"{file.getbuffer().nbytes / 1e6:.1f} MB, of {sum(p.numel() for p in other.router.parameters()):,} other numbers"
)
