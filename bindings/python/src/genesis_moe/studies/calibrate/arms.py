"""What differs between the arms: options of gm.calibrate."""

from __future__ import annotations

from typing import Any

ARMS: dict[str, dict[str, Any]] = {
    "hamiltonian": {},
    "all-shared": {"experts": 0},
    "oracle": {"router": "oracle"},
    "FLAP-like": {"experts": 0, "score": "fluctuation", "compensator": "bias", "target": "layer"},
    "representative": {"router": "representative"},
    "random": {"router": "random"},
    "uniform": {"allocation": "uniform"},
    "layer-target": {"target": "layer"},
    "hamiltonian-distilled": {},
    "all-shared-distilled": {"experts": 0},
}
LABELS = {
    "hamiltonian": "shared + routed, ridge router, tokens differ in experts (ours)",
    "all-shared": "all shared: static, with the same least squares",
    "oracle": "the same experts, oracle router, fixed number",
    "FLAP-like": "static by fluctuation, bias (as FLAP)",
    "representative": "the same experts, representative-neuron router",
    "random": "the same experts, random router",
    "uniform": "ours, the same share in every layer",
    "layer-target": "ours, fitted to each dense layer on its own",
    "hamiltonian-distilled": "ours, then distilled",
    "all-shared-distilled": "all shared, then distilled alike",
}
