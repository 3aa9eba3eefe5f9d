"""The decisions: who is looked at, who splits, dies or becomes independent.

Each is taken from statistics that are summed over all ranks first, so every rank takes it alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from genesis_moe.errors import InvalidArgumentError
from genesis_moe.mitosis import report as log
from genesis_moe.mitosis.clans import Clans, Leaf
from genesis_moe.mitosis.statistics import Fit, first_axis, fit, null_gain, outlying
from genesis_moe.mitosis.surgery import (
    HALVED,
    Change,
    is_spread,
    own_row,
    require_supported,
    row_of,
    row_state,
)

if TYPE_CHECKING:
    from genesis_moe.moe import MoE

_WINDOW_SUMS = ("tokens", "skipped", "sum", "power", "binding_sum", "histogram")
_KEPT = {"exp_avg": 0.0, "momentum_buffer": 0.0, "exp_avg_sq": 1.0, "max_exp_avg_sq": 1.0}

HeldOut = Callable[[], float]


def contributions(layer: MoE) -> list[Tensor]:
    """What this step needs summed over ranks, float64: nothing but where a window ends."""
    clans = clans_of(layer)
    if (int(clans.steps) + 1) % clans.options.window:
        return []
    probe = clans.probe_sums if clans.probe.grad is None else clans.probe_sums + clans.probe.grad
    return [*(getattr(clans, name) for name in _WINDOW_SUMS), probe]


@torch.no_grad()
def advance(layer: MoE, sums: list[Tensor], optimizer: Optimizer, held_out: HeldOut | None) -> None:
    """One step of a layer's growth, after the optimiser's step and the router's update.

    sums: :func:`contributions` summed over ranks. held_out: the mean held-out loss, over ranks too.
    """
    clans = clans_of(layer)
    options = clans.options
    _ramp(layer)
    if clans.probe.grad is not None:
        clans.probe_sums += clans.probe.grad
        clans.probe.grad = None
    clans.steps += 1
    if sums:
        for name, total in zip(_WINDOW_SUMS, sums, strict=False):
            getattr(clans, name).copy_(total)
        clans.probe_sums.copy_(sums[-1])
        found = _end_window(clans)
        left = -int(clans.steps) % options.interval
        if left == options.window:
            _look_for_candidate(layer, found)
        _begin_window(clans, found)
        if left == 0:
            _decide(layer, optimizer, held_out)
            _begin_interval(clans)
    remember(layer)


def clans_of(layer: MoE) -> Clans:
    assert layer.clans is not None
    return layer.clans


# ---------------------------------------------------------------------- windows


def _end_window(clans: Clans) -> Fit:
    found = fit(clans.tokens, clans.sum, clans.power, clans.histogram, clans.mean, clans.axis, clans.scale)
    clans.fitted_axis.copy_(clans.axis)
    clans.fitted_threshold.copy_(found.threshold)
    clans.fitted_gain.copy_(found.gain)
    clans.interval_tokens += clans.tokens
    clans.interval_binding += clans.binding_sum
    clans.interval_skipped += clans.skipped
    return found


def _begin_window(clans: Clans, found: Fit) -> None:
    clans.mean.copy_(found.mean)
    clans.axis.copy_(found.axis)
    clans.scale.copy_(found.scale)
    for name in _WINDOW_SUMS:
        getattr(clans, name).zero_()


def _begin_interval(clans: Clans) -> None:
    total = clans.interval_tokens.sum().clamp_min(1)
    clans.last_load.copy_(clans.interval_tokens / total)
    for name in ("interval_tokens", "interval_binding", "interval_skipped", "probe_sums"):
        getattr(clans, name).zero_()
    clans.candidate.fill_(-1)


# -------------------------------------------------------------------- decisions


def _look_for_candidate(layer: MoE, found: Fit) -> None:
    """After the last window but one: the slot whose sides the last window compares."""
    clans, options = clans_of(layer), clans_of(layer).options
    chosen: tuple[float, Leaf, list[float]] | None = None
    if int(clans.steps) >= int(clans.rest_until):
        price = layer.router.price
        assert price is not None
        leaves = clans.leaves(price)
        prices = outlying(price.double()[torch.tensor([leaf.clan for leaf in leaves])], options.spread)
        slots = torch.tensor([leaf.slot for leaf in leaves])
        bindings = clans.interval_binding[slots] / clans.interval_tokens[slots]
        bindings = outlying(bindings, options.spread)
        for i, leaf in enumerate(leaves):
            slot, excess = leaf.slot, max(float(prices[i]), float(bindings[i]))
            if clans.interval_skipped[slot] > 0 or not math.isfinite(float(clans.fitted_threshold[slot])):
                if clans.interval_skipped[slot] > 0:
                    clans.record(log.NOT_FINITE, leaf.clan, slot, -1, float(clans.interval_skipped[slot]))
                continue
            if clans.interval_tokens[slot] < options.min_tokens or excess <= 0:
                continue
            if chosen is not None and excess <= chosen[0]:
                continue
            gain = float(clans.fitted_gain[slot])
            null = null_gain(
                int(clans.tokens[slot]),
                float(found.center[slot]),
                float(found.deviation[slot]),
                float(clans.scale[slot]),
                options.null_percentile,
                options.null_samples,
            )
            if gain > null:
                chosen = excess, leaf, [float(prices[i]), float(bindings[i]), gain, null]
        if chosen is not None and len(leaves) == clans.slots:
            _record_once(clans, log.FULL, -1, -1, -1)
            chosen = None
    if chosen is not None:
        slot = chosen[1].slot
        clans.candidate.fill_(slot)
        clans.candidate_direction.copy_(clans.fitted_axis[slot])
        clans.candidate_threshold.copy_(clans.fitted_threshold[slot])
        clans.candidate_facts.copy_(torch.tensor(chosen[2], dtype=torch.float64))
    clans.probe_sums.zero_()


def _decide(layer: MoE, optimizer: Optimizer, held_out: HeldOut | None) -> None:
    """At the end of an interval: at most one change of the layer."""
    clans = clans_of(layer)
    assert layer.router.price is not None
    if not clans.interval_tokens.sum() > 0:
        _record_once(clans, log.IDLE, -1, -1, -1)
        return
    leaves = clans.leaves(layer.router.price)
    _count_low_loads(clans, leaves)
    if int(clans.candidate) >= 0 and _try_split(layer, leaves, optimizer):
        return
    if held_out is None or int(clans.steps) < int(clans.rest_until):
        return
    if _try_death(layer, leaves, optimizer, held_out):
        return
    if clans.options.promote:
        _try_promotion(layer, leaves, optimizer, held_out)


def _try_split(layer: MoE, leaves: list[Leaf], optimizer: Optimizer) -> bool:
    clans = clans_of(layer)
    slot = int(clans.candidate)
    leaf = next(leaf for leaf in leaves if leaf.slot == slot)
    product, left, right = clans.probe_sums.tolist()
    cosine = product / math.sqrt(left * right) if left > 0 and right > 0 else math.nan
    price, binding, gain, null = clans.candidate_facts.tolist()
    facts = [cosine, gain, null, max(price, binding)]
    if not math.isfinite(cosine):
        clans.record(log.NOT_FINITE, leaf.clan, slot, -1, 0.0)
        return False
    if not cosine < clans.options.max_cosine:
        clans.record(log.SPLIT_REFUSED, leaf.clan, slot, -1, *facts)
        return False
    _split(layer, leaf, leaves, clans.candidate_direction, clans.candidate_threshold[0], optimizer, facts)
    return True


def split(layer: MoE, slot: int, optimizer: Any) -> int:
    """Splits an expert now, where its tokens' median lies, whatever the triggers say; returns the new slot.

    slot: of an expert at work. It must have been through a whole window in training, which gives
    the direction. For experiments; :func:`genesis_moe.step` splits by itself.
    """
    if layer.clans is None:
        raise InvalidArgumentError("layer: has no max_experts, so nothing in it can split")
    clans, price = layer.clans, layer.router.price
    assert price is not None
    leaves = clans.leaves(price)
    leaf = next((leaf for leaf in leaves if leaf.slot == slot), None)
    if leaf is None:
        at_work = sorted(leaf.slot for leaf in leaves)
        raise InvalidArgumentError(f"slot: {slot}, want one of those at work: {at_work}")
    if len(leaves) == clans.slots:
        raise InvalidArgumentError(f"slot: {slot}, but all max_experts = {clans.slots} are in use")
    threshold = clans.fitted_threshold[slot]
    if not bool(threshold.isfinite()) or not bool(clans.fitted_gain[slot] > 0):
        raise InvalidArgumentError(
            f"slot: {slot} has had no tokens in the last window, so no direction to split by"
        )
    nothing = [math.nan, float(clans.fitted_gain[slot]), math.nan, math.nan]
    with torch.no_grad():
        new = _split(
            layer, leaf, leaves, clans.fitted_axis[slot], threshold, require_supported(optimizer), nothing
        )
        remember(layer)
    return new


def _split(
    layer: MoE,
    leaf: Leaf,
    leaves: list[Leaf],
    direction: Tensor,
    threshold: Tensor,
    optimizer: Optimizer,
    facts: list[float],
) -> int:
    clans = clans_of(layer)
    slot = leaf.slot
    new = min(set(range(clans.slots)) - {other.slot for other in leaves})
    node = min(set(range(clans.slots)) - {node for other in leaves for node in other.parents})
    change = Change()
    for parameter in expert_parameters(layer).values():
        change.copy_row(parameter, slot, (slot, new), optimizer, HALVED)
    change.write(clans.children_of, node, torch.tensor([slot, new]))
    change.write(clans.direction, node, direction)
    change.write(clans.threshold, node, threshold)
    _redirect(clans, change, leaf, ~node)
    change.write(clans.mean, new, clans.mean[slot])
    change.write(clans.scale, new, clans.scale[slot])
    fresh = first_axis(clans.slots, clans.hidden_size)
    for child in (slot, new):
        change.write(clans.axis, child, fresh[child])
        change.write(clans.ramp_left, child, clans.options.ramp)
        change.write(clans.changed_at, child, clans.steps)
        change.write(clans.low_intervals, child, 0)
        change.write(clans.fitted_gain, child, 0)
        for name in _WINDOW_SUMS:
            change.write(getattr(clans, name), child, 0)
    change.write(clans.rest_until, (), int(clans.steps) + clans.options.cooldown)
    change.apply()
    clans.record(log.SPLIT, leaf.clan, slot, new, *facts)
    return new


def _redirect(clans: Clans, change: Change, leaf: Leaf, number: int) -> None:
    """Whoever pointed to the leaf is to point to another number."""
    if leaf.parents:
        change.write(clans.children_of, (leaf.parents[-1], "lr".index(leaf.path[-1])), number)
    else:
        change.write(clans.root, leaf.clan, number)


def _detach_leaf(clans: Clans, change: Change, leaf: Leaf) -> None:
    """The leaf's sibling takes the place of the node above both."""
    sibling = clans.children_of[leaf.parents[-1]][1 - "lr".index(leaf.path[-1])]
    _redirect(clans, change, leaf._replace(path=leaf.path[:-1], parents=leaf.parents[:-1]), int(sibling))


# -------------------------------------------------------------- death, promotion


def _count_low_loads(clans: Clans, leaves: list[Leaf]) -> None:
    """A slot's target is its clan's, halved at each node above it."""
    target = float(clans.interval_tokens.sum()) / len({leaf.clan for leaf in leaves})
    for leaf in leaves:
        low = clans.interval_tokens[leaf.slot] < clans.options.death_load * target / 2 ** len(leaf.path)
        clans.low_intervals[leaf.slot] = clans.low_intervals[leaf.slot] + 1 if low else 0


def _try_death(layer: MoE, leaves: list[Leaf], optimizer: Optimizer, held_out: HeldOut) -> bool:
    clans, router = clans_of(layer), layer.router
    low = [leaf for leaf in leaves if clans.low_intervals[leaf.slot] >= clans.options.death_intervals]
    low = [leaf for leaf in low if leaf.parents or len({other.clan for other in leaves}) > router.top_k]
    if not low:
        return False
    leaf = min(low, key=lambda leaf: float(clans.interval_tokens[leaf.slot]))
    assert router.price is not None
    change = Change()
    if leaf.parents:
        _detach_leaf(clans, change, leaf)
    else:
        change.write(router.price, leaf.clan, math.inf)
    for parameter in expert_parameters(layer).values():
        # Checked now, as it is written once the death is certain: a row of zeros.
        row_state(optimizer, parameter)
    if not _accepted(clans, change, held_out, leaf, -1, (log.DEATH, log.DEATH_REFUSED)):
        clans.low_intervals[leaf.slot] = 0
        return False
    last = Change()
    for parameter in expert_parameters(layer).values():
        last.write(parameter, leaf.slot, 0)
        for state in row_state(optimizer, parameter).values():
            last.write(state, leaf.slot, 0)
    for buffer in (clans.ramp_left, clans.low_intervals, clans.fitted_gain):
        last.write(buffer, leaf.slot, 0)
    last.write(clans.root, leaf.clan, clans.root[leaf.clan] if leaf.parents else leaf.slot)
    last.apply()
    return True


def _try_promotion(layer: MoE, leaves: list[Leaf], optimizer: Optimizer, held_out: HeldOut) -> bool:
    clans, router = clans_of(layer), layer.router
    old = int(clans.steps) - clans.options.cooldown
    children = [leaf for leaf in leaves if leaf.parents and int(clans.changed_at[leaf.slot]) <= old]
    children = [leaf for leaf in children if clans.interval_tokens[leaf.slot] > 0]
    if not children:
        return False
    leaf = max(children, key=lambda leaf: float(clans.interval_tokens[leaf.slot]))
    clan = min(set(range(clans.slots)) - {other.clan for other in leaves})
    assert router.price is not None
    change = Change()
    _detach_leaf(clans, change, leaf)
    change.write(clans.root, clan, leaf.slot)
    change.write(router.price, clan, router.price[leaf.clan])
    for parameter in (router.centroids, router.bias):
        if parameter is not None:
            change.copy_row(parameter, leaf.clan, (clan,), optimizer, _KEPT)
    # The child's own centroid: where its mean token lies, as long as its parent's.
    mean = clans.mean[leaf.slot]
    if router.projection is not None:
        projection: Any = router.projection.detach()
        mean = (projection.full_tensor() if is_spread(projection) else projection).double() @ mean
    length = row_of(router.centroids, leaf.clan).double().norm()
    change.write(router.centroids, clan, mean / mean.norm().clamp_min(1e-30) * length)
    if not _accepted(clans, change, held_out, leaf, clan, (log.PROMOTION, log.PROMOTION_REFUSED)):
        clans.changed_at[leaf.slot] = clans.steps
        return False
    clans.changed_at[leaf.slot] = clans.steps
    return True


def _accepted(
    clans: Clans, change: Change, held_out: HeldOut, leaf: Leaf, other: int, kinds: tuple[int, int]
) -> bool:
    """Whether the held-out loss holds with the change, which is undone if not."""
    before = held_out()
    change.apply()
    try:
        after = held_out()
    except BaseException:
        change.undo()
        raise
    accepted = after - before <= clans.options.loss_tolerance  # False for NaN
    if not accepted:
        change.undo()
    else:
        clans.rest_until.fill_(int(clans.steps) + clans.options.cooldown)
    clans.record(kinds[0 if accepted else 1], leaf.clan, leaf.slot, other, before, after)
    return accepted


def _record_once(clans: Clans, kind: int, *numbers: float) -> None:
    """Not again while it is the last thing that happened."""
    total = int(clans.events_total)
    if total == 0 or int(clans.events[(total - 1) % len(clans.events)][1]) != kind:
        clans.record(kind, *numbers)


# ------------------------------------------------------------------------- ramp


def expert_parameters(layer: MoE) -> dict[str, nn.Parameter]:
    names = ("gate_up_proj", "down_proj", "gate_up_proj_bias", "down_proj_bias")
    return {name: getattr(layer, name) for name in names if getattr(layer, name) is not None}


@torch.no_grad()
def remember(layer: MoE) -> None:
    """Keeps the young children's rows, from which the next step's update is measured."""
    clans = clans_of(layer)
    clans.remembered = {
        slot: {
            name: row.clone()
            for name, parameter in expert_parameters(layer).items()
            if (row := own_row(parameter, slot)) is not None
        }
        for slot in clans.ramp_left.nonzero().flatten().tolist()
    }


def _ramp(layer: MoE) -> None:
    """Takes back a part of the update of young children: an optimiser's own rate has no rows."""
    clans = clans_of(layer)
    total = clans.options.ramp
    for slot, rows in clans.remembered.items():
        share = (total - int(clans.ramp_left[slot]) + 1) / total
        for name, parameter in expert_parameters(layer).items():
            if (row := own_row(parameter, slot)) is not None:
                row.copy_(torch.lerp(rows[name], row, share))
    clans.ramp_left.sub_(1).clamp_min_(0)
