"""The callbacks of the trainers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import genesis_moe as gm
from genesis_moe.energy import meter as energy_meter
from genesis_moe.energy import read_record
from genesis_moe.energy.meter import share_of_ranks


@pytest.mark.parametrize(
    ("variables", "gpus", "share"),
    [
        ({}, None, 1.0),
        ({"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}, None, 1.0),
        ({"WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "4"}, None, 0.25),
        ({"WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8"}, 8, 0.5),
        ({"WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8"}, 1, 1 / 16),  # each rank sees its own GPU alone
        ({"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}, 8, 1.0),
        ({"WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}, 8, 0.5),  # a node with more GPUs than ranks
    ],
)
def test_tokens_are_of_the_ranks_whose_devices_are_metered(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], gpus: int | None, share: float
) -> None:
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    cuda = None if gpus is None else SimpleNamespace(device_count=lambda: gpus)
    monkeypatch.setattr(energy_meter, "_cuda", lambda: cuda)
    assert share_of_ranks() == share
    monkeypatch.delenv("WORLD_SIZE", raising=False)  # of a launcher that does not set it
    assert share_of_ranks(int(variables.get("WORLD_SIZE", "1"))) == share


def test_only_gpus_in_use_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[int] = []
    cuda = SimpleNamespace(
        device_count=lambda: 4,
        is_current_stream_capturing=lambda: False,
        get_device_properties=lambda device: SimpleNamespace(uuid=device),
        synchronize=waited.append,
    )
    monkeypatch.setattr(energy_meter, "_cuda", lambda: cuda)
    monkeypatch.setattr(torch._C, "_cuda_hasPrimaryContext", lambda device: device == 2, raising=False)
    with gm.EnergyMeter("none") as meter, meter.window():
        pass
    assert set(waited) == {2}


def test_transformers_trainer(tmp_path: Path) -> None:
    from transformers import MixtralConfig, MixtralForCausalLM, Trainer, TrainingArguments

    from genesis_moe.huggingface.energy import EnergyCallback

    config = MixtralConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, num_local_experts=4, max_position_embeddings=32,
    )  # fmt: skip
    model = MixtralForCausalLM(config)
    gm.inject(model, router="hamiltonian")
    data = [{"input_ids": torch.arange(8) % 32, "labels": torch.arange(8) % 32}] * 8
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "out"), max_steps=3, per_device_train_batch_size=2, report_to=[],
        logging_steps=1, use_cpu=True, eval_strategy="steps", eval_steps=3, save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    path = tmp_path / "run.jsonl"
    callback = EnergyCallback(str(path), tokens_per_step=16, meter=gm.EnergyMeter("mock"), name="hf")
    Trainer(
        model=model, args=arguments, train_dataset=data, eval_dataset=data[:2], callbacks=[callback]
    ).train()
    lines = list(read_record(path))
    steps = [line for line in lines if line["kind"] == "step"]
    assert [line["phase"] for line in steps] == ["train", "train", "train", "eval"]
    assert [line["step"] for line in steps] == [1, 2, 3, 3]
    assert steps[2]["total_tokens"] == 48 and steps[2]["energy"]["joules"]["value"] > 0
    assert steps[3]["loss"]["held_out"] > 0
    assert (
        len(lines[0]["layers"]) == 2
        and sum(steps[0]["layers"][0]["tokens"]) == 16 * config.num_experts_per_tok
    )
    assert lines[-1]["kind"] == "end"


def test_lightning_trainer(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning.pytorch")
    from genesis_moe.lightning import EnergyCallback

    class Model(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = gm.MoE(8, 16, 4)

        def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
            return self.layer(batch).square().mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 1e-3)

    path = tmp_path / "run.jsonl"
    callback = EnergyCallback(str(path), tokens_per_step=4, meter=gm.EnergyMeter("mock"))
    trainer = lightning.Trainer(
        max_epochs=1, callbacks=[callback], logger=False, enable_checkpointing=False, accelerator="cpu",
        enable_progress_bar=False,
    )  # fmt: skip
    trainer.fit(Model(), torch.utils.data.DataLoader(torch.randn(12, 8), batch_size=4))
    steps = [line for line in read_record(path) if line["kind"] == "step"]
    assert len(steps) == 3 and steps[-1]["total_tokens"] == 12
