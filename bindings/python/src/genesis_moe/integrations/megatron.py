"""Experts and routers of Megatron-Core (0.16) by its layer specifications.

::

    spec = get_gpt_layer_local_spec(num_experts=8, moe_grouped_gemm=False)
    mlp = spec.submodules.mlp
    mlp.submodules = moe_submodules(mlp.submodules, router="hamiltonian", budget=1.25)

The names in the shapes: T tokens, R rows that have travelled to this rank's experts, sorted by expert,
H hidden_size, I moe_ffn_hidden_size, E num_moe_experts, and n of them on this rank.
"""

from __future__ import annotations

import contextlib
import functools
from dataclasses import replace
from typing import Any, cast

import torch
import torch.nn.functional as F  # noqa: N812
from megatron.core import activations, tensor_parallel
from megatron.core.fusions import fused_bias_geglu
from megatron.core.transformer.mlp import apply_swiglu_sharded_factory
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.moe.moe_layer import MoESubmodules
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.utils import ensure_metadata_has_dp_cp_group
from megatron.core.utils import make_tp_sharded_tensor_for_checkpoint
from torch import Tensor, nn

from genesis_moe import functional
from genesis_moe._hosted import HostedRouter, host_weights, router_settings
from genesis_moe.errors import InvalidArgumentError, UnsupportedError
from genesis_moe.router import Router

__all__ = ["Experts", "TopKRouter", "moe_submodules"]


def moe_submodules(
    original: MoESubmodules, router: str | None = "hamiltonian", **options: Any
) -> MoESubmodules:
    """The submodules of a MoELayer with the library's experts, and its router unless that is None.

    original: those of the layer's specification; shared experts stay. router: "hamiltonian", "mixtral"
    (moe_router_score_function "softmax") or "deepseek" ("sigmoid"). options: keyword arguments of
    :class:`genesis_moe.Router`. As with :func:`genesis_moe.inject`, hamiltonian starts from binding "dot"
    without router_dim, which computes what a softmax router computed with the same weight; binding
    "cosine" with router_dim 64 starts anew. What the configuration asks for and these modules have not
    is refused, by its name, when the model is built.
    """
    if router is None:
        if options:
            raise InvalidArgumentError(f"{next(iter(options))}: was given, but router is None")
        return replace(original, experts=Experts)
    return replace(original, experts=Experts, router=functools.partial(TopKRouter, mode=router, **options))


# ------------------------------------------------------------------------------- the experts


class Experts(MegatronModule):
    """The experts of one rank: ``forward(rows [R, H], tokens_per_expert [n], probs [R]) -> ([R, H], None)``.

    Parameters: ``gate_up_proj`` [n, 2I, H], gate rows first ([n, I, H] without gated_linear_unit), and
    ``down_proj`` [n, H, I]. In ``state_dict`` and ``sharded_state_dict`` they are what SequentialMLP has,
    ``local_experts.i.linear_fc1.weight`` and ``linear_fc2.weight``, views of the parameters; the names of
    TEGroupedMLP (``linear_fc1.weighti``) are loaded too.

    As in Megatron, the output is already multiplied by probs. Activations are always recomputed in
    backward, so recompute_modules "moe_act" changes nothing.
    """

    def __init__(
        self,
        num_local_experts: int,
        config: TransformerConfig,
        pg_collection: Any = None,
        name: str | None = None,
    ) -> None:
        super().__init__(config=config)
        self.activation, self.limit = _activation(config)
        _refuse(config, _OF_EXPERTS)
        if pg_collection.expt_tp is not None and pg_collection.expt_tp.size() > 1:
            raise UnsupportedError(f"expert_tensor_parallel_size: {pg_collection.expt_tp.size()}, want 1")
        self.num_local_experts, self.layer_number = num_local_experts, 0
        self.ep_group, self.dp_group, self.tp_group = (
            pg_collection.ep,
            pg_collection.expt_dp,
            pg_collection.expt_tp,
        )
        width, hidden = config.hidden_size, config.moe_ffn_hidden_size
        device = "cpu" if config.use_cpu_initialization else torch.cuda.current_device()
        rows = hidden * (2 if config.gated_linear_unit else 1)
        for parameter, shape, draw in (
            ("gate_up_proj", (num_local_experts, rows, width), config.init_method),
            ("down_proj", (num_local_experts, width, hidden), config.output_layer_init_method),
        ):
            weight = nn.Parameter(torch.empty(shape, dtype=config.params_dtype, device=device))
            # What ColumnParallelLinear says of an expert's weight to the optimiser and the gradients' reduction.
            weight.allreduce = config.expert_model_parallel_size == 1  # type: ignore[attr-defined]
            # No other rank has the same rows: else a norm of gradients counts the first tensor rank's alone.
            axis = 1 if parameter == "gate_up_proj" else 2
            tensor_parallel.set_tensor_model_parallel_attributes(weight, True, axis, 1)
            setattr(self, parameter, weight)
            if config.perform_initialization:
                with torch.no_grad(), _expert_random_state(weight):
                    for expert in weight:
                        draw(expert)
        self.register_state_dict_post_hook(_to_sequential)
        self.register_load_state_dict_pre_hook(_from_sequential)

    def forward(
        self, permuted_local_hidden_states: Tensor, tokens_per_expert: Tensor, permuted_probs: Tensor
    ) -> tuple[Tensor, None]:
        rows = permuted_local_hidden_states
        # The dispatcher leaves the counts on the host, where their sum costs nothing.
        index = torch.repeat_interleave(
            torch.arange(self.num_local_experts, device=rows.device),
            tokens_per_expert.to(rows.device),
            output_size=rows.shape[0],
        )
        output: Tensor = functional.experts(
            rows,
            index[:, None],
            permuted_probs.reshape(-1, 1),
            self.gate_up_proj,
            self.down_proj,
            activation=self.activation,
            gated=self.config.gated_linear_unit,
            limit=self.limit,
        )
        return output, None

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: Any = (), metadata: Any = None
    ) -> dict[str, Any]:
        """Under SequentialMLP's global keys, as ``experts.linear_fc1.weight`` with an axis of experts."""
        metadata = ensure_metadata_has_dp_cp_group(metadata)
        single = bool(metadata.get("singleton_local_shards", False))
        ranks, rank = self.ep_group.size(), self.ep_group.rank()
        shards: dict[str, Any] = {}
        for name, tensor in self.state_dict(keep_vars=True).items():
            _, expert, weight = name.split(".", 2)
            number = rank * self.num_local_experts + int(expert)
            place = (len(sharded_offsets), number, ranks * self.num_local_experts)
            offsets = sharded_offsets if single else (*sharded_offsets, place)
            shard = make_tp_sharded_tensor_for_checkpoint(
                tensor,
                f"{prefix}experts.{number}.{weight}" if single else f"{prefix}experts.{weight}",
                0 if weight.startswith("linear_fc1") else 1,
                prepend_offsets=offsets,
                tp_group=self.tp_group,
                dp_cp_group=metadata["dp_cp_group"],
            )
            shard.replica_id = (*shard.replica_id[:2], self.dp_group.rank())
            if self.config.gated_linear_unit and weight.startswith("linear_fc1"):
                shard = apply_swiglu_sharded_factory(shard, offsets, single)
            shards[prefix + name] = shard
        return shards

    def backward_dw(self) -> None:
        """Nothing is left to do: the gradients of the weights are those of backward."""


_LAYERS = {"gate_up_proj": "linear_fc1", "down_proj": "linear_fc2"}


def _to_sequential(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    for parameter, layer in _LAYERS.items():
        for i, weight in enumerate(state.pop(prefix + parameter)):
            state[f"{prefix}local_experts.{i}.{layer}.weight"] = weight


def _from_sequential(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    number = cast(Experts, module).num_local_experts
    for parameter, layer in _LAYERS.items():
        for names in (
            [f"{prefix}local_experts.{i}.{layer}.weight" for i in range(number)],
            [f"{prefix}{layer}.weight{i}" for i in range(number)],
        ):
            if all(name in state for name in names):
                state[prefix + parameter] = torch.stack([state.pop(name) for name in names])
    for name in [name for name in state if name.startswith(prefix) and name.endswith("_extra_state")]:
        del state[name]  # of quantisation, which TransformerEngine's layers have and these have not


def _expert_random_state(weight: Tensor) -> contextlib.AbstractContextManager[None]:
    if not weight.is_cuda:
        return contextlib.nullcontext()
    name = tensor_parallel.random.get_expert_parallel_rng_tracker_name()
    return tensor_parallel.random.get_cuda_rng_tracker().fork(name)


_ACTIVATIONS = {
    F.silu: "silu",
    F.gelu: "gelu",
    F.relu: "relu",
    torch.sigmoid: "sigmoid",
    torch.tanh: "tanh",
    activations.squared_relu: "relu_squared",
    activations.quick_gelu: "quick_gelu",
    fused_bias_geglu.quick_gelu: "quick_gelu",
    activations.fast_gelu: "gelu_tanh",
}


def _activation(config: TransformerConfig) -> tuple[str, float]:
    """The library's name of the configuration's activation, and its limit."""
    name = _ACTIVATIONS.get(config.activation_func)
    if name is None:
        shown = getattr(config.activation_func, "__name__", config.activation_func)
        wanted = ", ".join(function.__name__ for function in _ACTIVATIONS)
        raise UnsupportedError(f"activation_func: {shown}, want one of {wanted}")
    limit, offset = config.activation_func_clamp_value, config.glu_linear_offset
    if not config.gated_linear_unit or (limit is None and offset == 0.0):
        return name, 7.0
    if limit is not None and (name, offset) == ("quick_gelu", 1.0):
        return "clipped_swiglu", float(limit)
    if limit is not None and (name, offset) == ("silu", 0.0):
        return "clipped_silu", float(limit)
    raise UnsupportedError(
        f"glu_linear_offset: {offset} with activation_func_clamp_value {limit} and activation_func {name}, "
        f"want 0.0 and None, or a clamped quick_gelu with 1.0, or a clamped silu with 0.0"
    )


# -------------------------------------------------------------------------------- the router


class TopKRouter(MegatronModule, HostedRouter, Router):  # type: ignore[misc]
    """``forward(hidden_states [..., H]) -> (probs [T, E], routing_map [T, E] bool)``, both dense.

    A :class:`genesis_moe.Router` whose centroids are ``weight`` [E, H] in checkpoints, as in Megatron's
    router. With a budget, a token's row of the map has fewer than moe_router_topk entries.
    :func:`genesis_moe.step` keeps the balance, with ``process_group`` the ranks that see different
    tokens: ``parallel_state.get_tensor_and_data_parallel_group(with_context_parallel=True)``.
    """

    def __init__(
        self, config: TransformerConfig, pg_collection: Any = None, mode: str = "hamiltonian", **options: Any
    ) -> None:
        _refuse(config, _OF_ROUTER)
        settings = router_settings(_own_settings(config, mode), False, mode, options)
        if settings["top_k"] != config.moe_router_topk:
            raise InvalidArgumentError(
                f"top_k: {settings['top_k']}, want {config.moe_router_topk} as moe_router_topk is"
            )
        if settings.get("budget") is not None:
            _refuse(config, _OF_BUDGETS)
        device: Any = "cpu" if config.use_cpu_initialization else torch.cuda.current_device()
        Router.__init__(
            self,
            config.hidden_size,
            config.num_moe_experts,
            **settings,
            dtype=config.params_dtype,
            device=device,
        )
        self.config, self.tp_group = config, None if pg_collection is None else pg_collection.tp
        self.layer_number: int | None = None
        if config.perform_initialization and self.projection is None:
            config.init_method(self.weight)
        for parameter in self.parameters():
            # Each tensor parallel rank sees its share of a sequence: Megatron sums the gradients of those.
            parameter.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]

    def set_layer_number(self, layer_number: int) -> None:
        self.layer_number = layer_number

    def forward(self, input: Tensor, padding_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        if padding_mask is not None:
            raise UnsupportedError("padding_mask: was given, want None; padding would count as load")
        routing = Router.forward(self, input.reshape(-1, self.hidden_size))
        weights, index = host_weights(self, routing), routing.index
        # One more column, for the index E of absent slots.
        shape = index.shape[0], self.num_experts + 1
        probs = weights.new_zeros(shape).scatter(1, index, weights)
        chosen = torch.zeros(shape, dtype=torch.bool, device=index.device).scatter(1, index, True)
        return probs[:, :-1], chosen[:, :-1]


def _own_settings(config: TransformerConfig, mode: str) -> dict[str, Any]:
    """The settings of ``genesis_moe.Router`` with which it computes what this configuration says."""
    sigmoid = config.moe_router_score_function == "sigmoid"
    groups = config.moe_router_num_groups
    if groups is not None and not (sigmoid and mode == "deepseek"):
        raise UnsupportedError(
            f"moe_router_num_groups: {groups} with moe_router_score_function {config.moe_router_score_function!r} "
            f"and router {mode!r}, want None; only router 'deepseek' with 'sigmoid' has groups"
        )
    settings: dict[str, Any] = {
        "mode": "deepseek" if sigmoid else "mixtral",
        "top_k": config.moe_router_topk,
        # Megatron divides sigmoid scores by their sum where there are several.
        "normalize_top_k": config.moe_router_topk > 1 if sigmoid else not config.moe_router_pre_softmax,
        "scaling_factor": float(config.moe_router_topk_scaling_factor or 1.0),
    }
    if groups is not None:
        # A group's score is the sum of its best topk / group_topk in Megatron, and of its best two here.
        if config.moe_router_topk != 2 * config.moe_router_group_topk:
            raise UnsupportedError(
                f"moe_router_group_topk: {config.moe_router_group_topk} with moe_router_topk "
                f"{config.moe_router_topk}, want half of moe_router_topk"
            )
        settings |= {"num_groups": groups, "top_k_groups": config.moe_router_group_topk}
    return settings


# ------------------------------------------------------------------------ what we have not

_OF_EXPERTS: dict[str, tuple[Any, ...]] = {
    "add_bias_linear": (False,),
    "params_dtype": (torch.float32, torch.bfloat16, torch.float64),
    "fp8": (None, False),
    "fp4": (None, False),
    "moe_apply_probs_on_input": (False,),
    "moe_latent_size": (None,),
    "use_te_activation_func": (False,),
    "activation_func_fp8_input_store": (False,),
    "delay_wgrad_compute": (False,),
}
_OF_ROUTER: dict[str, tuple[Any, ...]] = {
    "moe_router_load_balancing_type": ("none", "aux_loss", "seq_aux_loss", "global_aux_loss"),
    "moe_aux_loss_coeff": (0, 0.0),  # prices keep the balance
    "moe_z_loss_coeff": (None, 0.0),
    "moe_input_jitter_eps": (None,),
    "moe_router_enable_expert_bias": (False,),  # mode "deepseek" has its own, in genesis_moe.step
    "moe_router_force_load_balancing": (False,),
    "moe_enable_routing_replay": (False,),
    "moe_expert_capacity_factor": (None,),
    "moe_router_padding_for_quantization": (False, None),
    "moe_router_dtype": (None, "fp32"),
}
# The dispatchers that take what the map says, and not top_k rows a token.
_OF_BUDGETS: dict[str, tuple[Any, ...]] = {
    "moe_token_dispatcher_type": ("allgather", "alltoall"),
    "moe_permute_fusion": (False,),
}


def _refuse(config: TransformerConfig, wanted: dict[str, tuple[Any, ...]]) -> None:
    for name, allowed in wanted.items():
        found = getattr(config, name, allowed[0])
        if not any(found is value or (type(found) is type(value) and found == value) for value in allowed):
            choices = " or ".join(map(repr, allowed))
            raise UnsupportedError(f"{name}: {found!r}, want {choices}")
