"""Carrying the calibration text through the model, one decoder layer at a time."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from genesis_moe.calibration.perceptrons import Perceptron
from genesis_moe.calibration.products import reduced_precision
from genesis_moe.errors import InvalidArgumentError

CHUNK_TOKENS = 2048


class _Recorder(nn.Module):
    """Stands in for an MLP: keeps what it is given, and returns zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = torch.empty(0)

    def forward(self, hidden_states: Tensor) -> Tensor:
        self.seen = hidden_states.detach()
        return torch.zeros_like(hidden_states)


@dataclass(frozen=True)
class LayerInput:
    """What one MLP is fitted on, each [T, H]. x: what the converted layers before it give it. rest: the residual
    stream that its output is added to. behind: the dense model's stream behind the layer; None where
    that is not followed."""

    x: Tensor
    rest: Tensor
    behind: Tensor | None


class Stream:
    """The hidden states of all windows before one layer, in the converted model and in the dense one."""

    def __init__(
        self,
        model: Any,
        perceptrons: list[Perceptron],
        windows: Tensor,
        follow: bool,
        known: dict[int, list[Tensor]] | None = None,
    ) -> None:
        """known: the dense states behind layers, from an earlier stream of the same windows; it is added to."""
        self._known = known
        self._adds = False
        self._x: list[Tensor] = []
        self._rest: list[Tensor] = []
        self._inputs: dict[int, tuple[tuple[Any, ...], dict[str, Any]]] = {}
        self._follow = follow
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
        self.states: list[Tensor] = []
        hook = perceptrons[0].layer.register_forward_pre_hook(self._stop, with_kwargs=True)
        try:
            for part in windows.split(max(1, CHUNK_TOKENS // windows.shape[1])):
                with contextlib.suppress(_StoppedError):
                    model.base_model(input_ids=part, use_cache=False)
        finally:
            hook.remove()
        self._dense = list(self.states)
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

    def enter(self, number: int, perceptron: Perceptron) -> LayerInput:
        """What the layer's MLP is fitted on. The dense states move behind the layer."""
        self._x, self._rest = self._without(number, perceptron)
        x, rest = _rows(self._x), _rows(self._rest)
        self._check(x, perceptron)
        if number == 0:
            self._adds = self._is_added(number, perceptron)
        behind = None
        if self._follow:
            self._dense = self._move_dense(number, perceptron)
            behind = _rows(self._dense) if self._adds else None
        return LayerInput(x, rest, behind)

    def through(self, number: int, perceptron: Perceptron, module: nn.Module) -> None:
        """Moves all windows behind the layer, with the module in place of its MLP."""
        if self._adds and self._x:
            with reduced_precision(self._x[0].numel()):
                self.states = [
                    rest + module(x).to(rest.dtype) for x, rest in zip(self._x, self._rest, strict=True)
                ]
        else:
            self.states = [self._run(number, perceptron, state) for state in self.states]
        self._x, self._rest = [], []

    def _move_dense(self, number: int, perceptron: Perceptron) -> list[Tensor]:
        if self._known is None:
            return [self._run(number, perceptron, state) for state in self._dense]
        if number not in self._known:
            self._known[number] = [self._run(number, perceptron, state) for state in self._dense]
        return self._known[number]

    def _without(self, number: int, perceptron: Perceptron) -> tuple[list[Tensor], list[Tensor]]:
        """The MLP's input and the layer's output without the MLP, by chunks."""
        recorder, seen, rest = _Recorder(), [], []
        perceptron.replace(recorder)
        try:
            for state in self.states:
                rest.append(self._run(number, perceptron, state))
                seen.append(recorder.seen)
        finally:
            perceptron.replace(perceptron.module)
        return seen, rest

    def _is_added(self, number: int, perceptron: Perceptron) -> bool:
        """Whether the layers add the MLP's output as it is to the residual stream (Gemma 2 and 3 norm it)."""
        found = self._run(number, perceptron, self.states[0][:1])
        wanted = self._rest[0][:1] + perceptron.module(self._x[0][:1])
        return float((found - wanted).float().norm()) <= 0.05 * float(found.float().norm())

    def _check(self, x: Tensor, perceptron: Perceptron) -> None:
        if not bool(torch.isfinite(x).all()):
            raise InvalidArgumentError(
                f"model: {perceptron.name} is given activations that are NaN or infinite; "
                "a dtype with a wider range (float32) or other texts may help"
            )

    def _run(self, number: int, perceptron: Perceptron, state: Tensor) -> Tensor:
        arguments, named = self._inputs[number]
        with reduced_precision(state.numel()):
            output = perceptron.layer(state, *arguments, **named)
        found: Tensor = output[0] if isinstance(output, tuple) else output
        return found


def _rows(parts: list[Tensor]) -> Tensor:
    return torch.cat([part.reshape(-1, part.shape[-1]).float() for part in parts])


class _StoppedError(Exception):
    """Ends a forward once the first layer's input is known."""
