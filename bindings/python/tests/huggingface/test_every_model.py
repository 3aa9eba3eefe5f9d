"""Each experts class that transformers decorates, against its own forward.

The classes are found by the decorator, so a release with a new one is covered or fails here.
"""

from __future__ import annotations

import functools
import importlib
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers

from huggingface.tiny_models import relative_difference

EXPERTS, HIDDEN, INTERMEDIATE = 5, 16, 12

_DECLARATION = re.compile(r"^@use_experts_implementation(?:\([^)]*\))?\nclass (\w+)", re.MULTILINE)


@functools.cache
def decorated_classes() -> list[tuple[str, str]]:
    """(module, class) of every decorated class in transformers.models."""
    found = []
    package = Path(transformers.__file__).parent
    for path in sorted(package.glob("models/*/modeling_*.py")):
        module = "transformers." + ".".join(path.relative_to(package).with_suffix("").parts)
        found += [(module, name) for name in _DECLARATION.findall(path.read_text(encoding="utf-8"))]
    return found


def configuration() -> Any:
    """All that any experts class reads of its configuration."""
    return SimpleNamespace(
        num_experts=EXPERTS,
        num_local_experts=EXPERTS,
        n_routed_experts=EXPERTS,
        moe_num_experts=EXPERTS,
        hidden_size=HIDDEN,
        intermediate_size=INTERMEDIATE,
        moe_intermediate_size=INTERMEDIATE,
        moe_latent_size=None,
        hidden_act="silu",
        hidden_activation="gelu_pytorch_tanh",
        mlp_hidden_act="relu2",
        swiglu_limit=7.0,
        swiglu_alpha=1.702,
        layer_types=None,
        _experts_implementation="eager",
    )


def run(experts: Any, implementation: str) -> dict[str, torch.Tensor]:
    """Output and gradients of one call."""
    generator = torch.Generator().manual_seed(1)
    hidden_states = torch.randn(7, HIDDEN, generator=generator).requires_grad_()
    index = torch.rand(7, EXPERTS, generator=generator).argsort(dim=1)[:, :2]
    weights = torch.rand(7, 2, generator=generator).requires_grad_()
    experts.config._experts_implementation = implementation
    experts.zero_grad()
    y = experts(hidden_states, index, weights)
    (y * torch.linspace(-1, 1, y.numel()).reshape(y.shape)).sum().backward()
    tensors = {"hidden_states": hidden_states, "top_k_weights": weights, **dict(experts.named_parameters())}
    return {"output": y.detach(), **{name: tensor.grad for name, tensor in tensors.items()}}


@pytest.mark.parametrize(("module", "name"), decorated_classes(), ids=lambda value: value.rpartition(".")[2])
def test_experts(module: str, name: str) -> None:
    experts_class = getattr(importlib.import_module(module), name)
    experts = experts_class(configuration())
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in experts.parameters():
            parameter.normal_(std=0.4, generator=generator)
    expected = run(experts, "eager")
    for tensor, actual in run(experts, "genesis_moe").items():
        assert relative_difference(actual, expected[tensor]) < 1e-5, tensor


def test_there_are_as_many_as_known() -> None:
    assert len(decorated_classes()) >= 50
