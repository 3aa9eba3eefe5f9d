"""save_pretrained and from_pretrained of injected models, with and without genesis_moe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import genesis_moe as gm
from genesis_moe.huggingface import restore
from huggingface.tiny_models import build, relative_difference, routers_of


def settled(model: Any, input_ids: torch.Tensor) -> Any:
    """The model after two steps of training, so that no tensor has the value it started from."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.train()
    for _ in range(2):
        optimizer.zero_grad()
        model(input_ids, labels=input_ids).loss.backward()
        optimizer.step()
        gm.step(model)
    return model.eval()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"budget": 1.25},
        {"binding": "cosine", "router_dim": 8, "budget": 1.5},
        {"router": "mixtral"},
        {"router": "deepseek"},
    ],
    ids=str,
)
def test_the_model_comes_back(
    case: str, options: dict[str, Any], input_ids: torch.Tensor, tmp_path: Path
) -> None:
    model = settled(gm.inject(build(case), **options), input_ids)
    expected = model(input_ids).logits
    model.save_pretrained(tmp_path)
    loaded, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert loaded.config._experts_implementation == "genesis_moe"
    assert loaded.config.genesis_moe == model.config.genesis_moe
    state, loaded_state = model.state_dict(), loaded.state_dict()
    assert state.keys() == loaded_state.keys()
    for name, tensor in state.items():
        assert loaded_state[name].dtype == tensor.dtype, name
        assert torch.equal(loaded_state[name], tensor), name
    loaded.to("cpu", torch.float32)  # before anything has asked for the counts
    assert all(router.tokens == 0 and (router.counts == 0).all() for router in routers_of(loaded))
    assert relative_difference(loaded(input_ids).logits, expected) < 1e-6
    again = settled(loaded, input_ids)(input_ids).logits
    assert relative_difference(again, settled(model, input_ids)(input_ids).logits) < 1e-5


def test_the_base_model_comes_back_too(input_ids: torch.Tensor, tmp_path: Path) -> None:
    model = settled(gm.inject(build("mixtral"), budget=1.25), input_ids)
    model.save_pretrained(tmp_path)
    base = type(model.model).from_pretrained(tmp_path)
    expected = model.model(input_ids).last_hidden_state
    assert relative_difference(base(input_ids).last_hidden_state, expected) < 1e-6


def test_bfloat16_keeps_prices_in_float32(input_ids: torch.Tensor, tmp_path: Path) -> None:
    model = settled(gm.inject(build("mixtral"), budget=1.25), input_ids)
    prices = [router.price.clone() for router in routers_of(model)]
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path, dtype=torch.bfloat16)
    for router, price in zip(routers_of(loaded), prices, strict=True):
        assert router.weight.dtype == torch.bfloat16
        assert torch.equal(router.price, price)


def test_a_model_made_from_the_configuration_is_injected(input_ids: torch.Tensor) -> None:
    config = gm.inject(build("mixtral"), budget=1.25).config
    model = type(build("mixtral"))(config)
    assert [router.budget for router in routers_of(model)] == [1.25, 1.25]
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())
    assert torch.isfinite(model(input_ids).logits).all()


def test_tensors_that_a_checkpoint_lacks_are_initialised(input_ids: torch.Tensor, tmp_path: Path) -> None:
    model = gm.inject(build("deepseek_v3"), binding="cosine", router_dim=8, budget=1.5)
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = {name: tensor for name, tensor in load_file(path).items() if ".gate." not in name}
    save_file(tensors, path, metadata={"format": "pt"})
    loaded, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert info["missing_keys"]
    for router in routers_of(loaded):
        assert router.temperature.item() == pytest.approx(0.3)
        assert router.gap.item() == router.initial_gap
        assert (router.price == 0).all()
        assert 0 < router.weight.std() < 0.1
        assert 0.1 < router.projection.std() < 0.3  # 1 / sqrt(H) = 0.177
    assert torch.isfinite(loaded(input_ids).logits).all()


def test_models_without_an_injection_are_untouched(
    case: str, input_ids: torch.Tensor, tmp_path: Path
) -> None:
    model = build(case)
    expected = model(input_ids).logits
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path, experts_implementation="eager")
    assert routers_of(loaded) == []
    assert torch.equal(loaded(input_ids).logits, expected)


class TestWithoutGenesisMoe:
    """What a process that has not imported genesis_moe sees."""

    @pytest.fixture(autouse=True)
    def _unwrapped(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(restore.injection, "restore", lambda model: None)

    def test_a_dot_injection_loads_as_the_original(self, input_ids: torch.Tensor, tmp_path: Path) -> None:
        model = gm.inject(build("mixtral"))
        expected = model(input_ids).logits
        model.save_pretrained(tmp_path)
        loaded, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
        assert routers_of(loaded) == []
        assert {name.rpartition(".")[2] for name in info["unexpected_keys"]} == {"price", "temperature"}
        assert relative_difference(loaded(input_ids).logits, expected) < 1e-5

    def test_deepseek_in_its_own_mode_is_an_ordinary_checkpoint(
        self, input_ids: torch.Tensor, tmp_path: Path
    ) -> None:
        model = settled(gm.inject(build("deepseek_v3"), "deepseek"), input_ids)
        expected = model(input_ids).logits
        model.save_pretrained(tmp_path)
        loaded, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
        assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        assert relative_difference(loaded(input_ids).logits, expected) < 1e-5

    def test_another_router_width_stops_at_the_weight(self, tmp_path: Path) -> None:
        gm.inject(build("mixtral"), binding="cosine", router_dim=8).save_pretrained(tmp_path)
        with pytest.raises(RuntimeError, match=r"ignore_mismatched_sizes"):
            type(build("mixtral")).from_pretrained(tmp_path)


def test_a_record_of_another_release_is_refused(tmp_path: Path) -> None:
    model = gm.inject(build("mixtral"))
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    assert config["genesis_moe"]["version"] == 1
    config["genesis_moe"]["version"] = 2
    path.write_text(json.dumps(config))
    with pytest.raises(gm.InvalidArgumentError, match=r"config.genesis_moe: version 2, want 1"):
        type(model).from_pretrained(tmp_path)


def test_the_choice_of_experts_is_kept_but_for_eager_with_a_budget(
    input_ids: torch.Tensor, tmp_path: Path
) -> None:
    model = gm.inject(build("mixtral"), budget=1.25)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path, experts_implementation="batched_mm")
    assert loaded.config._experts_implementation == "batched_mm"
    assert relative_difference(loaded(input_ids).logits, model(input_ids).logits) < 1e-5
    with pytest.raises(
        gm.InvalidArgumentError, match=r'experts_implementation: "eager", but this model has a budget'
    ):
        type(model).from_pretrained(tmp_path, experts_implementation="eager")
