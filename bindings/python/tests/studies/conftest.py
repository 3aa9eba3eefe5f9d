"""What the tests of the studies share."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from genesis_moe.studies.compare.corpus import DOMAINS, Corpus
from genesis_moe.studies.compare.model import Shape
from genesis_moe.studies.compare.training import Settings


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny_corpus() -> Corpus:
    """Words drawn from a small vocabulary, another one for each domain."""
    training, held_out = {}, {}
    for number, domain in enumerate(DOMAINS):
        generator = np.random.default_rng(number)
        words = ["".join(map(chr, generator.integers(97, 123, 5))) for _ in range(12)]
        for part, count in ((training, 2000), (held_out, 300)):
            text = " ".join(generator.choice(words, count)).encode()
            part[domain] = np.frombuffer(text, dtype=np.uint8)
    return Corpus(training, held_out, dict.fromkeys(DOMAINS, (1, 1)))


def tiny_settings(steps: int = 6) -> Settings:
    return Settings(
        shape=Shape(hidden_size=16, layers=2, heads=2, sequence=16, experts=4, intermediate_size=12),
        batch=4,
        steps=steps,
        evaluate_every=2,
        evaluation_windows=2,
        final_windows=3,
        checkpoint_every=2,
        curve_every=2,
    )


@pytest.fixture(scope="session")
def corpus() -> Corpus:
    return tiny_corpus()


@pytest.fixture(scope="session")
def settings() -> Settings:
    return tiny_settings()


@pytest.fixture
def environment_of_children() -> dict[str, str]:
    """For processes that import this file and the package."""
    import genesis_moe

    paths = [str(Path(__file__).parent), str(Path(genesis_moe.__file__).parents[1])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
