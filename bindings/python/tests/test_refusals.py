"""Hostile inputs: each gets an exception that names the argument, and never a crash or a wrong number."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import genesis_moe as gm
from genesis_moe import RouterOptions, _abi, functional
from genesis_moe._library import library

T, H, I, E, K = 5, 8, 6, 4, 2  # noqa: E741


def good() -> dict[str, Any]:
    return {
        "hidden_states": torch.randn(T, H),
        "top_k_index": torch.zeros(T, K, dtype=torch.int64),
        "top_k_weights": torch.rand(T, K),
        "gate_up_proj": torch.randn(E, 2 * I, H),
        "down_proj": torch.randn(E, H, I),
    }


EXPERTS: list[tuple[str, Any]] = [
    ("hidden_states", torch.randn(T)),
    ("hidden_states", torch.randn(T, H, 1)),
    ("hidden_states", torch.randn(T, H, dtype=torch.float16)),
    ("hidden_states", torch.randint(0, 9, (T, H))),
    ("hidden_states", torch.randn(T, H, dtype=torch.complex64)),
    ("hidden_states", [[1.0] * H] * T),
    ("hidden_states", None),
    ("top_k_index", torch.zeros(T, K)),
    ("top_k_index", torch.zeros(T, K, dtype=torch.int16)),
    ("top_k_index", torch.zeros(T + 1, K, dtype=torch.int64)),
    ("top_k_index", torch.zeros(T, dtype=torch.int64)),
    ("top_k_index", torch.full((T, K), -1)),
    ("top_k_index", np.zeros((T, K), np.int64)),
    ("top_k_weights", torch.rand(T, K + 1)),
    ("top_k_weights", torch.ones(T, K, dtype=torch.int64)),
    ("gate_up_proj", torch.randn(E, 2 * I, H + 1)),
    ("gate_up_proj", torch.randn(E, 2 * I + 1, H)),
    ("gate_up_proj", torch.randn(E, H)),
    ("gate_up_proj", torch.randn(E, 2 * I, H).double()),
    ("gate_up_proj", torch.randn(E, 2 * I, H).bfloat16()),
    ("gate_up_proj", torch.randn(E, 2 * I, H, 1, 1, 1, 1, 1, 1)),
    ("down_proj", torch.randn(E, H, I + 1)),
    ("down_proj", torch.randn(E + 1, H, I)),
    ("gate_up_bias", torch.randn(E, I)),
    ("gate_up_bias", "bias"),
    ("down_bias", torch.randn(E, H + 1)),
    ("activation", "swish"),
    ("activation", None),
]


@pytest.mark.parametrize(("argument", "value"), EXPERTS, ids=[f"{n}-{i}" for i, (n, _) in enumerate(EXPERTS)])
@pytest.mark.parametrize("gradient", [False, True])
def test_experts(argument: str, value: Any, gradient: bool) -> None:
    arguments = good()
    arguments["down_proj"].requires_grad_(gradient)
    with pytest.raises(gm.InvalidArgumentError) as caught:
        functional.experts(**{**arguments, argument: value})
    blamed = {
        "hidden_states": "hidden_states|gate_up_proj",
        "gate_up_proj": "gate_up_proj|down_proj|hidden_states",
        "down_proj": "down_proj|gate_up_proj",
    }
    assert re.search(blamed.get(argument, argument), str(caught.value)), caught.value
    assert isinstance(caught.value, ValueError)


def router_arguments() -> dict[str, Any]:
    return {"hidden_states": torch.randn(T, H), "centroids": torch.randn(E, H)}


ROUTER: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("top_k", {"top_k": 0}, {}),
    ("top_k", {"top_k": E + 1}, {}),
    ("top_k", {"top_k": -3}, {}),
    ("mode", {"mode": "switch"}, {}),
    ("binding", {"binding": "euclid"}, {}),
    ("solver", {"solver": "newton"}, {}),
    ("gap", {"budgeted": True}, {}),
    ("gap", {"budgeted": True}, {"gap": torch.tensor([-1.0])}),
    ("gap", {"budgeted": True}, {"gap": torch.zeros(2)}),
    ("epsilon", {"epsilon": -1.0}, {}),
    ("epsilon", {"epsilon": float("nan")}, {}),
    ("entropy_temperature", {"entropy_temperature": 0.0, "solver": "batch"}, {}),
    ("load_penalty", {"load_penalty": 0.0, "solver": "batch"}, {}),
    ("num_groups", {"mode": "deepseek", "num_groups": 3}, {}),
    ("top_k_groups", {"mode": "deepseek", "num_groups": 2, "top_k_groups": 3}, {}),
    ("centroids", {}, {"centroids": torch.randn(E, H + 1)}),
    ("centroids", {}, {"centroids": torch.randn(E)}),
    ("projection", {}, {"projection": torch.randn(3, H + 1)}),
    ("price", {}, {"price": torch.zeros(E + 1)}),
    ("price", {}, {"price": np.zeros(E, np.float32)}),
    ("temperature", {}, {"temperature": torch.ones(2)}),
    ("bias", {"binding": "dot"}, {"bias": torch.ones(E + 1)}),
    ("hidden_states", {}, {"hidden_states": torch.randn(T, H).half()}),
    ("hidden_states", {}, {"hidden_states": object()}),
]


@pytest.mark.parametrize(
    ("argument", "options", "changes"), ROUTER, ids=[f"{n}-{i}" for i, (n, _, _) in enumerate(ROUTER)]
)
def test_route(argument: str, options: dict[str, Any], changes: dict[str, Any]) -> None:
    with pytest.raises(gm.InvalidArgumentError, match=argument):
        functional.route(**{**router_arguments(), **changes}, options=RouterOptions(**options))


UPDATES: list[tuple[str, dict[str, Any]]] = [
    ("counts", {"counts": torch.zeros(E)}),
    ("counts", {"counts": torch.full((E,), -1)}),
    ("price", {"counts": torch.zeros(E + 1, dtype=torch.int64)}),
    ("counts", {"counts": 3}),
    ("num_tokens", {"num_tokens": -1}),
    ("rate", {"rate": float("nan")}),
    ("step_limit", {"step_limit": -1.0}),
    ("price", {"price": None}),
    ("price", {"price": torch.zeros(E).bfloat16()}),
    ("price", {"price": torch.zeros(1).expand(E)}),
    ("gap", {"options": RouterOptions(budgeted=True), "budget": 1.5}),
    ("budget", {"options": RouterOptions(budgeted=True), "budget": 0.5, "gap": torch.zeros(1)}),
    ("budget", {"options": RouterOptions(budgeted=True), "budget": 2.5, "gap": torch.zeros(1)}),
]


@pytest.mark.parametrize(
    ("argument", "changes"), UPDATES, ids=[f"{n}-{i}" for i, (n, _) in enumerate(UPDATES)]
)
def test_update(argument: str, changes: dict[str, Any]) -> None:
    arguments = {
        "options": RouterOptions(),
        "counts": torch.ones(E, dtype=torch.int64),
        "num_tokens": 4,
        "price": torch.zeros(E),
        "rate": 0.02,
    }
    with pytest.raises(gm.InvalidArgumentError, match=argument):
        functional.update(**{**arguments, **changes})


NUMPY: list[tuple[str, Callable[[np.ndarray], Any]]] = [
    ("hidden_states", lambda a: a.astype(">f4")),
    ("hidden_states", lambda a: np.zeros(T * H * 4 + 1, np.uint8)[1:].view(np.float32).reshape(T, H)),
    ("hidden_states", lambda a: np.zeros((T, H), dtype=[("v", "f4"), ("pad", "u1")])["v"]),
    ("hidden_states", lambda a: a.astype(object)),
    ("down_proj", lambda a: a.tolist()),
    ("gate_up_proj", lambda a: torch.from_numpy(a)),
    ("top_k_index", lambda a: a.astype(np.uint64)),
]


@pytest.mark.parametrize(("argument", "spoil"), NUMPY, ids=[f"{n}-{i}" for i, (n, _) in enumerate(NUMPY)])
def test_numpy(argument: str, spoil: Callable[[np.ndarray], Any]) -> None:
    arguments = {name: tensor.numpy() for name, tensor in good().items()}
    arguments[argument] = spoil(arguments[argument])
    with pytest.raises(gm.InvalidArgumentError, match=argument):
        functional.experts(**arguments)


def test_read_only_prices() -> None:
    price = np.zeros(E, np.float32)
    price.flags.writeable = False
    with pytest.raises(gm.InvalidArgumentError, match="price: is read-only"):
        functional.update(RouterOptions(), np.ones(E, np.int64), 4, price, rate=0.02)


MODULES: list[tuple[str, Callable[[], Any]]] = [
    ("top_k", lambda: gm.Router(8, 4, 5)),
    ("num_experts", lambda: gm.Router(8, 0)),
    ("hidden_size", lambda: gm.Router(0, 4)),
    ("router_dim", lambda: gm.Router(8, 4, router_dim=0)),
    ("mode", lambda: gm.Router(8, 4, mode="best")),
    ("budget", lambda: gm.Router(8, 4, budget=2.5)),
    ("budget", lambda: gm.Router(8, 4, mode="mixtral", budget=1.5)),
    ("budget", lambda: gm.MoE(8, 8, 4, budget=1.5, router="deepseek")),
    ("budget", lambda: gm.MoE(8, 8, 4, budget=1.5, router=gm.Router(8, 4))),
    ("binding", lambda: gm.MoE(8, 8, 4, binding="dot", router=gm.Router(8, 4))),
    ("num_experts", lambda: gm.MoE(8, 8, 4, router=gm.Router(8, 5))),
    ("intermediate_size", lambda: gm.MoE(8, 0, 4)),
    ("shared_experts", lambda: gm.MoE(8, 8, 4, shared_experts=-1)),
    ("activation", lambda: gm.MoE(8, 8, 4, activation="swish")),
    ("hidden_states", lambda: gm.MoE(8, 8, 4)(torch.randn(3, 9))),
    ("hidden_states", lambda: gm.MoE(8, 8, 4)(torch.tensor(1.0))),
    ("num_threads", lambda: gm.set_num_threads(0)),
]


@pytest.mark.parametrize(("argument", "make"), MODULES, ids=[f"{n}-{i}" for i, (n, _) in enumerate(MODULES)])
def test_modules(argument: str, make: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match=argument):
        make()


def test_sparse_and_mapped_tensors() -> None:
    arguments = good()
    with pytest.raises((RuntimeError, NotImplementedError)):
        functional.experts(**{**arguments, "hidden_states": torch.eye(H).to_sparse()})
    with pytest.raises(RuntimeError, match=r"storage|vmap|functorch|setup_context"):
        torch.func.vmap(lambda x: functional.experts(**{**arguments, "hidden_states": x}))(
            torch.randn(3, T, H)
        )


def test_a_device_that_is_not_there() -> None:
    options = _abi.EngineOptions(ctypes.sizeof(_abi.EngineOptions), _abi.ABI_VERSION, _abi.CUDA, 99, 0)
    out = ctypes.c_void_p()
    from genesis_moe._library import check

    with pytest.raises(gm.GenesisMoeError, match=r"CUDA|cuda|device") as caught:
        check(library().gmoe_engine_create(ctypes.byref(options), ctypes.byref(out)))
    assert isinstance(caught.value, RuntimeError)


def test_a_stale_handle_is_recognised() -> None:
    from genesis_moe import _call, _numpy_ops
    from genesis_moe.options import experts_struct

    arrays = {name: tensor.numpy() for name, tensor in good().items()}
    values = (*list(arrays.values())[:4], None, arrays["down_proj"], None, np.empty((T, H), np.float32), None)
    with pytest.raises(gm.InvalidHandleError, match="engine"):
        _call.experts_forward(0, experts_struct(0, 1, 0, 1.702, 7.0), values, _numpy_ops.view_of)
