"""How far a converted model is from its dense one on text that it has not seen."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def token_log_probabilities(model: Any, windows: Tensor) -> Tensor:
    """Log-probabilities [n, L - 1, V] of the next token, in float16: there are many."""
    found = [model(input_ids=one[None], use_cache=False).logits[0, :-1].float() for one in windows]
    return torch.stack([logits.log_softmax(-1).half() for logits in found])


def nll(log_probabilities: Tensor, windows: Tensor) -> float:
    """Mean negative log-likelihood in nats per token."""
    return -float(log_probabilities.gather(2, windows[:, 1:, None]).float().mean())


def compare(model: Any, dense: Mapping[str, Tensor], windows: Mapping[str, Tensor]) -> dict[str, Any]:
    """Perplexities, KL divergence to dense and top-1 agreement, by domain and in all.

    dense: the dense model's log-probabilities by domain. The overall perplexity is of the mean of the
    domains' losses, so that each domain counts alike.
    """
    domains: dict[str, dict[str, float]] = {}
    for name, ids in windows.items():
        kl = same = loss = 0.0
        for one, reference in zip(ids, dense[name], strict=True):
            found = model(input_ids=one[None], use_cache=False).logits[0, :-1].float().log_softmax(-1)
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

    def mean(key: str) -> float:
        return sum(one[key] for one in domains.values()) / len(domains)

    def geometric(key: str) -> float:
        return math.exp(sum(math.log(one[key]) for one in domains.values()) / len(domains))

    return {
        "domains": domains,
        "dense_perplexity": geometric("dense_perplexity"),
        "perplexity": geometric("perplexity"),
        "ratio": geometric("ratio"),
        "kl": mean("kl"),
        "top_1_agreement": mean("top_1_agreement"),
    }
