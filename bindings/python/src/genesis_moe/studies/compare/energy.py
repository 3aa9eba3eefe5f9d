"""What training consumed, summed over the pieces between evaluations and interruptions."""

from __future__ import annotations

from typing import Any

import genesis_moe as gm


class TrainingEnergy:
    """The energy of a run's training steps; evaluations are not in it.

    meter: None where energy cannot be told apart, as when runs share the machine.
    """

    def __init__(self, meter: gm.EnergyMeter | None) -> None:
        self._meter = meter if meter is not None and meter.source != "none" else None
        self._open = False
        self.state: dict[str, Any] = {
            "joules": None if self._meter is None else 0.0,
            "uncertainty": None if self._meter is None else 0.0,
            "source": "none" if self._meter is None else self._meter.source,
            "quality": None if self._meter is None else self._meter.quality,
        }

    def resume(self, state: dict[str, Any] | None) -> None:
        """Goes on from a checkpoint. With another meter than before, or none, the sum is not known."""
        if state is not None and state["source"] == self.state["source"]:
            self.state = dict(state)
        else:
            self._lose()

    def begin(self) -> None:
        """Before a training step."""
        if self._meter is not None and not self._open:
            self._meter.begin("training")
            self._open = True

    def pause(self) -> None:
        """After a training step that something else follows."""
        if self._meter is None or not self._open:
            return
        self._open = False
        reading = self._meter.end("training")
        if reading.joules is None or reading.incomplete or self.state["joules"] is None:
            self._lose()
            return
        self.state["joules"] += reading.joules
        known = self.state["uncertainty"] is not None and reading.uncertainty is not None
        self.state["uncertainty"] = self.state["uncertainty"] + reading.uncertainty if known else None

    def _lose(self) -> None:
        self.state.update(joules=None, uncertainty=None, quality=None)
