"""The options of routers and experts, as the header of the C library has them."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import lru_cache

from genesis_moe import _abi
from genesis_moe.errors import InvalidArgumentError

# The position of a name is its number in genesis_moe.h.
MODES = ("hamiltonian", "mixtral", "deepseek")
BINDINGS = ("cosine", "dot")
SOLVERS = ("price", "batch")
SOURCES = (
    "best",
    "nvml_counter",
    "nvml_integrated",
    "rapl",
    "estimate_tdp_load",
    "replay",
    "mock",
    "none",
)
QUALITIES = ("none", "measured", "modelled", "synthetic")
ACTIVATIONS = (
    "silu",
    "gelu",
    "gelu_tanh",
    "relu",
    "relu_squared",
    "quick_gelu",
    "sigmoid",
    "tanh",
    "identity",
    "clipped_swiglu",
    "clipped_silu",
)

# What options become on their way to C: the fields in the header's order.
RouterScalars = tuple[int, int, int, int, int, int, int, int, float, float, float, float, float]
ExpertsScalars = tuple[int, bool, bool, float, float, int]


@dataclass(frozen=True)
class RouterOptions:
    """Describes a router; see ``gmoe_router_options`` in genesis_moe.h.

    Fields of other modes are ignored; a field outside its range is refused by the
    call that uses it, by name.
    """

    mode: str = "hamiltonian"
    """"hamiltonian", "mixtral" or "deepseek"."""
    binding: str = "cosine"
    """hamiltonian: "cosine" or "dot"."""
    solver: str = "price"
    """hamiltonian: "price" (causal) or "batch" (the optimum over the batch; NOT causal)."""
    top_k: int = 2
    """Experts per token; with ``budgeted``, the most that a token may have."""
    budgeted: bool = False
    """hamiltonian: take the experts whose f is within the gap of the token's best."""
    normalize_top_k: bool = True
    """mixtral, deepseek: divide the k weights by their sum."""
    num_groups: int = 1
    """deepseek: n_group."""
    top_k_groups: int = 1
    """deepseek: topk_group."""
    scaling_factor: float = 1.0
    """mixtral, deepseek: the weights are multiplied by it."""
    epsilon: float = 1e-2
    """cosine: added to both norms."""
    temperature_floor: float = 1e-2
    """hamiltonian: T_g is max(temperature, this)."""
    entropy_temperature: float = 0.1
    """tau > 0 of E_entropy."""
    load_penalty: float = 10.0
    """lambda > 0 of E_cost."""

    def scalars(self) -> RouterScalars:
        """The fields as the C struct has them, names as numbers."""
        return (
            number_of("mode", self.mode, MODES),
            number_of("binding", self.binding, BINDINGS),
            number_of("solver", self.solver, SOLVERS),
            self.top_k,
            int(self.budgeted),
            int(self.normalize_top_k),
            self.num_groups,
            self.top_k_groups,
            self.scaling_factor,
            self.epsilon,
            self.temperature_floor,
            self.entropy_temperature,
            self.load_penalty,
        )


def experts_scalars(
    activation: str, gated: bool, interleaved: bool, alpha: float, limit: float, layer: int = 0
) -> ExpertsScalars:
    """The options of the experts as the C struct has them."""
    return number_of("activation", activation, ACTIVATIONS), gated, interleaved, alpha, limit, layer


SCALE_BLOCK = 128
"""How many rows and columns of a weight in float8_e4m3fn share a scale."""


def blocks(size: int) -> int:
    """How many blocks of :data:`SCALE_BLOCK` cover so many rows or columns."""
    return (size + SCALE_BLOCK - 1) // SCALE_BLOCK


def number_of(argument: str, name: str, names: tuple[str, ...]) -> int:
    """The number of a name in the header, or an error that names the argument."""
    if name not in names:
        raise InvalidArgumentError(f"{argument}: {name!r}, want one of {', '.join(map(repr, names))}")
    return names.index(name)


@lru_cache(maxsize=256)
def router_struct(*scalars: float) -> _abi.RouterOptions:
    """The C struct of :meth:`RouterOptions.scalars`; the same object every time, never written to."""
    return _abi.RouterOptions(ctypes.sizeof(_abi.RouterOptions), *scalars)


@lru_cache(maxsize=256)
def clans_struct(num_slots: int) -> _abi.ClansOptions:
    """The C struct of the clans' options; the same object every time, never written to."""
    return _abi.ClansOptions(ctypes.sizeof(_abi.ClansOptions), num_slots)


@lru_cache(maxsize=256)
def experts_struct(*scalars: float) -> _abi.ExpertsOptions:
    """The C struct of :func:`experts_scalars`; the same object every time, never written to."""
    return _abi.ExpertsOptions(ctypes.sizeof(_abi.ExpertsOptions), *scalars)
