"""The arms: what is compared with what."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

import genesis_moe as gm
from genesis_moe.studies.compare.model import VOCABULARY, DenseMLP, Shape
from genesis_moe.studies.compare.routers import HashRouter, LoweredRouter, TopPRouter

TOP_K = 2
BASELINE = "mixtral-top-2"
AUXILIARY_COEFFICIENT = 0.01
BUDGETS = (2.0, 1.5, 1.25, 1.1, 1.0)
# A tenth of the run between decisions where the library's default is for longer ones.
GROWTH = gm.MitosisOptions(interval=60, window=15, cooldown=60, ramp=30)


@dataclass(frozen=True)
class Arm:
    """One way to build the feed-forward part, and what training it needs.

    kind: a router of gm.MoE ("mixtral", "deepseek", "hamiltonian"), "mitosis" (hamiltonian, half of
    the shape's experts at the start and room for all of them), a control ("lowered", "top-p",
    "hash"), or "dense". experts_per_token: at the end of the run.
    """

    name: str
    label: str
    kind: str
    experts_per_token: float
    top_k: int = TOP_K
    auxiliary: float = 0.0
    learning_rate: float = 4e-3
    width: float = 1.0  # of an expert, relative to the shape's
    shared_experts: int = 0
    options: dict[str, Any] = field(default_factory=dict)  # of gm.MoE's router

    def build(self, shape: Shape, seed: int) -> Callable[[], nn.Module]:
        """The maker of one feed-forward part."""
        return lambda: _build(self, shape, seed)


def _build(arm: Arm, shape: Shape, seed: int) -> nn.Module:
    hidden, experts = shape.hidden_size, shape.experts
    if arm.kind == "dense":
        return DenseMLP(hidden, TOP_K * shape.intermediate_size)
    width = round(arm.width * shape.intermediate_size)
    if arm.kind == "mitosis":
        return gm.MoE(hidden, width, experts // 2, arm.top_k, max_experts=experts, **arm.options)
    router = arm.kind if arm.kind in ("deepseek", "hamiltonian") else "mixtral"
    layer = gm.MoE(
        hidden, width, experts, arm.top_k, router=router,
        shared_experts=arm.shared_experts, **arm.options,
    )  # fmt: skip
    if arm.kind == "hash":
        layer.router = HashRouter(experts, arm.top_k, VOCABULARY, seed)  # type: ignore[assignment]
    elif arm.kind == "lowered":
        layer.router = LoweredRouter(hidden, experts, arm.top_k, end=arm.experts_per_token)
    elif arm.kind == "top-p":
        layer.router = TopPRouter(hidden, experts, arm.top_k, end=arm.experts_per_token)
    return layer


def _budgeted(budget: float) -> Arm:
    return Arm(
        f"hamiltonian-{budget:.2f}",
        f"Hamiltonian, budget {budget:g}",
        "hamiltonian",
        budget,
        options={"budget": budget},
    )


ARMS: dict[str, Arm] = {
    arm.name: arm
    for arm in (
        Arm("dense", "dense SwiGLU", "dense", TOP_K),
        Arm("mixtral-top-2", "Mixtral top-2", "mixtral", 2.0, auxiliary=AUXILIARY_COEFFICIENT),
        Arm(
            "mixtral-top-1", "Mixtral top-1", "mixtral", 1.0, top_k=1,
            auxiliary=AUXILIARY_COEFFICIENT, options={"normalize_top_k": False},
        ),
        Arm(
            "mixtral-lowered", "Mixtral, lowered 2 to 1", "lowered", 1.0,
            auxiliary=AUXILIARY_COEFFICIENT,
        ),
        Arm(
            "mixtral-top-p", "Mixtral top-p, mean 1.25", "top-p", 1.25,
            auxiliary=AUXILIARY_COEFFICIENT,
        ),
        Arm(
            "deepseek", "DeepSeek, 1 shared + top-2", "deepseek", 2.0, width=2 / 3,
            shared_experts=1, options={"price_rate": 1e-2},
        ),
        Arm("hash", "hash of the byte, top-2", "hash", 2.0),
        Arm("hamiltonian-top-2", "Hamiltonian, fixed top-2", "hamiltonian", 2.0),
        *(_budgeted(budget) for budget in BUDGETS),
        Arm(
            "hamiltonian-mitosis", "Hamiltonian top-2, 4 experts that split, at most 8", "mitosis", 2.0,
            options={"mitosis": GROWTH},
        ),
    )
}  # fmt: skip


RATE_FACTORS = (0.5, 1.0, 2.0)  # of an arm's learning rate
SIGN_RATES = (1e-3, 3e-3, 1e-2)  # of the deepseek arm's bias


def variants(arm: Arm) -> list[Arm]:
    """The arm at each learning rate of the search, and at each rate of its sign rule."""
    rates = [factor * arm.learning_rate for factor in RATE_FACTORS]
    found = [
        replace(arm, name=f"{arm.name}@{rate:g}", label=f"{arm.label}, rate {rate:g}", learning_rate=rate)
        for rate in rates
    ]
    if arm.kind == "deepseek":
        found += [
            replace(
                arm,
                name=f"{arm.name}@sign-{rate:g}",
                label=f"{arm.label}, sign rule {rate:g}",
                options={**arm.options, "price_rate": rate},
            )
            for rate in SIGN_RATES
            if rate != arm.options.get("price_rate")
        ]
    return found


VARIED = "hamiltonian-1.25"
# One thing at a time that might hold the budgeted arm back: how sharp gates begin, how fast prices and gap
# move, how many experts a token may have at most (and all have at first), where tokens and centroids meet.
VARIATIONS: dict[str, dict[str, Any]] = {
    "temperature 0.1": {"temperature": 0.1},
    "temperature 1": {"temperature": 1.0},
    "price rate 0.005": {"price_rate": 0.005},
    "price rate 0.08": {"price_rate": 0.08, "step_limit": 0.08},
    "gap rate 0.0025": {"gap_rate": 0.0025},
    "gap rate 0.04": {"gap_rate": 0.04},
    "at most 3": {"top_k": 3},
    "at most 4": {"top_k": 4},
    "no projection": {"router_dim": None},
    "dot binding": {"binding": "dot"},
}


def variations(arms: Mapping[str, Arm] = ARMS) -> list[Arm]:
    """Mixtral top-2, the budgeted arm as it is, and with one thing changed at a time."""
    arm = arms[VARIED]
    found = [arms[BASELINE], arm]
    for name, options in VARIATIONS.items():
        options = dict(options)
        top_k = options.pop("top_k", arm.top_k)
        slug = name.replace(" ", "-")
        found.append(
            replace(
                arm,
                name=f"{arm.name}@{slug}",
                label=f"{arm.label}, {name}",
                top_k=top_k,
                options={**arm.options, **options},
            )
        )
    return found
