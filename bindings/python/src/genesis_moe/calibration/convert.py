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
from genesis_moe.calibration.products import moment, product
from genesis_moe.calibration.shares import token_weight
from genesis_moe.calibration.stream import LayerInput
from genesis_moe.errors import InvalidArgumentError

RIDGE = 1e-3  # of the router, relative to the mean square of its input
# Of the down projections, relative to the mean square of each neuron; the best on tokens held back is taken.
DAMPING = (0.03, 0.1, 0.3, 1.0)
HELD_BACK = 8  # one token in so many chooses the damping, and says what the layer costs
MARKED = 0.25  # the share of the neurons that count as active in a token
MARKED_TOKENS = 4096  # enough to say which neurons work together
FLOOR = 1e-2  # energies below this share of their mean do not differ
# With shared="auto": the parts of what stays active that are shared, tried in each layer; 1 is "all shared".
SHARED_PARTS = (0.5, 1.0)


@dataclass(frozen=True)
class Converted:
    """A layer and what is known of it; error: energy that the residual stream behind it lacks, as a share of
    the stream's, on tokens held back from the fit."""

    module: nn.Module
    shape: LayerShape
    experts_per_token: float
    error: float


def shapes(perceptron: Perceptron, options: CalibrationOptions, active: float) -> list[LayerShape]:
    """The candidates for a layer of which so much stays; raises InvalidArgumentError where none fits."""
    hidden, width = perceptron.hidden_size, perceptron.intermediate_size

    def shape(shared: int, experts: int, size: int, router_dim: int) -> LayerShape:
        return LayerShape(hidden, width, shared, experts, size, router_dim, perceptron.activation)

    all_shared = shape(max(1, int(active * width)), 0, 0, 0)
    if options.experts == 0:
        return [all_shared]
    if options.shared == "auto":
        parts = [active * part for part in SHARED_PARTS if part < 1 or options.router == "ridge"]
    else:
        parts = [options.shared]
    router_dim = min(options.router_dim, hidden)
    found: list[LayerShape] = []
    for part in parts:
        if part >= active and options.shared == "auto":
            found.append(all_shared)
            continue
        if options.experts == "auto":
            # The routed part has whole experts; what is left over is shared.
            size = max(1, width // 128)
            routed = int(width * (1 - part)) // size * size
            experts = routed // size
        else:
            routed, experts = width - round(width * part), int(options.experts)
            if routed % experts and options.shared == "auto":
                routed -= routed % experts
            if routed % experts or routed == 0:
                raise InvalidArgumentError(
                    f"experts: {experts} does not divide the {routed} neurons of {perceptron.name} that are not "
                    f"shared ({width} x (1 - {part:g})); want a divisor, or 'auto'"
                )
            size = routed // experts
        candidate = shape(width - routed, experts, size, router_dim)
        if candidate.experts_for(active) >= 1:
            found.append(candidate)
        elif options.shared != "auto":
            least = candidate.cost(1) / candidate.dense_cost
            raise InvalidArgumentError(
                f"active: {active:.3g}, but the shared neurons ({candidate.shared_size} of {width}), the router and "
                f"one expert take {least:.2f} of {perceptron.name}; want more, or a smaller `shared`"
            )
    if not found:
        raise InvalidArgumentError(
            f"active: {active:.3g} is too little for a router and one expert in {perceptron.name}; "
            "want more, or experts=0"
        )
    return found


def convert(
    perceptron: Perceptron, given: LayerInput, active: float, options: CalibrationOptions
) -> Converted:
    """The best of the candidates for a layer, by the error on tokens held back."""
    gate, up, down = perceptron.weights()
    x = given.x
    h = perceptron.module.act_fn(product(x, gate.T)) * product(x, up.T)
    fit = _Fit(h, down, given)
    importance = _importance(fit, options.score)
    candidates = shapes(perceptron, options, active)
    found = [_as(shape, perceptron, fit, x, importance, active, options) for shape in candidates]
    return min(found, key=lambda one: one.error)


def _as(
    shape: LayerShape,
    perceptron: Perceptron,
    fit: _Fit,
    x: Tensor,
    importance: Tensor,
    active: float,
    options: CalibrationOptions,
) -> Converted:
    """The layer with these sizes."""
    gate, up, down = perceptron.weights()
    width = shape.intermediate_size
    order = importance.argsort(descending=True, stable=True)
    shared, rest = order[: shape.shared_size].sort().values, order[shape.shared_size :]
    if not shape.num_experts:
        keep = torch.zeros(1, width)
        keep[:, shared] = 1.0
        down, bias, error = fit.compensated(keep, options.compensator)
        return Converted(_fill(shape, gate, up, down, bias, shared, rest[:0][None]), shape, 0.0, error)
    neurons = _experts(fit, rest, shape, options.seed)
    wanted = shape.experts_for(active)
    if options.router != "ridge":
        count = int(wanted)
        representative = random = None
        if options.router == "representative":
            strongest = fit.energy[:, neurons].mean(0).argmax(dim=1, keepdim=True)
            representative = neurons.gather(1, strongest)[:, 0]
            scores = fit.h[:, representative].abs()
        elif options.router == "random":
            generator = torch.Generator().manual_seed(options.seed)
            random = torch.randn(shape.hidden_size, shape.num_experts, generator=generator)
            scores = x @ random
        else:
            scores = output_energy(fit.h, down, neurons)
        new_down, bias, error = fit.compensated(kept(scores, count, neurons, width), options.compensator)
        masked = MaskedMLP(perceptron.module, neurons, new_down, bias, count, representative, random)
        return Converted(masked, shape, float(count), error)
    target = output_energy(fit.h, down, neurons) * fit.weight[:, None]
    router = _ridge(x, (target + FLOOR * target.mean()).log(), shape.router_dim, wanted)
    chosen = (router.logits(x) >= router.threshold).to(x.dtype)
    new_down, bias, error = fit.compensated(spread(chosen, neurons, width), options.compensator)
    module = _fill(shape, gate, up, new_down, bias, shared, neurons, router)
    return Converted(module, shape, float(chosen[fit.held_back].sum(1).mean()), error)


class _Fit:
    """The dense layer on the calibration tokens, and the least-squares problems on it."""

    def __init__(self, h: Tensor, down: Tensor, given: LayerInput) -> None:
        self.h, self.down = h, down
        if given.behind is None:
            self.target = product(h, down.T)
            weight = token_weight(given.rest + self.target)
        else:
            self.target = given.behind - given.rest
            weight = token_weight(given.behind)
        self.weight, self.unit = weight / weight.mean(), weight.mean()
        self.energy = h.square() * down.square().sum(0)  # [T, I]: of each neuron's output
        self.held_back = torch.arange(h.shape[0]) % HELD_BACK == HELD_BACK - 1

    def compensated(self, keep: Tensor, how: str) -> tuple[Tensor, Tensor, float]:
        """Down projection [H, I], bias [H] and error, when only the neurons kept, [T, I] or [1, I], are there.

        Least squares: the down projection that comes nearest to the target, held to the dense one by a
        damping that is chosen on the tokens held back; the mean alone is among the candidates.
        """
        used = (keep.amax(0) > 0).nonzero()[:, 0]
        a = self.h[:, used] * keep[:, used]
        down = self.down[:, used]
        missing = self.target - product(a, down.T)
        tokens = ~self.held_back
        weight = self.weight[tokens]
        step, bias = torch.zeros_like(down), torch.zeros(down.shape[0])
        candidates = [(step, bias)]
        if how != "none":
            mean = (missing[tokens] * weight[:, None]).sum(0) / weight.sum()
            candidates = [(step, mean)]
        if how == "least_squares":
            basis = torch.cat([a[tokens], a.new_ones(len(weight), 1)], dim=1)
            gram, right = moment(basis, weight, basis), moment(basis, weight, missing[tokens])
            gram = (gram + gram.T) / 2
            diagonal = gram.diagonal().clone()
            for damping in DAMPING:
                regular = gram + torch.diag(damping * diagonal + 1e-6 * diagonal.mean() + 1e-12)
                factor, failed = torch.linalg.cholesky_ex(regular)
                if int(failed) == 0:  # with rounded factors, little damping may not be enough
                    solved = torch.cholesky_solve(right, factor)
                    candidates.append((solved[:-1].T, solved[-1]))
        held = missing[self.held_back], a[self.held_back], self.weight[self.held_back]
        errors = [self._error(*held, *candidate) for candidate in candidates]
        best = min(range(len(errors)), key=errors.__getitem__)
        found = self.down.clone()
        found[:, used] += candidates[best][0]
        return found, candidates[best][1], errors[best]

    def _error(self, missing: Tensor, a: Tensor, weight: Tensor, step: Tensor, bias: Tensor) -> float:
        lost = (missing - product(a, step.T) - bias).square().sum(1)
        return float((lost * weight).mean() * self.unit)


def _importance(fit: _Fit, score: str) -> Tensor:
    if score == "energy":
        return (fit.energy * fit.weight[:, None]).mean(0)
    return fit.h.var(dim=0) * fit.down.square().sum(0)


def _experts(fit: _Fit, rest: Tensor, shape: LayerShape, seed: int) -> Tensor:
    """[E, m]: the neurons of each expert, those that are active in the same tokens together."""
    energy = fit.energy[:: max(1, fit.energy.shape[0] // MARKED_TOKENS)]
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
    # In full precision: some directions of x are so long that rounding them hides the short ones.
    gram = a.T @ a
    right, unit = a.T @ (target - mean), gram.diagonal().mean()
    for power in range(6):
        regular = gram + torch.eye(len(gram), dtype=gram.dtype) * (RIDGE * 10**power * unit + 1e-12)
        factor, failed = torch.linalg.cholesky_ex(regular)
        if int(failed) == 0:
            break
    else:
        raise InvalidArgumentError("model: a layer's activations are too large for its router to be fitted")
    slopes = torch.cholesky_solve(right, factor)  # [H, E]
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
        module.shared_down_proj.copy_(down.T[shared][None])
    if router is not None:
        module.gate_up_proj.copy_(torch.cat([gate[neurons], up[neurons]], dim=1))
        module.down_proj.copy_(down.T[neurons])
        module.router.projection.copy_(router.projection)
        module.router.centroids.zero_()
        module.router.centroids[:-1].copy_(router.centroids)
        module.router.bias[:-1].copy_(router.bias)
        ground = router.threshold + GROUND
        module.router.bias[-1] = ground
        module.router.gap.fill_(GROUND)
    module.bias.copy_(bias)
    return sparse
