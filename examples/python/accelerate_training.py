"""Trains with Accelerate; each process has its part of every batch, and all have the same prices.

One process:  python examples/python/accelerate_training.py
Several:      accelerate launch --multi_gpu --num_processes 2 examples/python/accelerate_training.py
"""

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, TensorDataset

import genesis_moe as gm

accelerator = Accelerator(cpu=True)  # on GPUs: Accelerator()
torch.manual_seed(0)
model = torch.nn.Sequential(
    gm.MoE(hidden_size=32, intermediate_size=64, num_experts=6, budget=1.25), torch.nn.Linear(32, 32)
)
x = torch.randn(2400, 32)
data = TensorDataset(x, torch.tanh(x @ (torch.randn(32, 32) / 6)))
loader = DataLoader(data, batch_size=240 // accelerator.num_processes)  # of each process
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)

epochs, step = 6, 0
for epoch in range(epochs):
    for inputs, targets in loader:
        loss = (model(inputs) - targets).square().mean()
        optimizer.zero_grad()
        accelerator.backward(loss)
        optimizer.step()
        step += 1
        gm.step(model, progress=step / (epochs * len(loader)))  # counts of all processes
    mean = accelerator.reduce(loss.detach(), "mean").item()
    accelerator.print(f"epoch {epoch}  loss {mean:.4f}  processes {accelerator.num_processes}", flush=True)

prices = accelerator.gather(accelerator.unwrap_model(model)[0].router.price[None])
assert (prices == prices[0]).all(), "every process has the same bits"
accelerator.end_training()
