"""A transformers router that routes with ``genesis_moe.Router``.

The router module of a model changes its class, in place, to one that is both: a subclass of
the original class, by which transformers' output recorders and the auxiliary loss find it, and
of :class:`genesis_moe.Router`, by which :func:`genesis_moe.step` and :func:`genesis_moe.report`
do. Being the same object it keeps its hooks, and its tensors keep their names in checkpoints:

======================  =======================================================================
``weight``                the centroids ``[E, D]``; the pretrained gate where D = H
``bias``                  gpt-oss
``e_score_correction_bias``  the price, where a DeepSeek router runs in mode deepseek
``projection``, ``temperature``, ``price``, ``gap``  what ``genesis_moe.Router`` adds
======================  =======================================================================
"""

from __future__ import annotations

import functools
import importlib
from typing import Any, ClassVar, cast

from torch import Tensor

from genesis_moe._hosted import HostedRouter, host_weights
from genesis_moe.huggingface.families import MODE_OF, path_of
from genesis_moe.router import Router

_CORRECTION_BIAS = "e_score_correction_bias"


class InjectedRouter(HostedRouter):
    """What the injected classes share; ``isinstance(module, InjectedRouter)`` finds them.

    ``forward(hidden_states [..., H])`` returns what the original did: router_logits ``[T, E]``,
    weights ``[T, K]`` and indices ``[T, K]`` int64. With a budget, absent slots hold the index
    E and the weight 0, which transformers' experts functions read as an expert that is not
    here; the "eager" ones do not, so an injected model uses "genesis_moe".
    """

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        router = cast(Router, self)
        routing = Router.forward(router, hidden_states.reshape(-1, router.hidden_size))
        return routing.logits, host_weights(router, routing), routing.index

    def initialize(self, std: float) -> None:
        """Fills the tensors that a checkpoint did not hold, as transformers' ``_init_weights`` would."""
        from transformers import initialization as init

        router = cast(Router, self)
        init.normal_(self.centroids, std=std)
        if router.projection is not None:
            init.normal_(router.projection, std=router.hidden_size**-0.5)
        if router.temperature is not None:
            init.constant_(router.temperature, router.initial_temperature)
        if router.gap is not None:
            init.constant_(router.gap, router.initial_gap)
        for tensor in (router.bias, router.price):
            if tensor is not None:
                init.zeros_(tensor)


class _CorrectionBias(InjectedRouter):
    """The price under DeepSeek's name for it."""

    _checkpoint_names: ClassVar[dict[str, str]] = {
        **InjectedRouter._checkpoint_names,
        "price": _CORRECTION_BIAS,
    }

    @property
    def price(self) -> Tensor:
        return cast(Tensor, self.e_score_correction_bias)

    @price.setter
    def price(self, value: Tensor) -> None:
        self._buffers[_CORRECTION_BIAS] = value


def injected_class(original: type, mode: str) -> type:
    """The class that a router of class ``original`` changes to."""
    correcting = mode == "deepseek" and MODE_OF[path_of(original)] == "deepseek"
    return _make_class(original, _CorrectionBias if correcting else InjectedRouter)


@functools.cache
def _make_class(original: type, shared: type) -> type:
    name = _PREFIXES[shared] + original.__name__
    return type(name, (shared, original, Router), {"__module__": __name__, "__doc__": InjectedRouter.__doc__})


_PREFIXES: dict[type, str] = {InjectedRouter: "Injected", _CorrectionBias: "Correcting"}


def __getattr__(name: str) -> Any:
    """Pickled models name injected classes, which exist only once somebody asks for them."""
    for path in MODE_OF:
        module, _, original = path.rpartition(".")
        for shared, prefix in _PREFIXES.items():
            if name == prefix + original:
                return _make_class(getattr(importlib.import_module(module), original), shared)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def convert(gate: Any, settings: dict[str, Any]) -> None:
    """Changes a router of a supported family, in place, into an injected one.

    settings: keyword arguments of :class:`genesis_moe.Router`. The pretrained weight [E, H]
    stays where there is no projection, the bias where the new router has one, DeepSeek's
    correction bias in mode deepseek; other tensors start as the Router draws them.
    """
    hidden_size, num_experts = gate.weight.shape[1], gate.weight.shape[0]
    pretrained = {**gate._parameters, **gate._buffers}
    hooks = {name: value for name, value in vars(gate).items() if "hook" in name}
    training = gate.training
    weight: Tensor = gate.weight

    gate.__class__ = injected_class(type(gate), settings["mode"])
    Router.__init__(gate, hidden_size, num_experts, **settings, dtype=weight.dtype, device=weight.device)
    vars(gate).update(hooks)
    gate.train(training)
    for name, tensor in pretrained.items():
        if gate._buffers.get(name) is not None:
            gate._buffers[name].copy_(tensor)
        elif gate._parameters.get(name) is not None and (name != "weight" or gate.projection is None):
            gate._parameters[name] = tensor
