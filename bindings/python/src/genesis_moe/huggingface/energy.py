"""Meters a transformers Trainer."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

from genesis_moe.energy.meter import share_of_ranks
from genesis_moe.energy.recorder import EnergyRecorder


class EnergyCallback(TrainerCallback):
    """Records every optimiser step of a Trainer: ``Trainer(..., callbacks=[EnergyCallback("run.jsonl")])``.

    Arguments are those of :class:`genesis_moe.EnergyRecorder`; the model is the Trainer's. tokens_per_step:
    of one optimiser step on all devices; None: as the Trainer counts them, which needs
    ``include_num_input_tokens_seen=True`` in its arguments. Evaluation is kept apart, in phase "eval".

    The first rank records. Its meter sees the devices of its machine, and of the tokens it counts the share
    of the ranks there: the energy per token is that of one machine.
    """

    def __init__(
        self, path: str | None = None, *, tokens_per_step: int | None = None, **options: Any
    ) -> None:
        self._path, self._tokens_per_step, self._options = path, tokens_per_step, options
        self._seen, self._share = 0, 1.0
        self._loss: float | None = None
        self.recorder: EnergyRecorder | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self._seen = int(getattr(state, "num_input_tokens_seen", 0))
        if state.is_world_process_zero:
            self._share = share_of_ranks(getattr(args, "world_size", None))
            self.recorder = EnergyRecorder(self._path, model=model, **self._options)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self._loss = (logs or {}).get("loss", self._loss)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.recorder is None:
            return
        seen = int(getattr(state, "num_input_tokens_seen", 0))
        tokens = seen - self._seen if self._tokens_per_step is None else self._tokens_per_step
        self._seen = seen
        self.recorder.step(
            round(tokens * self._share),
            loss=self._loss,
            step=state.global_step,
            progress=min(1.0, state.global_step / state.max_steps) if state.max_steps > 0 else None,
        )

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        if self.recorder is None:
            return
        loss = (metrics or {}).get("eval_loss")
        found = None if loss is None else {"held_out": float(loss)}
        self.recorder.step(0, phase="eval", step=state.global_step, loss=found)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.recorder is not None:
            self.recorder.close()
