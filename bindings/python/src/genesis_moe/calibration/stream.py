"""Carrying the calibration text through the model, one decoder layer at a time."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn

from genesis_moe.calibration.perceptrons import Perceptron


class _Recorder(nn.Module):
    """Stands in for an MLP: keeps what it is given, and returns zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = torch.empty(0)

    def forward(self, hidden_states: Tensor) -> Tensor:
        self.seen = hidden_states.detach()
        return torch.zeros_like(hidden_states)


class Stream:
    """The hidden states of all windows before one layer; :meth:`through` moves them behind it."""

    def __init__(self, model: Any, perceptrons: list[Perceptron], windows: Tensor) -> None:
        self._inputs: dict[int, tuple[tuple[Any, ...], dict[str, Any]]] = {}
        hooks = [
            one.layer.register_forward_pre_hook(self._catcher(number), with_kwargs=True)
            for number, one in enumerate(perceptrons)
        ]
        try:
            # Masks and positions of every layer; all windows are of one length, so they share them.
            model.base_model(input_ids=windows[:1], use_cache=False)
        finally:
            for hook in hooks:
                hook.remove()
        first = perceptrons[0].layer
        self.states: list[Tensor] = []
        hook = first.register_forward_pre_hook(self._stop, with_kwargs=True)
        try:
            for window in windows:
                with contextlib.suppress(_StoppedError):
                    model.base_model(input_ids=window[None], use_cache=False)
        finally:
            hook.remove()
        self._inputs = {
            number: (arguments[1:], {k: v for k, v in named.items() if k != "hidden_states"})
            for number, (arguments, named) in self._inputs.items()
        }

    def _catcher(self, number: int) -> Any:
        def catch(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
            self._inputs[number] = (arguments, dict(named))

        return catch

    def _stop(self, module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        self.states.append(arguments[0] if arguments else named["hidden_states"])
        raise _StoppedError

    def mlp_inputs(self, number: int, perceptron: Perceptron) -> tuple[Tensor, Tensor]:
        """What the layer's MLP is given, [T, H] in float32, and how much an error counts in each token.

        The next norm divides by the length of the residual stream, so an error counts by its inverse square.
        """
        recorder, seen = _Recorder(), []
        perceptron.replace(recorder)
        try:
            for state in self.states:
                self._run(number, perceptron, state)
                seen.append(recorder.seen.reshape(-1, recorder.seen.shape[-1]).float())
        finally:
            perceptron.replace(perceptron.module)
        lengths = torch.cat([state.float().square().sum(-1).reshape(-1) for state in self.states])
        return torch.cat(seen), 1 / lengths.clamp_min(1e-12)

    def through(self, number: int, perceptron: Perceptron) -> None:
        """Moves all windows behind the layer as it is now."""
        self.states = [self._run(number, perceptron, state) for state in self.states]

    def _run(self, number: int, perceptron: Perceptron, state: Tensor) -> Tensor:
        arguments, named = self._inputs[number]
        output = perceptron.layer(state, *arguments, **named)
        found: Tensor = output[0] if isinstance(output, tuple) else output
        return found


class _StoppedError(Exception):
    """Ends a forward once the first layer's input is known."""
