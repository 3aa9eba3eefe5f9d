"""The module that takes the place of a dense MLP: shared neurons and routed experts."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from genesis_moe import functional
from genesis_moe.calibration import decode
from genesis_moe.router import Router


@dataclass(frozen=True)
class LayerShape:
    """The sizes of a converted layer, as they are kept in the model's configuration.

    shared_size: neurons that every token goes through. num_experts: E, of expert_size neurons each.
    router_dim: width of the router's space.
    """

    hidden_size: int
    intermediate_size: int
    shared_size: int
    num_experts: int
    expert_size: int
    router_dim: int
    activation: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def dense_cost(self) -> int:
        """Multiplications of the dense layer for one token."""
        return 3 * self.hidden_size * self.intermediate_size

    @property
    def router_cost(self) -> int:
        return self.router_dim * (self.hidden_size + self.num_experts + 1) if self.num_experts else 0

    def cost(self, experts_per_token: float) -> float:
        """Multiplications of the sparse layer for one token, everything counted."""
        neurons = self.shared_size + self.expert_size * experts_per_token
        return 3 * self.hidden_size * neurons + self.router_cost

    def experts_for(self, active: float) -> float:
        """Experts per token with which the layer costs this share of the dense one."""
        left = active * self.dense_cost - self.cost(0)
        return min(left / (3 * self.hidden_size * self.expert_size), self.num_experts)


class SparseMLP(nn.Module):
    """y = mlp(x) for x [..., H]: the shared neurons, and the experts that the router chooses.

    The router is :class:`genesis_moe.Router`, mode hamiltonian, binding dot, budgeted. Its last entry is the
    shared part: its energy is constant and below all others, the ground state. An expert is excited when
    its energy is within the gap of that, so that tokens differ in how many they have. An expert that is
    chosen counts in full, as its neurons did in the dense layer: the gates are not used. A slot with
    the ground state (index E) or nothing (E + 1) is absent for the experts.

    Parameters: ``shared_gate_up_proj`` [1, 2S, H], ``shared_down_proj`` [1, S, H], ``gate_up_proj``
    [E, 2m, H], ``down_proj`` [E, m, H], each where its size is not 0, ``bias`` [H], and the router's. The down
    projections lie transposed: with few neurons, a row for each is read faster than a column.
    """

    def __init__(
        self,
        shape: LayerShape,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.shape = shape
        hidden, experts, width, shared = (
            shape.hidden_size,
            shape.num_experts,
            shape.expert_size,
            shape.shared_size,
        )
        for name, sizes in (
            ("shared_gate_up_proj", (1, 2 * shared, hidden)),
            ("shared_down_proj", (1, shared, hidden)),
            ("gate_up_proj", (experts, 2 * width, hidden)),
            ("down_proj", (experts, width, hidden)),
            ("bias", (hidden,)),
        ):
            value = nn.Parameter(torch.zeros(sizes, dtype=dtype, device=device)) if 0 not in sizes else None
            self.register_parameter(name, value)
        self.router: Router | None = None
        if experts:
            self.router = Router(
                hidden,
                experts + 1,
                experts + 1,
                budget=float(experts + 1),
                binding="dot",
                router_dim=shape.router_dim,
                bias=True,
                temperature=1.0,
                # gm.step leaves it alone: which experts a token has was fitted, not learnt.
                price_rate=0.0,
                gap_rate=0.0,
                dtype=dtype,
                device=device,
            )
        self.layer_number = 0  # that the work of the routed experts is counted under; 0: it is not

    def forward(self, hidden_states: Tensor) -> Tensor:
        tokens = hidden_states.reshape(-1, self.shape.hidden_size)
        if decode.possible(self, tokens):
            return decode.run(self, tokens).reshape(hidden_states.shape)
        own: Any = self  # its parameters by name
        output: Tensor = own.bias.to(tokens.dtype)
        activation = self.shape.activation
        if own.shared_gate_up_proj is not None:
            index = torch.zeros(tokens.shape[0], 1, dtype=torch.int64, device=tokens.device)
            weights = torch.ones(tokens.shape[0], 1, device=tokens.device)
            output = output + functional.experts(
                tokens,
                index,
                weights,
                own.shared_gate_up_proj,
                own.shared_down_proj.transpose(1, 2),
                activation=activation,
            )
        if self.router is not None:
            routing = self.router(tokens)
            output = output + functional.experts(
                tokens,
                routing.index,
                torch.ones_like(routing.weights),
                own.gate_up_proj,
                own.down_proj.transpose(1, 2),
                activation=activation,
                layer=self.layer_number,
            )
        return output.expand(tokens.shape).reshape(hidden_states.shape)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.shape.as_dict().items())


class MaskedMLP(nn.Module):
    """A control that needs the dense layer: all neurons are computed, and those not chosen are dropped.

    Nothing is saved by it. representative: [E], the neuron of each expert whose activation is its score;
    random: [H, E], a projection of the input as the score. Neither: the true energy of the expert's
    output. neurons: [E, m].
    """

    def __init__(
        self,
        dense: Any,
        neurons: Tensor,
        down: Tensor,
        bias: Tensor,
        count: int,
        representative: Tensor | None,
        random: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.dense, self.neurons, self.down, self.bias = dense, neurons, down, bias
        self.count, self.representative, self.random = count, representative, random

    def forward(self, hidden_states: Tensor) -> Tensor:
        dense = self.dense
        h = dense.act_fn(dense.gate_proj(hidden_states)) * dense.up_proj(hidden_states)
        flat = h.reshape(-1, h.shape[-1])
        if self.representative is not None:
            scores = flat[:, self.representative].abs()
        elif self.random is not None:
            scores = hidden_states.reshape(-1, hidden_states.shape[-1]) @ self.random.to(flat.dtype)
        else:
            scores = output_energy(flat, dense.down_proj.weight, self.neurons)
        keep = kept(scores, self.count, self.neurons, flat.shape[1])
        return nn.functional.linear(h * keep.reshape(h.shape), self.down, self.bias)


def kept(scores: Tensor, count: int, neurons: Tensor, size: int) -> Tensor:
    """[T, I]: 1 for shared neurons and for those of each token's `count` best experts, else 0."""
    chosen = torch.zeros_like(scores).scatter(1, scores.topk(count, dim=1).indices, 1.0)
    return spread(chosen, neurons, size)


def spread(chosen: Tensor, neurons: Tensor, size: int) -> Tensor:
    """[T, I] from the experts chosen [T, E]; a neuron of no expert is shared."""
    keep = chosen.new_ones(chosen.shape[0], size)
    keep[:, neurons.reshape(-1)] = chosen.repeat_interleave(neurons.shape[1], dim=1)
    return keep


def output_energy(h: Tensor, down: Tensor, neurons: Tensor) -> Tensor:
    """|W_e h_e|^2 [T, E] of the experts' outputs."""
    columns = down.T[neurons].to(h.dtype)  # [E, m, H]
    gram = columns @ columns.transpose(1, 2)
    parts = h[:, neurons].transpose(0, 1)  # [E, T, m]
    return ((parts @ gram) * parts).sum(-1).T.clamp_min(0)
