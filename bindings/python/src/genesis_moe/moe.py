"""The Mixture-of-Experts layer as a torch module."""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor, nn

from genesis_moe import functional, quantization
from genesis_moe.distributed.expert_parallel import ExpertParallel
from genesis_moe.distributed.scaling import local_experts
from genesis_moe.errors import InvalidArgumentError, UnsupportedError
from genesis_moe.mitosis import growth
from genesis_moe.mitosis.clans import Clans
from genesis_moe.mitosis.options import MitosisOptions
from genesis_moe.mitosis.probe import Probe
from genesis_moe.options import ACTIVATIONS, experts_scalars, number_of
from genesis_moe.router import Router
from genesis_moe.routing import Routing


class MoE(nn.Module):
    """y = layer(x) for x [..., H]: each token goes through the experts that its router chooses.

    hidden_size: H. intermediate_size: I. num_experts: E. top_k: experts per token; with a
    budget, the most that a token may have. budget: experts per token wanted on average;
    router "hamiltonian". router: a mode of :class:`Router`, or a Router of your own,
    which then says num_experts, top_k and budget itself. shared_experts: experts of the
    same size that every token goes through, as DeepSeek has them. activation: see
    ``genesis_moe.functional.experts``. gated: whether the first projection has a gate.
    bias: whether the projections of the experts have biases. router_options: passed on to
    :class:`Router`.

    Parameters, in the layout of Hugging Face: ``gate_up_proj`` [E, 2I, H], gate rows first
    ([E, I, H] when not gated), ``down_proj`` [E, H, I], ``gate_up_proj_bias``,
    ``down_proj_bias``, and ``shared_*`` likewise. They start as those of ``nn.Linear``.
    :func:`genesis_moe.quantize` makes the projections float8_e4m3fn, for inference.
    """

    def __init__(
        self,
        hidden_size: int,
        intermediate_size: int,
        num_experts: int,
        top_k: int = 2,
        budget: float | None = None,
        router: str | Router = "hamiltonian",
        shared_experts: int = 0,
        activation: str = "silu",
        gated: bool = True,
        bias: bool = False,
        max_experts: int | None = None,
        mitosis: MitosisOptions | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        **router_options: Any,
    ) -> None:
        super().__init__()
        number_of("activation", activation, ACTIVATIONS)
        if intermediate_size < 1:
            raise InvalidArgumentError(f"intermediate_size: {intermediate_size}, want at least 1")
        if shared_experts < 0:
            raise InvalidArgumentError(f"shared_experts: {shared_experts}, want at least 0")
        if mitosis is not None and max_experts is None:
            raise InvalidArgumentError("mitosis: was given without max_experts, so the layer cannot grow")
        if isinstance(router, Router):
            if max_experts is not None:
                raise InvalidArgumentError(
                    f"max_experts: {max_experts}, but with a Router of your own a layer cannot grow; "
                    f"want router='hamiltonian'"
                )
            _check_router(router, hidden_size, num_experts, budget, router_options)
            self.router = router
        else:
            self.router = Router(
                hidden_size,
                num_experts,
                top_k,
                mode=router,
                budget=budget,
                dtype=dtype,
                device=device,
                max_experts=max_experts,
                **router_options,
            )
        first, num_experts = num_experts, num_experts if max_experts is None else max_experts
        self.clans = (
            None
            if max_experts is None
            else Clans(max_experts, first, hidden_size, mitosis or MitosisOptions(), dtype, device)
        )
        if self.clans is not None:
            self.register_load_state_dict_post_hook(_after_loading)  # type: ignore[no-untyped-call]
        self.hidden_size, self.intermediate_size = hidden_size, intermediate_size
        self.num_experts, self.shared_experts = num_experts, shared_experts
        self.activation, self.gated = activation, gated
        self.expert_parallel: ExpertParallel | None = None  # set by genesis_moe.distributed.shard_experts
        self.expert_gradient_scale = 1.0
        self.layer_number = 0  # that the work of the routed experts is counted under; 0: it is not
        rows = 2 * intermediate_size if gated else intermediate_size
        for prefix, experts in (("", num_experts), ("shared_", shared_experts)):
            for name, shape, wanted in (
                ("gate_up_proj", (experts, rows, hidden_size), True),
                ("down_proj", (experts, hidden_size, intermediate_size), True),
                ("gate_up_proj_bias", (experts, rows), bias),
                ("down_proj_bias", (experts, hidden_size), bias),
            ):
                present = wanted and experts > 0
                value = nn.Parameter(torch.empty(shape, dtype=dtype, device=device)) if present else None
                self.register_parameter(prefix + name, value)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the experts' parameters anew; the router has its own."""
        if quantization.is_quantized(self):
            raise UnsupportedError(
                "reset_parameters: the experts are float8_e4m3fn, want a layer that trains"
            )
        with torch.no_grad():
            for prefix in ("", "shared_"):
                for name in ("gate_up_proj", "down_proj"):
                    weight = getattr(self, prefix + name)
                    bias = getattr(self, f"{prefix}{name}_bias")
                    for tensor in (weight, bias):
                        if tensor is not None:
                            bound = 1 / math.sqrt(weight.shape[2])
                            nn.init.uniform_(tensor, -bound, bound)

    @property
    def last_routing(self) -> Routing | None:
        """The routing of the last forward, of its tokens flattened to [T, H]."""
        return self.router.last_routing

    def auxiliary_loss(self) -> Tensor:
        """The load-balancing loss of the last forward; see :meth:`Router.auxiliary_loss`."""
        return self.router.auxiliary_loss()

    def forward(self, hidden_states: Tensor) -> Tensor:
        if hidden_states.dim() < 1 or hidden_states.shape[-1] != self.hidden_size:
            raise InvalidArgumentError(
                f"hidden_states: shape {list(hidden_states.shape)}, want [..., {self.hidden_size}]"
            )
        tokens = hidden_states.reshape(-1, self.hidden_size)
        routing = self.router(tokens)
        index = routing.index
        if self.clans is not None:
            index = self.clans(tokens, routing)
        shared = self._shared if self.shared_experts else None
        if self.expert_parallel is None:
            output = self._routed(tokens, index, routing.weights)
            output = output if shared is None else output + shared(tokens)
        else:
            output = self.expert_parallel(
                tokens,
                index,
                routing.weights,
                self._routed,
                functools.partial(self._local_parameters, tokens.dtype),
                None if shared is None else functools.partial(shared, tokens),
            )
        return output.reshape(hidden_states.shape)

    def _routed(self, tokens: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        """The routed experts; of sharded ones this rank's, numbered from its first."""
        output = self._experts("", tokens, index, weights)
        if self.clans is not None and self.training and torch.is_grad_enabled():
            output = self._probed(output, tokens, index, weights)
        return output

    def _shared(self, tokens: Tensor) -> Tensor:
        # Every token has every shared expert with weight 1.
        index = torch.arange(self.shared_experts, device=tokens.device).expand(tokens.shape[0], -1)
        return self._experts("shared_", tokens, index, torch.ones_like(index, dtype=torch.float32))

    def _experts(self, prefix: str, tokens: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        output: Tensor = functional.experts(
            tokens,
            index,
            weights,
            self._parameter(prefix, "gate_up_proj", tokens.dtype),
            self._parameter(prefix, "down_proj", tokens.dtype),
            gate_up_bias=self._parameter(prefix, "gate_up_proj_bias", tokens.dtype),
            down_bias=self._parameter(prefix, "down_proj_bias", tokens.dtype),
            gate_up_scale=quantization.scale_of(self, f"{prefix}gate_up_proj"),
            down_scale=quantization.scale_of(self, f"{prefix}down_proj"),
            activation=self.activation,
            gated=self.gated,
            layer=0 if prefix else self.layer_number,
        )
        return output

    def _probed(self, output: Tensor, tokens: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        assert self.clans is not None
        options = experts_scalars(self.activation, self.gated, False, 1.702, 7.0)
        names = ("gate_up_proj", "gate_up_proj_bias", "down_proj", "down_proj_bias")
        experts = [self._parameter("", name, tokens.dtype) for name in names]
        clans = self.clans
        slot = (
            clans.candidate if self.expert_parallel is None else self.expert_parallel.local(clans.candidate)
        )
        candidate = slot, clans.candidate_direction, clans.candidate_threshold
        probed: Tensor = Probe.apply(  # type: ignore[no-untyped-call]
            output, clans.probe, options, tokens.detach(), index, weights.detach(), *experts, *candidate
        )
        return probed

    def _local_parameters(self, dtype: torch.dtype) -> list[Tensor]:
        names = ("gate_up_proj", "down_proj", "gate_up_proj_bias", "down_proj_bias")
        values = (self._parameter("", name, dtype) for name in names)
        return [value for value in values if value is not None]

    def _parameter(self, prefix: str, name: str, dtype: torch.dtype) -> Any:
        """dtype: of the tokens."""
        value = getattr(self, prefix + name)
        if value is None or prefix or self.expert_parallel is None:
            return value
        return local_experts(value, self.expert_gradient_scale, dtype)

    def train(self, mode: bool = True) -> MoE:
        if mode and quantization.is_quantized(self):
            raise UnsupportedError(
                "train: the experts are float8_e4m3fn, which is for inference; want eval(), or a layer before quantize"
            )
        return super().train(mode)

    def _apply(self, fn: Any, recurse: bool = True) -> MoE:
        moved: MoE = quantization.apply_to(self, functools.partial(super()._apply, fn, recurse))
        return moved

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *arguments: Any) -> None:
        if quantization.before_loading(self, state_dict, prefix, arguments[-1]):
            super()._load_from_state_dict(state_dict, prefix, *arguments)

    def extra_repr(self) -> str:
        text = f"hidden_size={self.hidden_size}, intermediate_size={self.intermediate_size}"
        text += f", num_experts={self.num_experts}, activation={self.activation!r}"
        if self.clans is not None:
            text += f", max_experts={self.clans.slots}"
        if self.shared_experts:
            text += f", shared_experts={self.shared_experts}"
        return text


def _after_loading(layer: MoE, incompatible_keys: Any) -> None:
    """A checkpoint may be of a moment when children were young."""
    growth.remember(layer)


def _check_router(
    router: Router, hidden_size: int, num_experts: int, budget: float | None, options: dict[str, Any]
) -> None:
    for name, found, wanted in (
        ("hidden_size", router.hidden_size, hidden_size),
        ("num_experts", router.num_experts, num_experts),
    ):
        if found != wanted:
            raise InvalidArgumentError(f"router: {name} is {found}, want {wanted} as the layer has")
    if budget is not None or options:
        given = "budget" if budget is not None else next(iter(options))
        raise InvalidArgumentError(f"{given}: was given beside a Router, which has its own; set it there")
