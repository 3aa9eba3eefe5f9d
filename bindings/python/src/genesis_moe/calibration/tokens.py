"""Text as windows of tokens."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from genesis_moe.errors import InvalidArgumentError

# Fewer say too little about which neurons work together.
LEAST_TOKENS = 256


def windows(texts: Iterable[str], tokenizer: Any, tokens: int, length: int, seed: int) -> Tensor:
    """Windows [n, length] of token ids, about `tokens` in all, spread evenly over the texts.

    Each text is cut in windows that follow one another; the windows of all texts are then taken in a
    random order. Texts shorter than a window are joined. Raises InvalidArgumentError when there are too few.
    """
    if isinstance(texts, str):
        raise InvalidArgumentError("texts: a str, want an iterable of str, one for each document")
    whole: list[list[int]] = []
    rest: list[int] = []
    total = 0
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise InvalidArgumentError(f"texts: item {number} is a {type(text).__name__}, want str")
        ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
        total += len(ids)
        cut = len(ids) // length * length
        whole += [ids[i : i + length] for i in range(0, cut, length)]
        rest += ids[cut:]
    cut = len(rest) // length * length
    whole += [rest[i : i + length] for i in range(0, cut, length)]
    wanted = max(1, tokens // length)
    if len(whole) * length < min(tokens, LEAST_TOKENS):
        raise InvalidArgumentError(
            f"texts: {total} tokens, want at least {max(length, min(tokens, LEAST_TOKENS))} for windows of {length}"
        )
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(whole), generator=generator)[:wanted]
    return torch.tensor([whole[i] for i in order.tolist()])
