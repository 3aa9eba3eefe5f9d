"""One layer: which neurons are shared, which make experts, who chooses them, what makes up for the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from genesis_moe.calibration.clusters import balanced
from genesis_moe.calibration.layer import LayerShape, MaskedMLP, SparseMLP, kept, output_energy, spread
from genesis_moe.calibration.options import CalibrationOptions
from genesis_moe.calibration.perceptrons import Perceptron
from genesis_moe.errors import InvalidArgumentError

RIDGE = 1e-3  # of the router, relative to the mean square of its input
# Of the down projections, relative to the mean square of each neuron; the best on tokens held back is taken.
DAMPING = (0.1, 0.3, 1.0)
HELD_BACK = 8  # one token in so many chooses the damping, and says what the layer costs
MARKED = 0.25  # the share of the neurons that count as active in a token
FLOOR = 1e-2  # energies below this share of their mean do not differ


@dataclass(frozen=True)
class Converted:
    """A layer and what is known of it; error: share of the output's energy that is lost, on tokens held back."""

    module: nn.Module
    shape: LayerShape
    experts_per_token: float
    error: float


def plan(perceptron: Perceptron, options: CalibrationOptions) -> LayerShape:
    """The sizes for a layer; raises InvalidArgumentError where they do not fit."""
    hidden, width = perceptron.hidden_size, perceptron.intermediate_size

    def shape(shared: int, experts: int, size: int, router_dim: int) -> LayerShape:
        return LayerShape(hidden, width, shared, experts, size, router_dim, perceptron.activation)

    if options.experts == 0:
        return shape(max(1, int(options.active * width)), 0, 0, 0)
    router_dim = min(options.router_dim, hidden)
    wanted = max(1, width // 128)
    if options.experts == "auto":
        # The routed part has whole experts; what is left over is shared.
        routed = int(width * (1 - options.shared)) // wanted * wanted
        experts, size = routed // wanted, wanted
    else:
        routed, experts = width - round(width * options.shared), int(options.experts)
        if routed % experts:
            raise InvalidArgumentError(
                f"experts: {experts} does not divide the {routed} neurons of {perceptron.name} that are not shared "
                f"({width} x (1 - {options.shared:g})); want a divisor, or 'auto'"
            )
        size = routed // experts
    found = shape(width - routed, experts, size, router_dim)
    if found.experts_for(options.active) < 1:
        least = found.cost(1) / found.dense_cost
        raise InvalidArgumentError(
            f"active: {options.active}, but the shared neurons ({found.shared_size} of {width}), the router and one "
            f"expert take {least:.2f} of {perceptron.name}; want more, or a smaller `shared`"
        )
    return found


def convert(
    perceptron: Perceptron, x: Tensor, weight: Tensor, options: CalibrationOptions, seed: int
) -> Converted:
    """x [T, H]: what the layer is given. weight [T]: how much an error counts in each token."""
    shape = plan(perceptron, options)
    if not bool(torch.isfinite(x).all()):
        raise InvalidArgumentError(
            f"model: {perceptron.name} is given activations that are NaN or infinite; "
            "a dtype with a wider range (float32) or other texts may help"
        )
    gate, up, down = perceptron.weights()
    h = perceptron.module.act_fn(x @ gate.T) * (x @ up.T)
    fit = _Fit(h, down, weight / weight.mean())
    order = _importance(fit, options.score).argsort(descending=True, stable=True)
    shared, rest = order[: shape.shared_size], order[shape.shared_size :]
    if not shape.num_experts:
        keep = torch.zeros(1, h.shape[1])
        keep[:, shared] = 1.0
        down, bias, error = fit.compensated(keep.expand_as(h), options.compensator)
        return Converted(_fill(shape, gate, up, down, bias, shared, rest[:0][None]), shape, 0.0, error)
    neurons = _experts(fit, rest, shape, seed)
    energy = output_energy(h, down, neurons)
    wanted = shape.experts_for(options.active)
    if options.router != "ridge":
        count = int(wanted)
        representative = None
        scores = energy
        if options.router == "representative":
            strongest = fit.energy()[:, neurons].mean(0).argmax(dim=1, keepdim=True)
            representative = neurons.gather(1, strongest)[:, 0]
            scores = h[:, representative].abs()
        new_down, bias, error = fit.compensated(kept(scores, count, neurons, h.shape[1]), options.compensator)
        masked = MaskedMLP(perceptron.module, neurons, new_down, bias, count, representative)
        return Converted(masked, shape, float(count), error)
    target = energy * fit.weight[:, None]
    router = _ridge(x, (target + FLOOR * target.mean()).log(), shape.router_dim, wanted)
    chosen = (router.logits(x) >= router.threshold).to(h.dtype)
    new_down, bias, error = fit.compensated(spread(chosen, neurons, h.shape[1]), options.compensator)
    module = _fill(shape, gate, up, new_down, bias, shared, neurons, router)
    return Converted(module, shape, float(chosen[fit.held_back].sum(1).mean()), error)


class _Fit:
    """The dense layer on the calibration tokens, and the least-squares problems on it."""

    def __init__(self, h: Tensor, down: Tensor, weight: Tensor) -> None:
        self.h, self.down, self.weight = h, down, weight
        self.output = h @ down.T
        self.held_back = torch.arange(h.shape[0]) % HELD_BACK == HELD_BACK - 1

    def energy(self) -> Tensor:
        """|h_i|^2 |w_i|^2 [T, I]."""
        return self.h.square() * self.down.square().sum(0)

    def error(self, kept_h: Tensor, down: Tensor, bias: Tensor) -> float:
        tokens = self.held_back
        lost = (self.output[tokens] - kept_h[tokens] @ down.T - bias).square().sum(1)
        whole = self.output[tokens].square().sum(1)
        weight = self.weight[tokens]
        return float((lost * weight).sum() / (whole * weight).sum().clamp_min(1e-30))

    def compensated(self, keep: Tensor, how: str) -> tuple[Tensor, Tensor, float]:
        """Down projection [H, I], bias [H] and error, when only the neurons kept [T, I] are there.

        Least squares: the down projection that is nearest to the dense output, held to the dense one
        by a damping that is chosen on the tokens held back; the mean alone is among the candidates.
        """
        kept_h = self.h * keep
        tokens = ~self.held_back
        a, weight = kept_h[tokens], self.weight[tokens, None]
        missing = self.output[tokens] - a @ self.down.T
        none = torch.zeros(self.down.shape[0])
        candidates = [(self.down, none)]
        if how != "none":
            candidates = [(self.down, (missing * weight).sum(0) / weight.sum())]
        if how == "least_squares":
            a = torch.cat([a, torch.ones(a.shape[0], 1)], dim=1)
            gram, right = (a * weight).T @ a, (a * weight).T @ missing
            diagonal = gram.diagonal().clone()
            for damping in DAMPING:
                regular = gram + torch.diag(damping * diagonal + 1e-6 * diagonal.mean() + 1e-12)
                step = torch.cholesky_solve(right, torch.linalg.cholesky(regular))
                candidates.append((self.down + step[:-1].T, step[-1]))
        errors = [self.error(kept_h, *candidate) for candidate in candidates]
        best = min(range(len(errors)), key=errors.__getitem__)
        return (*candidates[best], errors[best])


def _importance(fit: _Fit, score: str) -> Tensor:
    if score == "energy":
        return (fit.energy() * fit.weight[:, None]).mean(0)
    return fit.h.var(dim=0) * fit.down.square().sum(0)


def _experts(fit: _Fit, rest: Tensor, shape: LayerShape, seed: int) -> Tensor:
    """[E, m]: the neurons of each expert, those that are active in the same tokens together."""
    energy = fit.energy()
    marked = max(1, int(MARKED * energy.shape[1]))
    marks = torch.zeros_like(energy).scatter(1, energy.topk(marked, dim=1).indices, 1.0)[:, rest].T
    features = marks / marks.norm(dim=1, keepdim=True).clamp_min(1e-12)
    generator = torch.Generator().manual_seed(seed)
    return rest[balanced(features, shape.num_experts, generator)]


@dataclass(frozen=True)
class _RidgeRouter:
    """logits [T, E] = centroids (projection x) + bias; above threshold an expert is chosen."""

    projection: Tensor
    centroids: Tensor
    bias: Tensor
    threshold: float

    def logits(self, x: Tensor) -> Tensor:
        return x @ self.projection.T @ self.centroids.T + self.bias


def _ridge(x: Tensor, target: Tensor, dimension: int, wanted: float) -> _RidgeRouter:
    """Reduced-rank ridge regression of target [T, E] on x, and the threshold for so many experts a token."""
    mean_x, mean = x.mean(0), target.mean(0)
    a = x - mean_x
    gram = a.T @ a
    gram.diagonal().add_(RIDGE * gram.diagonal().mean() + 1e-12)
    slopes = torch.cholesky_solve(a.T @ (target - mean), torch.linalg.cholesky(gram))  # [H, E]
    fitted = a @ slopes
    rank = min(dimension, target.shape[1])
    vectors = torch.linalg.eigh(fitted.T @ fitted).eigenvectors[:, -rank:]
    # Rows of zeros where there are fewer experts than dimensions.
    projection, centroids = x.new_zeros(dimension, x.shape[1]), x.new_zeros(target.shape[1], dimension)
    projection[:rank], centroids[:, :rank] = (slopes @ vectors).T, vectors
    found = _RidgeRouter(projection, centroids, mean - centroids @ (projection @ mean_x), 0.0)
    ordered = found.logits(x).flatten().sort(descending=True).values
    threshold = float(ordered[min(round(wanted * x.shape[0]), ordered.numel()) - 1])
    return _RidgeRouter(projection, centroids, found.bias, threshold)


# The ground state lies so far below what the calibration saw that hardly any expert comes below it.
GROUND = 16.0


def _fill(
    shape: LayerShape,
    gate: Tensor,
    up: Tensor,
    down: Tensor,
    bias: Tensor,
    shared: Tensor,
    neurons: Tensor,
    router: _RidgeRouter | None = None,
) -> SparseMLP:
    sparse = SparseMLP(shape)
    module: Any = sparse  # its parameters by name
    if shape.shared_size:
        module.shared_gate_up_proj.copy_(torch.cat([gate[shared], up[shared]])[None])
        module.shared_down_proj.copy_(down[:, shared][None])
    if router is not None:
        module.gate_up_proj.copy_(torch.cat([gate[neurons], up[neurons]], dim=1))
        module.down_proj.copy_(down.T[neurons].transpose(1, 2))
        module.router.projection.copy_(router.projection)
        module.router.centroids.zero_()
        module.router.centroids[:-1].copy_(router.centroids)
        module.router.bias[:-1].copy_(router.bias)
        ground = router.threshold + GROUND
        module.router.bias[-1] = ground
        module.router.gap.fill_(GROUND)
    module.bias.copy_(bias)
    return sparse
