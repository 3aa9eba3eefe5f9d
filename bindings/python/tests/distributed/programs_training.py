"""What the ranks of test_same_training.py do."""

from __future__ import annotations

from typing import Any

import torch

from genesis_moe.studies.compare.arms import ARMS
from genesis_moe.studies.distributed.training import DistributedRun
from studies.conftest import tiny_corpus, tiny_settings

# So that rounding decides no token's experts. What is left is whether the ranks' sums are the whole's.
DTYPE = torch.float64


def trained(runs: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """The whole training of each (layout, arm)."""
    return [
        DistributedRun(layout, ARMS[arm], 0, tiny_settings(12), tiny_corpus(), DTYPE).train_here()
        for layout, arm in runs
    ]
