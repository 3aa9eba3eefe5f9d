"""Several processes: on torch.distributed, with no transport of our own.

:func:`genesis_moe.step` sums what ranks counted; here are experts spread over ranks, and
checkpoints of such models.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genesis_moe.distributed.checkpoint import latest, load, save
    from genesis_moe.distributed.exchange import Traffic
    from genesis_moe.distributed.expert_parallel import ExpertParallel
    from genesis_moe.distributed.reduction import Reduction
    from genesis_moe.distributed.sharding import clip_grad_norm_, shard_experts

# Fetched when first used: genesis_moe.moe imports from this package, and it from there.
_HOMES = {
    "ExpertParallel": "expert_parallel",
    "Reduction": "reduction",
    "Traffic": "exchange",
    "clip_grad_norm_": "sharding",
    "latest": "checkpoint",
    "load": "checkpoint",
    "save": "checkpoint",
    "shard_experts": "sharding",
}

__all__ = [
    "ExpertParallel",
    "Reduction",
    "Traffic",
    "clip_grad_norm_",
    "latest",
    "load",
    "save",
    "shard_experts",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
