from __future__ import annotations

import pytest

pytest.importorskip("transformers")

import torch
import transformers

from huggingface.tiny_models import CASES

transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


@pytest.fixture(params=list(CASES))
def case(request: pytest.FixtureRequest) -> str:
    """The name of each of the tiny models in turn."""
    return str(request.param)


@pytest.fixture
def input_ids() -> torch.Tensor:
    """[3, 11] tokens."""
    return torch.randint(0, 61, (3, 11), generator=torch.Generator().manual_seed(5))
