"""Injected checkpoints, rebuilt by ``from_pretrained``.

transformers builds a model from its configuration and then fills it from the checkpoint. Two
methods of PreTrainedModel are the seams, and both do nothing more for a model whose
configuration records no injection:

- ``post_init``, which ends the construction of every model and submodel: afterwards routers
  are injected as ``config.genesis_moe`` says, still without values;
- ``_initialize_weights``, which fills what the checkpoint did not hold, including buffers that
  are never saved: for our routers it must not run the original router's initialisation.

``save_pretrained`` refuses experts that :func:`genesis_moe.quantize` made, which could not come back.
"""

from __future__ import annotations

import functools
from typing import Any

from genesis_moe import quantization
from genesis_moe.huggingface import injection
from genesis_moe.huggingface.router import InjectedRouter
from genesis_moe.router import Router

_WRAPPED = "_genesis_moe_wrapped"


def register(model_class: Any) -> None:
    """Wraps these methods of ``transformers.PreTrainedModel``; again is harmless."""
    if getattr(model_class, _WRAPPED, False):
        return
    post_init = model_class.post_init
    initialize_weights = model_class._initialize_weights
    save_pretrained = model_class.save_pretrained

    @functools.wraps(post_init)
    def post_init_and_inject(self: Any) -> None:
        post_init(self)
        injection.restore(self)
        if hasattr(self.config, "genesis_moe_calibration"):
            from genesis_moe.calibration import restore as calibration

            calibration.restore(self)

    @functools.wraps(initialize_weights)
    def initialize_weights_of_ours(self: Any, module: Any, *args: Any, **kwargs: Any) -> None:
        if hasattr(self.config, "genesis_moe_calibration") and type(module) is Router:
            # All else is in the checkpoint; these two never are.
            module.counts.zero_()
            module.tokens.zero_()
        elif not isinstance(module, InjectedRouter):
            initialize_weights(self, module, *args, **kwargs)
        elif not getattr(module, "_is_hf_initialized", False):
            injection.uninitialized(self, module)
            module._is_hf_initialized = True  # type: ignore[assignment]

    @functools.wraps(save_pretrained)
    def save_unless_quantized(self: Any, *args: Any, **kwargs: Any) -> Any:
        quantization.refuse_save(self)
        return save_pretrained(self, *args, **kwargs)

    model_class.save_pretrained = save_unless_quantized
    model_class.post_init = post_init_and_inject
    model_class._initialize_weights = initialize_weights_of_ours
    setattr(model_class, _WRAPPED, True)
