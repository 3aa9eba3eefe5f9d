"""Meters a training run, records it, and shows it live in the console."""

import tempfile
from pathlib import Path

import torch

import genesis_moe as gm

torch.manual_seed(0)
layer = gm.MoE(hidden_size=64, intermediate_size=128, num_experts=8, top_k=2, budget=1.25)
optimizer = torch.optim.AdamW(layer.parameters(), lr=3e-3)
record = Path(tempfile.mkdtemp()) / "run.jsonl"

meter = gm.EnergyMeter()  # the best source there is; without one, energy is None and never a guess
with gm.monitor("127.0.0.1:0") as console, gm.EnergyRecorder(record, meter=meter, model=layer) as recorder:
    console.attach(recorder)
    print("open", console.url)
    with meter.window("training") as window:
        for _ in range(100):
            x = torch.randn(512, 64)
            loss = (layer(x) - x.flip(-1)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            gm.step(layer)
            recorder.step(tokens=len(x), loss=loss.item())

print("energy of the window:", window.reading)
print(
    "lines recorded:", len(record.read_text().splitlines()), "- replay them with: genesis-moe monitor", record
)
