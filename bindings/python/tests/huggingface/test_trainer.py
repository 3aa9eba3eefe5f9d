"""GenesisCallback in a transformers Trainer: accumulation, schedules, resuming from a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainingArguments

import genesis_moe as gm
from huggingface.tiny_models import build, relative_difference, routers_of

STEPS, ACCUMULATION, BATCH, LENGTH = 10, 2, 2, 12


class Text(torch.utils.data.Dataset):
    """40 fixed sequences, each its own labels."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(9)
        self.rows = torch.randint(3, 61, (40, LENGTH), generator=generator)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.rows[index], "labels": self.rows[index]}


class Recorder(gm.huggingface.GenesisCallback):
    """The callback, and what each step of the model was given."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.budgets: list[float] = []
        self.rates: list[float] = []
        self.states: dict[int, dict[str, torch.Tensor]] = {}

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.states[state.global_step] = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        router = routers_of(model)[0]
        progress = state.global_step / state.max_steps
        self.tokens.append(int(router.tokens))
        self.budgets.append(router.budget_at(progress))
        self.rates.append(router.price_rate_at(progress))
        super().on_step_end(args, state, control, model=model, **kwargs)


def trainer(model: Any, folder: Path, callback: Any, **settings: Any) -> Trainer:
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=STEPS,
        per_device_train_batch_size=BATCH,
        gradient_accumulation_steps=ACCUMULATION,
        learning_rate=1e-2,
        logging_steps=1,
        save_steps=6,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **settings,
    )
    return Trainer(model=model, args=arguments, train_dataset=Text(), callbacks=[callback])


def model() -> Any:
    return gm.inject(build("mixtral"), budget=1.25)


def test_a_run_with_accumulation_and_one_resumed_from_its_checkpoint(tmp_path: Path) -> None:
    callback = Recorder()
    first = trainer(model(), tmp_path / "first", callback)
    assert torch.isfinite(torch.tensor(first.train().training_loss))
    assert callback.tokens == [ACCUMULATION * BATCH * LENGTH] * STEPS
    assert callback.budgets == pytest.approx([1.85, 1.7, 1.55, 1.4] + [1.25] * 6)
    assert callback.rates == pytest.approx([0.02] * 9 + [0.0])
    routers = routers_of(first.model)
    assert all(router.tokens == 0 for router in routers)
    assert all(0 < router.price.abs().max() <= 9 * 0.04 for router in routers)
    assert all(router.gap != router.initial_gap for router in routers)

    checkpoint = tmp_path / "first" / "checkpoint-6"
    again = Recorder()
    resumed = trainer(type(first.model).from_pretrained(checkpoint), tmp_path / "second", again)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert list(again.states) == [6, 7, 8, 9]
    assert again.rates == callback.rates[6:]
    for name, tensor in callback.states[6].items():
        assert torch.equal(again.states[6][name], tensor), name
    state = resumed.model.state_dict()
    for name, tensor in first.model.state_dict().items():
        assert relative_difference(state[name], tensor) < 1e-4, name


def test_without_the_callback_prices_stay(tmp_path: Path) -> None:
    plain = trainer(model(), tmp_path, _Nothing(), save_strategy="no")
    plain.train()
    assert all((router.price == 0).all() for router in routers_of(plain.model))


class _Nothing(gm.huggingface.GenesisCallback):
    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        pass


class Growing(torch.nn.Module):
    """A language model with a layer that may grow."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(64, 16)
        options = gm.MitosisOptions(
            interval=4, window=1, cooldown=0, min_tokens=1, spread=0, max_cosine=1, null_percentile=1, ramp=2
        )
        self.layer = gm.MoE(16, 8, 4, max_experts=6, mitosis=options)
        self.head = torch.nn.Linear(16, 64)

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.head(self.layer(self.embedding(input_ids)))
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return {"loss": loss, "logits": logits}


def test_experts_split_in_a_trainer(tmp_path: Path) -> None:
    torch.manual_seed(0)
    growing, losses = Growing(), []

    def held_out(model: Any) -> float:
        row = Text()[0]["input_ids"][None]
        losses.append(model(row, row)["loss"].item())
        return float(losses[-1])

    run = trainer(growing, tmp_path, gm.huggingface.GenesisCallback(held_out), save_strategy="no")
    run.train()
    report = gm.report(growing)["layer.router"].mitosis
    assert "split" in {event.kind for event in report.events} and report.experts > 4
    state = run.optimizer.state[growing.layer.down_proj]
    assert torch.isfinite(state["exp_avg_sq"]).all() and growing.layer.clans.steps == STEPS
