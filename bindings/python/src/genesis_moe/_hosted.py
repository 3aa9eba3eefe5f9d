"""What a router needs that lives inside a model of somebody else.

Its tensors keep the host's names in checkpoints, its weights the scale that the host's experts are used to,
and its settings start from those of the router whose place it takes.
"""

from __future__ import annotations

import inspect
from typing import Any, ClassVar, cast

from torch import Tensor, nn

from genesis_moe.errors import InvalidArgumentError
from genesis_moe.router import Router
from genesis_moe.routing import Routing

MODES = ("hamiltonian", "mixtral", "deepseek")

# Keyword arguments of Router that follow from the host and are not the user's to give.
_DECIDED = {"self", "hidden_size", "num_experts", "mode", "dtype", "device", "bias", "max_experts"}
OPTIONS = [name for name in inspect.signature(Router.__init__).parameters if name not in _DECIDED]


class HostedRouter(nn.Module):
    """Comes before :class:`genesis_moe.Router` among the bases of a class, and renames its tensors."""

    _checkpoint_names: ClassVar[dict[str, str]] = {"centroids": "weight"}

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        super().register_parameter(self._checkpoint_names.get(name, name), param)

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        super().register_buffer(self._checkpoint_names.get(name, name), tensor, persistent)

    @property
    def centroids(self) -> Tensor:
        """The centroids, in checkpoints ``weight``."""
        return cast(Tensor, self.weight)


def host_weights(router: Router, routing: Routing) -> Tensor:
    """The weights [T, K] at the scale that the pretrained experts are used to.

    Hamiltonian gates sum to 1 over a token's experts. Where the original router leaves its
    softmax over all E experts unnormalised (OLMoE), so do we; where it scales (DeepSeek), too.
    """
    weights: Tensor = routing.weights
    if router.options.mode != "hamiltonian":
        return weights
    if not router.options.normalize_top_k:
        temperature = cast(Tensor, router.temperature).to(routing.logits.dtype)
        temperature = temperature.clamp_min(router.options.temperature_floor)
        probabilities = nn.functional.softmax(routing.logits / temperature, dim=-1)
        # One more column, of zeros, for the index E of absent slots.
        weights = nn.functional.pad(probabilities, (0, 1)).gather(1, routing.index)
    if router.options.scaling_factor != 1.0:
        weights = weights * router.options.scaling_factor
    return weights


def router_settings(
    own: dict[str, Any], has_bias: bool, mode: str, options: dict[str, Any]
) -> dict[str, Any]:
    """The keyword arguments of Router: the host's own, then the mode's defaults, then the user's.

    own: the settings with which Router computes what the host's router does, its mode among them.
    has_bias: whether that router adds a bias to its logits. InvalidArgumentError: mode or an option
    is not known.
    """
    if mode not in MODES:
        raise InvalidArgumentError(f"router: {mode!r}, want one of {', '.join(map(repr, MODES))}")
    unknown = sorted(set(options) - set(OPTIONS))
    if unknown:
        raise InvalidArgumentError(f"options: {unknown[0]!r}, want any of {', '.join(OPTIONS)}")
    settings: dict[str, Any] = {"mode": mode, "top_k": own["top_k"]}
    if mode == "hamiltonian":
        binding = options.get("binding", "dot")
        router_dim = options.get("router_dim", None if binding == "dot" else 64)
        keeps_function = binding == "dot" and router_dim is None
        settings |= {
            "binding": binding,
            "router_dim": router_dim,
            "temperature": 1.0 if keeps_function else 0.3,
            "normalize_top_k": own["normalize_top_k"] if keeps_function else True,
            "scaling_factor": own["scaling_factor"],
            "bias": has_bias and keeps_function,
        }
    else:
        settings |= {**own, "mode": mode, "bias": has_bias and mode == "mixtral"}
    return settings | options
