"""How far a converted model is from its dense one on text that it has not seen."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from genesis_moe.calibration.cloze import score
from genesis_moe.calibration.layer import SparseMLP


def token_log_probabilities(model: Any, windows: Tensor) -> Tensor:
    """Log-probabilities [n, L - 1, V] of the next token, in float16: there are many."""
    found: Tensor | None = None
    for number, one in enumerate(windows):
        logits = model(input_ids=one[None], use_cache=False).logits[0, :-1].float()
        if found is None:
            found = torch.empty(len(windows), *logits.shape, dtype=torch.float16)
        found[number] = logits.log_softmax(-1)
    assert found is not None
    return found


def nll(log_probabilities: Tensor, windows: Tensor) -> float:
    """Mean negative log-likelihood in nats per token."""
    return -float(log_probabilities.gather(2, windows[:, 1:, None]).float().mean())


def compare(
    model: Any,
    dense: Mapping[str, Tensor],
    windows: Mapping[str, Tensor],
    cloze: Mapping[str, Tensor] | None = None,
) -> dict[str, Any]:
    """Perplexities, KL divergence to dense, top-1 agreement and cloze answers, by domain and in all.

    dense: the dense model's log-probabilities by domain. cloze: questions by domain. The overall perplexity
    is of the mean of the domains' losses, so that each domain counts alike. active: the share of
    the MLPs' multiplications on this text; None where they are not of SparseMLP.
    """
    domains: dict[str, dict[str, float]] = {}
    shares: list[float] = []
    for name, ids in windows.items():
        kl = same = loss = 0.0
        asked = torch.zeros(0, 6, dtype=torch.int64) if cloze is None else cloze[name]
        answered = dense_answered = 0.0
        for number, (one, reference) in enumerate(zip(ids, dense[name], strict=True)):
            found = model(input_ids=one[None], use_cache=False).logits[0, :-1].float().log_softmax(-1)
            shares += active(model)
            here = asked[asked[:, 0] == number]
            answered += score(found, here)
            dense_answered += score(reference, here)
            wanted = reference.float()
            kl += float((wanted.exp() * (wanted - found)).sum(-1).mean())
            same += float((wanted.argmax(-1) == found.argmax(-1)).float().mean())
            loss -= float(found.gather(1, one[1:, None]).mean())
        count = len(ids)
        dense_loss = nll(dense[name], ids)
        domains[name] = {
            "dense_perplexity": math.exp(dense_loss),
            "perplexity": math.exp(min(loss / count, 700.0)),
            "ratio": math.exp(min(loss / count - dense_loss, 700.0)),
            "kl": kl / count,
            "top_1_agreement": same / count,
            "tokens": ids.numel(),
        }
        if len(asked):
            domains[name] |= {
                "cloze_questions": len(asked),
                "cloze_correct": answered,
                "dense_cloze_correct": dense_answered,
            }

    def mean(key: str) -> float:
        return sum(one[key] for one in domains.values()) / len(domains)

    def geometric(key: str) -> float:
        return math.exp(sum(math.log(one[key]) for one in domains.values()) / len(domains))

    def answers(key: str) -> float | None:
        count = sum(one.get("cloze_questions", 0) for one in domains.values())
        return sum(one.get(key, 0.0) for one in domains.values()) / count if count else None

    return {
        "domains": domains,
        "active": sum(shares) / len(shares) if shares else None,
        "cloze": answers("cloze_correct"),
        "dense_cloze": answers("dense_cloze_correct"),
        "dense_perplexity": geometric("dense_perplexity"),
        "perplexity": geometric("perplexity"),
        "ratio": geometric("ratio"),
        "kl": mean("kl"),
        "top_1_agreement": mean("top_1_agreement"),
    }


def active(model: Any) -> list[float]:
    """The share of the multiplications of all SparseMLP in the last forward, in a list; empty if there are none."""
    cost = dense = 0.0
    for module in model.modules():
        if isinstance(module, SparseMLP):
            experts = 0.0
            if module.router is not None and module.router.last_routing is not None:
                routing = module.router.last_routing
                experts = float(routing.counts[:-1].sum()) / max(1, routing.index.shape[0])
            cost += module.shape.cost(experts)
            dense += module.shape.dense_cost
    return [cost / dense] if dense else []
