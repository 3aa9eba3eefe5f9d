from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import settings

settings.register_profile("genesis_moe", deadline=None, derandomize=True, max_examples=40, print_blob=True)
settings.load_profile("genesis_moe")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def root() -> Path:
    """The top of the checkout."""
    return Path(__file__).resolve().parents[3]
