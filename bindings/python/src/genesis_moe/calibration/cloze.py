"""Cloze questions from held-out text: which of four words comes next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

CHOICES = 4
CONTEXT = 32  # tokens before the first question of a window


def questions(windows: Tensor, is_word: Callable[[int], bool], seed: int = 0) -> Tensor:
    """Questions [n, 2 + CHOICES]: window, position of the token before the answer, the answer, and wrong ones.

    windows: [w, L] token ids. is_word: whether a token is a word that is worth asking for. A question at
    every such token behind the first CONTEXT; the wrong answers are words of other questions,
    so that they are as usual in this text as the right one.
    """
    found = [
        (window, position - 1, token)
        for window, ids in enumerate(windows.tolist())
        for position, token in enumerate(ids)
        if position >= CONTEXT and is_word(token)
    ]
    words = sorted({token for _, _, token in found})
    if len(words) < CHOICES:
        return torch.zeros(0, 2 + CHOICES, dtype=torch.int64)
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for window, position, token in found:
        order = torch.randperm(len(words), generator=generator)[:CHOICES].tolist()
        wrong = [words[i] for i in order if words[i] != token][: CHOICES - 1]
        rows.append([window, position, token, *wrong])
    return torch.tensor(rows)


def score(log_probabilities: Tensor, asked: Tensor) -> float:
    """How many of the questions of one window are answered; log_probabilities: [L - 1, V]."""
    values = log_probabilities[asked[:, 1, None], asked[:, 2:]].float()
    return float((values.argmax(1) == 0).sum())


def word_test(tokenizer: Any) -> Callable[[int], bool]:
    """Whether a token is a whole word of four letters or more, by the marks that tokenizers put before one."""
    name = getattr(tokenizer, "convert_ids_to_tokens", None)
    if name is None:
        return lambda token: False

    def is_word(token: int) -> bool:
        text = str(name(token))
        return (
            text[:1] in ("\u0120", "\u2581") and len(text) >= 5 and text[1:].isascii() and text[1:].isalpha()
        )

    return is_word
