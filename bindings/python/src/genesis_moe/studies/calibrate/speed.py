"""What the sparse model says and how fast it says it, beside the dense one."""

from __future__ import annotations

from typing import Any

PROMPTS = ("The capital of France is", "def fibonacci(n):", "To make a cup of tea, first")


def generate(model: Any, tokenizer: Any) -> list[str]:
    """Greedy continuations of the prompts, prompt included."""
    found = []
    for prompt in PROMPTS:
        ids = tokenizer(prompt, return_tensors="pt")
        found.append(tokenizer.decode(model.generate(**ids, max_new_tokens=16, do_sample=False)[0]))
    return found
