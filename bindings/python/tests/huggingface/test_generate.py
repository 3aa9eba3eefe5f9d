"""Decoding: the same tokens, token by token as all at once."""

from __future__ import annotations

import torch

import genesis_moe as gm
from huggingface.tiny_models import build, exact_router, relative_difference, routers_of


def test_the_same_tokens_are_decoded(case: str, input_ids: torch.Tensor) -> None:
    model = build(case)
    mask = torch.ones_like(input_ids)
    settings = {"max_new_tokens": 12, "do_sample": False, "attention_mask": mask}
    expected = model.generate(input_ids, **settings)
    gm.inject(model, exact_router(case))
    assert torch.equal(model.generate(input_ids, **settings), expected)
    assert torch.equal(model.generate(input_ids, use_cache=False, **settings), expected)


def test_token_by_token_equals_all_at_once(case: str, input_ids: torch.Tensor) -> None:
    """Prices and gap are buffers: a token's route does not depend on later tokens or on its batch."""
    model = gm.inject(build(case), budget=1.5)
    for router in routers_of(model):
        router.price.normal_(std=0.3)
        router.gap.fill_(0.6)
    expected = model(input_ids).logits
    cache = None
    for position in range(input_ids.shape[1]):
        output = model(input_ids[:, position : position + 1], past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        assert relative_difference(output.logits[:, 0], expected[:, position]) < 1e-4, position
    alone = torch.cat([model(row).logits for row in input_ids.split(1)])
    assert relative_difference(alone, expected) < 1e-4
