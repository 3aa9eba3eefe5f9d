"""Hugging Face transformers: our experts in any decorated model, our router in the known families.

``import genesis_moe`` arranges for two things to happen once transformers is imported, in
whichever order the two imports come, and imports neither transformers nor torch itself:

- the experts implementation ``"genesis_moe"`` is registered, so that
  ``from_pretrained(..., experts_implementation="genesis_moe")`` and
  ``model.set_experts_implementation("genesis_moe")`` accept it (:mod:`.experts`);
- a checkpoint of a model that :func:`inject` changed is rebuilt by ``from_pretrained``
  (:mod:`.restore`).

Nothing changes for a model that asks for neither. transformers 5.7 or later; an older one is
left alone, and :func:`inject` says so.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

from genesis_moe.huggingface.import_hook import when_imported

if TYPE_CHECKING:
    from genesis_moe.huggingface.callback import GenesisCallback
    from genesis_moe.huggingface.injection import inject, inject_router
    from genesis_moe.huggingface.router import InjectedRouter

__all__ = ["GenesisCallback", "InjectedRouter", "inject", "inject_router", "install"]

# These need torch and transformers, so each is imported when it is asked for.
_HOMES = {
    "GenesisCallback": "callback",
    "InjectedRouter": "router",
    "inject": "injection",
    "inject_router": "injection",
}


def install() -> None:
    """Arranges the two things above. ``import genesis_moe`` calls it; again is harmless."""
    # Every model imports this module, and the table of experts functions before it.
    when_imported("transformers.modeling_utils", _register)


def _register(modeling_utils: ModuleType) -> None:
    from genesis_moe.huggingface import experts, restore

    if experts.register():
        restore.register(modeling_utils.PreTrainedModel)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
