"""The terms of the energy and how a routing looks."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from genesis_moe import _abi, _call
from genesis_moe.options import RouterOptions, router_struct

if TYPE_CHECKING:
    from torch import nn

    from genesis_moe.mitosis.report import MitosisReport


@dataclass(frozen=True)
class RouterReport:
    """One batch's routing in numbers. Energies are in units of the binding energy u."""

    energy_bind: float
    """(1/T) sum p u: how well tokens and centroids match."""
    energy_entropy: float
    """-(tau/T) sum s(p)."""
    energy_cost: float
    """(lambda/2) sum pi (rho/pi - 1)^2."""
    energy: float
    """H, the sum of the three."""
    max_violation: float
    """MaxVio: the largest load over the mean load, minus 1."""
    load_cv: float
    """Standard deviation of the loads over their mean."""
    dead_share: float
    """Share of experts with no token."""
    token_entropy: float
    """Mean entropy of a token's softmax(logits), nats."""
    marginal_entropy: float
    """Entropy of the mean of those distributions, nats."""
    price_min: float
    price_max: float
    top_k_margin: float
    """Mean distance in f between the last expert chosen and the first not chosen."""
    mean_active: float
    """Mean number of experts per token."""
    churn: float
    """Share of slots that changed since previous_index; -1 without it."""
    non_finite_tokens: int
    """Tokens whose logits hold a NaN or infinity."""
    mitosis: MitosisReport | None = None
    """The tree and the events of a layer with max_experts."""


_FIELDS = [field[0] for field in _abi.RouterReport._fields_[2:]]


def compute(
    engine: int,
    options: RouterOptions,
    tensors: tuple[Any, Any, Any, Any],
    view_of: _call.ViewOf,
    queue: _call.Queue | None = None,
) -> RouterReport:
    """The report on (logits, top_k_index, price or None, previous_index or None)."""
    out = _abi.RouterReport(struct_size=ctypes.sizeof(_abi.RouterReport))
    struct = router_struct(*options.scalars())
    _call.router_report(engine, struct, tensors, view_of, queue, ctypes.byref(out))
    return RouterReport(**{name: getattr(out, name) for name in _FIELDS})


def report(model: nn.Module) -> dict[str, RouterReport]:
    """A report for each router of the model that has routed, on its last forward.

    Keys are the routers' names in ``model.named_modules()``. Forwards overwrite each
    other: call it right after the batch of interest.
    """
    from genesis_moe import functional
    from genesis_moe.mitosis.report import describe
    from genesis_moe.moe import MoE
    from genesis_moe.router import Router

    clans = {id(m.router): m.clans for m in model.modules() if isinstance(m, MoE) and m.clans is not None}
    reports = {}
    for name, module in model.named_modules():
        if isinstance(module, Router) and module.last_routing is not None:
            routing = module.last_routing
            reports[name] = functional.report(
                module.options, routing.logits, routing.index, module.last_price
            )
            if (grown := clans.get(id(module))) is not None and module.price is not None:
                reports[name] = replace(reports[name], mitosis=describe(grown, module.price))
    return reports
