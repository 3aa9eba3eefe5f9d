"""transformers' own expert parallelism, which gives each rank E / R experts and masks the others' slots.

Every rank has all tokens. ``ep_router`` changes an expert of another rank to the index E / R,
which our experts leave out; the ranks' outputs are added up.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from distributed import programs_huggingface as programs
from distributed.ranks import Ranks

CASES: dict[str, tuple[str, dict[str, Any] | None]] = {
    "mixtral": ("mixtral", None),
    "qwen3_moe": ("qwen3_moe", None),
    "injected, with a budget": ("mixtral", {"router": "hamiltonian", "budget": 1.5, "gap_rate": 0.1}),
}


@pytest.mark.parametrize("name", CASES)
def test_equals_one_process(ranks: Ranks, tmp_path: Path, name: str) -> None:
    family, injection = CASES[name]
    ranks.run(programs.saved, family, injection, str(tmp_path), world=1)
    one = ranks.run(programs.trained, str(tmp_path), world=1)[0]
    found = ranks.run(programs.trained, str(tmp_path), world=2)
    for rank in found:
        local = programs.EXPERTS // 2
        assert rank["numbers"] == [local] * 2 and one["numbers"] == [programs.EXPERTS] * 2
        assert int(rank["index"].max()) == local, "sentinels"
        assert torch.allclose(rank["logits"], one["logits"], rtol=1e-5, atol=1e-5)
        assert rank["losses"] == pytest.approx(one["losses"], abs=1e-5)
        assert rank["gradients"].keys() == one["gradients"].keys()
        for parameter, gradient in one["gradients"].items():
            assert torch.allclose(rank["gradients"][parameter], gradient, rtol=1e-4, atol=1e-6), parameter
        for mine, theirs in zip(rank["prices"], one["prices"], strict=True):
            assert torch.equal(mine, theirs)
    assert len(one["prices"]) == (2 if injection else 0)
    absent = (found[0]["index"] == 2) & (found[1]["index"] == 2)
    assert bool(absent.any()) == bool(injection), "only a budget leaves slots empty on all ranks"


def test_injection_into_a_distributed_model_is_refused(ranks: Ranks, tmp_path: Path) -> None:
    ranks.run(programs.saved, "mixtral", None, str(tmp_path), world=1)
    for message in ranks.run(programs.injected_after_loading, str(tmp_path), world=2):
        assert "transformers has distributed model.layers.0.mlp.gate" in message
