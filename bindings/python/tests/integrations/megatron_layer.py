"""Layers of Megatron-Core itself on the CPU, small; every function runs in a process that has its groups."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
import torch.distributed as distributed

WIDTH, HIDDEN, EXPERTS, TOP_K = 16, 24, 6, 2


class _Stream:
    """Where there is no GPU: nothing runs beside, and nothing needs to be waited for."""

    def wait_stream(self, other: Any) -> None: ...

    def record_event(self) -> _Stream:
        return self

    def synchronize(self) -> None: ...


def _as_splits(tensor: Any, as_numpy: bool = False, record_stream: bool = False) -> Any:
    """Megatron makes numbers of an exchange's splits on their way from the GPU."""
    return tensor.numpy() if as_numpy and isinstance(tensor, torch.Tensor) else tensor


@contextlib.contextmanager
def groups(expert_parallel: int = 1) -> Iterator[None]:
    """Megatron's groups over the ranks of the default group, on the CPU.

    Megatron asks CUDA for the current device, streams and random states, without asking whether there is a
    GPU; here it gets the CPU, streams that do nothing and torch's own random state. All else is Megatron's own.
    """
    # Its fused functions are compiled when they are first called, which takes longer than everything else here.
    os.environ["TORCHDYNAMO_DISABLE"] = "1"
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel.random import CudaRNGStatesTracker
    from megatron.core.transformer.moe import moe_utils, token_dispatcher

    if not hasattr(moe_utils, "te_general_gemm"):  # 0.16.1 reads it where TransformerEngine is missing, too
        moe_utils.te_general_gemm = None
    stream = _Stream()
    with contextlib.ExitStack() as patches:
        for where, name, value in (
            (torch.cuda, "current_device", lambda: torch.device("cpu")),
            (torch.cuda, "current_stream", lambda: stream),
            (torch.cuda, "stream", contextlib.nullcontext),
            (torch.cuda, "synchronize", lambda *_: None),
            (token_dispatcher.MoEAlltoAllTokenDispatcher, "cuda_dtoh_stream", stream),
            (token_dispatcher, "maybe_move_tensor_to_cpu", _as_splits),
            (CudaRNGStatesTracker, "fork", lambda *_: contextlib.nullcontext()),
        ):
            patches.enter_context(mock.patch.object(where, name, value))
        parallel_state.initialize_model_parallel(expert_model_parallel_size=expert_parallel)
        try:
            yield
        finally:
            parallel_state.destroy_model_parallel()
            del os.environ["TORCHDYNAMO_DISABLE"]


def config(**options: Any) -> Any:
    from megatron.core.transformer.transformer_config import TransformerConfig

    defaults = {
        "num_layers": 1,
        "hidden_size": WIDTH,
        "num_attention_heads": 2,
        "ffn_hidden_size": HIDDEN,
        "moe_ffn_hidden_size": HIDDEN,
        "num_moe_experts": EXPERTS,
        "moe_router_topk": TOP_K,
        "moe_router_load_balancing_type": "none",
        "gated_linear_unit": True,
        "activation_func": torch.nn.functional.silu,
        "add_bias_linear": False,
        "use_cpu_initialization": True,
        "bias_activation_fusion": False,
        "gradient_accumulation_fusion": False,
        "init_method_std": 0.3,
        "moe_token_dispatcher_type": "allgather",
        "expert_model_parallel_size": 1,
    }
    return TransformerConfig(**{**defaults, **options})


def layer(configuration: Any, router: str | None = None, ours: bool = True, **options: Any) -> Any:
    """A MoELayer of the specification that Megatron gives, with our submodules in it or without."""
    from megatron.core.models.gpt.moe_module_specs import get_moe_module_spec
    from megatron.core.transformer.moe.moe_layer import MoELayer

    from genesis_moe.integrations.megatron import moe_submodules

    spec = get_moe_module_spec(use_te=False, num_experts=EXPERTS, moe_grouped_gemm=False)
    submodules = moe_submodules(spec.submodules, router=router, **options) if ours else spec.submodules
    torch.manual_seed(0)
    return MoELayer(configuration, submodules)


def outcome(module: Any, part: slice = slice(None)) -> dict[str, torch.Tensor]:
    """The output and the gradients of input and parameters, by their names in checkpoints; of a part of the tokens."""
    x, direction = torch.randn(2, 8, 3, WIDTH, generator=torch.Generator().manual_seed(1))[:, part]
    tokens = x.clone().requires_grad_()
    output, _ = module(tokens)
    (output * direction).sum().backward()
    gradients = {}
    for name, parameter in module.named_parameters():
        folder, _, weight = name.rpartition(".")
        if weight in ("gate_up_proj", "down_proj"):
            for i, gradient in enumerate(parameter.grad):
                number = {"gate_up_proj": 1, "down_proj": 2}[weight]
                gradients[f"{folder}.local_experts.{i}.linear_fc{number}.weight"] = gradient
        else:
            gradients[name] = parameter.grad
    return {"output": output.detach(), "input": tokens.grad, **gradients}


def tokens() -> torch.Tensor:
    return torch.randn(8, 3, WIDTH, generator=torch.Generator().manual_seed(1))


def expert_parallel(dispatcher: str, budget: float | None) -> dict[str, Any]:
    """This rank's half of the tokens, and of the experts, through Megatron's own dispatcher."""
    import genesis_moe as gm

    world, rank = distributed.get_world_size(), distributed.get_rank()
    with groups(world):
        options = {"moe_token_dispatcher_type": dispatcher, "expert_model_parallel_size": world}
        module = layer(config(**options), "hamiltonian", budget=budget)
        torch.manual_seed(0)
        weights = torch.randn(EXPERTS, 2 * HIDDEN, WIDTH) / 4, torch.randn(EXPERTS, WIDTH, HIDDEN) / 4
        share = slice(rank * EXPERTS // world, (rank + 1) * EXPERTS // world)
        with torch.no_grad():
            module.experts.gate_up_proj.copy_(weights[0][share])
            module.experts.down_proj.copy_(weights[1][share])
            module.router.weight.copy_(torch.randn(EXPERTS, WIDTH) / 4)
        found = outcome(module, slice(rank * 8 // world, (rank + 1) * 8 // world))
        gm.step(module)
        return {
            "output": found["output"],
            "input": found["input"],
            "gate_up_proj": module.experts.gate_up_proj.grad,
            "down_proj": module.experts.down_proj.grad,
            "price": module.router.price,
            "rows": int(module.router.last_routing.counts.sum()),
        }


def checkpoint(folder: str, write: bool, ours: bool) -> dict[str, torch.Tensor]:
    """Writes or reads a distributed checkpoint of the experts in Megatron's format."""
    from megatron.core import dist_checkpointing

    # Its writer starts a process, which a rank, being a daemon, may not.
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
    world = distributed.get_world_size()
    with groups(world):
        module = layer(config(expert_model_parallel_size=world), ours=ours)
        sharded = module.experts.sharded_state_dict("experts.")
        if write:
            dist_checkpointing.save(sharded, folder)
        else:
            with torch.no_grad():
                for parameter in module.parameters():
                    parameter.zero_()
            loaded = dist_checkpointing.load(sharded, folder)
            module.experts.load_state_dict({name.removeprefix("experts."): t for name, t in loaded.items()})
        return {name: t.detach().clone() for name, t in module.experts.state_dict().items() if t is not None}
