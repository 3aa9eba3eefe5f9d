"""``inject``: our router in a pretrained model, or in a fresh one."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from genesis_moe._hosted import router_settings
from genesis_moe.errors import InvalidArgumentError, UnsupportedError
from genesis_moe.huggingface import experts
from genesis_moe.huggingface.families import MODE_OF, is_supported, own_settings
from genesis_moe.huggingface.router import InjectedRouter, convert
from genesis_moe.router import Router

# The attribute of a configuration that records an injection, and the layout of its value.
RECORD = "genesis_moe"
RECORD_VERSION = 1


def inject(model: nn.Module, router: str = "hamiltonian", **options: Any) -> nn.Module:
    """Replaces the routers of a transformers model, in place, and returns the model.

    model: a PreTrainedModel of the Mixtral, Qwen3-MoE, OLMoE, DeepSeek-V3 or gpt-oss family;
    anything else raises UnsupportedError naming what was found. Inject before the model is
    wrapped (DDP, FSDP, PEFT, torch.compile) and before an optimiser is made for it.

    router: "hamiltonian", "mixtral" or "deepseek". options: keyword arguments of
    :class:`genesis_moe.Router`; top_k defaults to the model's own, and for hamiltonian:

    - binding "dot" (the default here) without router_dim keeps the pretrained gate's weight
      and starts from T_g = 1 and prices of zero: a model whose router was a softmax computes
      what it did before, until prices, budget or temperature move. Its gates keep the
      original scale too (OLMoE's softmax over all experts, DeepSeek's scaling factor);
    - binding "cosine" starts anew: router_dim = 64 with fresh centroids and T_g = 0.3;
      router_dim=None keeps the gate's rows as centroids.

    "mixtral" and "deepseek" also keep the weight; each is exact for the families that route
    that way. The experts implementation becomes "genesis_moe".

    Balance needs :func:`genesis_moe.step` after each optimiser step (GenesisCallback does it
    in a Trainer). Prices replace the auxiliary loss: for hamiltonian and deepseek its
    coefficient, where the model has one, is set to 0.

    ``save_pretrained`` records the injection in the configuration, and ``from_pretrained`` in
    a process that has imported genesis_moe restores it, with the experts implementation
    "genesis_moe" where none but the default is asked for. Without that import, transformers
    loads the original router: the same function right after a "dot" injection, but without
    price and budget (it lists them as unexpected keys); with a router_dim it stops at the size
    of ``gate.weight``.
    """
    experts.require()
    from transformers import PreTrainedModel

    if not isinstance(model, PreTrainedModel):
        raise UnsupportedError(f"model: {type(model).__name__}, want a transformers.PreTrainedModel")
    if options.get("max_experts") is not None:
        raise UnsupportedError(
            f"max_experts: {options['max_experts']}, but the experts of a transformers model have no room to grow; "
            f"want gm.MoE(..., max_experts=...) layers in a model of your own"
        )
    gates = _find_gates(model)
    settings = [
        router_settings(own_settings(gate), getattr(gate, "bias", None) is not None, router, options)
        for gate in gates
    ]
    if any(one != settings[0] for one in settings):
        raise UnsupportedError(f"model: the routers of this {type(model).__name__} differ among themselves")
    _apply(gates, settings[0])
    model.set_experts_implementation(experts.NAME)
    config: Any = model.config
    setattr(config, RECORD, {"version": RECORD_VERSION, "router": settings[0]})
    _tell_host(model, settings[0])
    return model


def inject_router(model: nn.Module, mode: str = "genesis", **options: Any) -> nn.Module:
    """:func:`inject` by its earlier name; mode "genesis" is "hamiltonian"."""
    return inject(model, "hamiltonian" if mode == "genesis" else mode, **options)


def restore(model: Any) -> None:
    """Repeats the injection that the model's configuration records, if any, on a model just built.

    The values come from the checkpoint, which transformers loads afterwards.
    """
    record = getattr(model.config, RECORD, None)
    if record is None:
        return
    version = record.get("version") if isinstance(record, dict) else record
    if version != RECORD_VERSION:
        raise InvalidArgumentError(
            f"config.{RECORD}: version {version!r}, want {RECORD_VERSION}; "
            f"the model was saved by another release of genesis_moe"
        )
    gates = [module for module in model.modules() if is_supported(module)]
    _apply(gates, record["router"])
    chosen = model.config._experts_implementation
    if chosen in (None, "grouped_mm"):  # transformers' default; another is the user's choice
        model.set_experts_implementation(experts.NAME)
    elif chosen == "eager" and record["router"].get("budget") is not None:
        raise InvalidArgumentError(
            'experts_implementation: "eager", but this model has a budget, and transformers\' eager '
            'experts cannot leave a slot empty; want "genesis_moe", "grouped_mm" or "batched_mm"'
        )


def _apply(gates: list[nn.Module], settings: dict[str, Any]) -> None:
    for gate in gates:  # refuse bad settings before anything has changed
        weight: Any = gate.weight
        Router(weight.shape[1], weight.shape[0], **settings, device="meta")
    for gate in gates:
        convert(gate, settings)


def _find_gates(model: nn.Module) -> list[nn.Module]:
    gates = []
    for name, module in model.named_modules():
        if isinstance(module, InjectedRouter):
            raise InvalidArgumentError(
                f"model: {name} is a {type(module).__name__}; the model is injected already"
            )
        if is_supported(module):
            if "_hf_hook" in vars(module):
                raise UnsupportedError(
                    f"model: accelerate has dispatched {name}; inject into the model as loaded "
                    f"without a device_map, save_pretrained it, and load that with the device_map"
                )
            if "forward" in vars(module):  # its plan is in a forward of its own, which knows the old class
                raise UnsupportedError(
                    f"model: transformers has distributed {name}; inject into the model as loaded "
                    f"without a distributed_config, save_pretrained it, and load that with it"
                )
            gates.append(module)
    if gates:
        return gates
    supported = ", ".join(sorted(path.rpartition(".")[2] for path in MODE_OF))
    found = sorted({type(m).__name__ for m in model.modules() if "router" in type(m).__name__.lower()})
    raise UnsupportedError(
        f"model: {type(model).__name__} has {'the routers ' + ', '.join(found) if found else 'no router'}; "
        f'inject supports {supported}. experts_implementation="genesis_moe" needs no injection'
    )


def _tell_host(model: Any, settings: dict[str, Any]) -> None:
    """What the model and its configuration say about routing, brought in line."""
    model.config.num_experts_per_tok = settings["top_k"]
    if hasattr(model, "num_experts_per_tok"):
        model.num_experts_per_tok = settings["top_k"]
    if settings["mode"] == "mixtral":
        return
    for owner in (model, model.config):
        if hasattr(owner, "router_aux_loss_coef"):
            owner.router_aux_loss_coef = 0.0


def uninitialized(model: Any, module: InjectedRouter) -> None:
    """Fills what a checkpoint did not hold of an injected router."""
    with torch.no_grad():
        module.initialize(float(getattr(model.config, "initializer_range", None) or 0.02))
