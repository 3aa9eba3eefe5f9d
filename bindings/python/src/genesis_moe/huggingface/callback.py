"""Prices and budgets move in a transformers Trainer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback

from genesis_moe import step


class GenesisCallback(TrainerCallback):
    """Calls :func:`genesis_moe.step` after every optimiser step, with progress = step / max_steps.

    ``Trainer(..., callbacks=[GenesisCallback()])``. held_out: as in :func:`genesis_moe.step`, given the
    model: ``GenesisCallback(held_out=lambda model: ...)``; layers with max_experts grow by the Trainer's
    optimiser. It keeps no state: prices and gaps are
    buffers of the model, so they are in the Trainer's checkpoints, and a resumed run goes on
    where it was.

    Resume with the model of the checkpoint: ``Model.from_pretrained(checkpoint)``, then
    ``trainer.train(resume_from_checkpoint=checkpoint)``. The second alone does not load the
    experts and routers of most MoE models in transformers 5.0 to 5.17, injected or not: it reads
    the checkpoint without converting its names (huggingface/transformers issue 48805).
    """

    held_out: Callable[[Any], float] | None = None

    def __init__(self, held_out: Callable[[Any], float] | None = None) -> None:
        super().__init__()
        self.held_out = held_out

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """After the optimiser's step, and before the Trainer saves a checkpoint."""
        held_out = self.held_out
        step(
            model,
            kwargs.get("optimizer"),
            progress=min(1.0, state.global_step / state.max_steps),
            held_out=None if held_out is None else lambda: held_out(model),
        )
