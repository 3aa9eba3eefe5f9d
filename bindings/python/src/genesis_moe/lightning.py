"""Meters a Lightning Trainer."""

from __future__ import annotations

from typing import Any

try:
    from lightning.pytorch import Callback
except ImportError:  # the package of the same callback under its older name
    from pytorch_lightning import Callback

from genesis_moe.energy.meter import share_of_ranks
from genesis_moe.energy.recorder import EnergyRecorder


class EnergyCallback(Callback):  # type: ignore[misc]
    """Records every training batch: ``Trainer(callbacks=[EnergyCallback("run.jsonl", tokens_per_step=4096)])``.

    tokens_per_step: of one batch on all devices. Other arguments are those of
    :class:`genesis_moe.EnergyRecorder`; the model is the Trainer's. Validation is kept apart, in
    phase "eval".

    The first rank records. Its meter sees the devices of its machine, and of the tokens it counts the share
    of the ranks there: the energy per token is that of one machine.
    """

    def __init__(self, path: str | None = None, *, tokens_per_step: int, **options: Any) -> None:
        super().__init__()
        self._path, self._tokens_per_step, self._options = path, tokens_per_step, options
        self._tokens = tokens_per_step
        self.recorder: EnergyRecorder | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.is_global_zero:
            self._tokens = round(self._tokens_per_step * share_of_ranks(trainer.world_size))
            self.recorder = EnergyRecorder(self._path, model=pl_module, **self._options)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.recorder is not None:
            loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
            self.recorder.step(
                self._tokens, loss=None if loss is None else float(loss), step=trainer.global_step
            )

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if self.recorder is not None and not trainer.sanity_checking:
            self.recorder.step(0, phase="eval", step=trainer.global_step)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        if self.recorder is not None:
            self.recorder.close()
