"""A Hugging Face Trainer and a model with our experts and routers, in one process or several.

One process:  python examples/python/trainer.py
Several:      accelerate launch --multi_gpu --num_processes 2 examples/python/trainer.py
"""

import os
import tempfile
from pathlib import Path

import torch
from transformers import MixtralConfig, MixtralForCausalLM, Trainer, TrainingArguments

import genesis_moe as gm
from genesis_moe.huggingface import GenesisCallback

text = torch.tensor(list(Path(__file__).read_bytes()))
windows = [{"input_ids": row, "labels": row} for row in text.unfold(0, 48, 8)]
processes = int(os.environ.get("WORLD_SIZE", 1))

torch.manual_seed(0)
config = MixtralConfig(
    vocab_size=256,
    hidden_size=48,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    num_local_experts=8,
)
model = gm.inject(MixtralForCausalLM(config), router="hamiltonian", budget=1.25)

with tempfile.TemporaryDirectory() as folder:
    arguments = TrainingArguments(
        folder,
        per_device_train_batch_size=16 // processes,
        max_steps=15,
        learning_rate=3e-3,
        logging_steps=5,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
    )
    trainer = Trainer(model, arguments, train_dataset=windows, callbacks=[GenesisCallback()])
    trainer.train()

if trainer.is_world_process_zero():
    for entry in trainer.state.log_history:
        if "loss" in entry:
            print(f"step {entry['step']:2}  loss {entry['loss']:.4f}  processes {processes}")
    for name, report in gm.report(model).items():
        print(f"{name}: {report.mean_active:.2f} experts per token")
