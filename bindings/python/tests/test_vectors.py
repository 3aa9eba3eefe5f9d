"""The test vectors that all bindings share (testdata/vectors) pass through the functional API."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

import genesis_moe as gm
from genesis_moe import RouterOptions, functional

VECTORS = Path(__file__).resolve().parents[3] / "testdata" / "vectors"
FLOATS = ("float64", "float32", "bfloat16")
# Float32 beside bfloat16 hidden states.
WIDE = (
    "bias", "price", "temperature", "gap", "top_k_weights", "logits", "direction", "threshold", "binding"
)  # fmt: skip

Case = dict[str, Any]


def read(name: str) -> tuple[dict[str, float], list[Any]]:
    content = json.loads((VECTORS / f"{name}.json").read_text())
    return content["tolerances"], [pytest.param(case, id=case["name"]) for case in content["cases"]]


TOLERANCES, ROUTER = read("router")
_, EXPERTS = read("experts")
_, UPDATE = read("update")
_, REPORT = read("report")
_, CLANS = read("clans")
_, E4M3 = read("e4m3")
_, REFUSED = read("refused")


def array_of(name: str, value: dict[str, Any], dtype: str) -> np.ndarray:
    """A tensor of a file as a NumPy array."""
    if value.get("dtype") == "float8_e4m3fn":
        chosen: Any = ml_dtypes.float8_e4m3fn
    elif "dtype" in value:
        chosen = value["dtype"]
    elif dtype == "bfloat16" and name.removeprefix("grad_") not in WIDE:
        chosen = ml_dtypes.bfloat16
    else:
        chosen = "float64" if dtype == "float64" else "float32"
    return np.array(value["values"], np.float64).astype(chosen).reshape(value["shape"])


def arrays_of(case: Case, key: str, dtype: str) -> dict[str, np.ndarray]:
    return {name: array_of(name, value, dtype) for name, value in case[key].items()}


def tensors_of(case: Case, key: str, dtype: str) -> dict[str, torch.Tensor]:
    def convert(array: np.ndarray) -> torch.Tensor:
        if array.dtype == ml_dtypes.bfloat16:
            return torch.from_numpy(array.astype(np.float32)).bfloat16()
        if array.dtype == ml_dtypes.float8_e4m3fn:
            return torch.from_numpy(array.view(np.uint8)).view(torch.float8_e4m3fn)
        return torch.from_numpy(array)

    return {name: convert(array) for name, array in arrays_of(case, key, dtype).items()}


def agrees(case: Case, got: dict[str, Any], key: str, dtype: str) -> None:
    """Every expected tensor of the case that the API returns."""
    for name, value in case[key].items():
        if name not in got:
            continue
        want = np.array(value["values"]).reshape(value["shape"])
        result = (
            got[name].detach().double().numpy() if torch.is_tensor(got[name]) else got[name].astype(float)
        )
        assert result.shape == want.shape, name
        double = value.get("dtype") == "float64"
        tolerance = case.get("tolerances", {}).get(name, TOLERANCES["float64" if double else dtype])
        scale = max(1.0, np.abs(want).max())
        worst = np.abs(result - want).max()
        assert worst <= (0 if "dtype" in value and not double else tolerance * scale), f"{name}: {worst} off"


def test_the_files_are_what_the_reference_says() -> None:
    done = subprocess.run(
        [sys.executable, str(VECTORS / "generate.py"), "--check"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("case", ROUTER)
def test_router(case: Case, dtype: str) -> None:
    options = RouterOptions(**case["options"])
    routing = functional.route(options=options, **arrays_of(case, "inputs", dtype))
    names = ("top_k_index", "top_k_weights", "logits", "counts")
    agrees(case, dict(zip(names, routing, strict=True)), "outputs", dtype)

    inputs = tensors_of(case, "inputs", dtype)
    wanted = [name.removeprefix("grad_") for name in case["grad_inputs"]]
    for name in wanted:
        inputs[name].requires_grad_()
    routing = functional.route(options=options, **inputs)
    agrees(case, dict(zip(names, routing, strict=True)), "outputs", dtype)
    given = tensors_of(case, "grad_outputs", dtype)
    gradients = torch.autograd.grad(
        [routing.weights, routing.logits],
        [inputs[name] for name in wanted],
        [given["grad_top_k_weights"], given["grad_logits"]],
    )
    agrees(case, dict(zip(case["grad_inputs"], gradients, strict=True)), "grad_inputs", dtype)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("case", EXPERTS)
def test_experts(case: Case, dtype: str) -> None:
    output = functional.experts(**arrays_of(case, "inputs", dtype), **case["options"])
    agrees(case, {"output": output}, "outputs", dtype)

    inputs = tensors_of(case, "inputs", dtype)
    wanted = [name.removeprefix("grad_") for name in case["grad_inputs"]]
    for name in wanted:
        inputs[name].requires_grad_()
    output = functional.experts(**inputs, **case["options"])
    agrees(case, {"output": output}, "outputs", dtype)
    given = tensors_of(case, "grad_outputs", dtype)["grad_output"]
    gradients = torch.autograd.grad(output, [inputs[name] for name in wanted], given)
    agrees(case, dict(zip(case["grad_inputs"], gradients, strict=True)), "grad_inputs", dtype)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("case", E4M3)
def test_e4m3(case: Case, dtype: str) -> None:
    for convert in (arrays_of, tensors_of):
        inputs = convert(case, "inputs", dtype)
        if case["operation"] == "quantize":
            quantized, scale = functional.quantize(**inputs)
            if isinstance(quantized, np.ndarray):
                quantized = quantized.view(ml_dtypes.float8_e4m3fn)
            agrees(case, {"quantized": quantized, "scale": scale}, "outputs", dtype)
        else:
            agrees(case, {"output": functional.experts(**inputs, **case["options"])}, "outputs", dtype)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("case", UPDATE)
def test_update(case: Case, dtype: str) -> None:
    for convert in (arrays_of, tensors_of):
        inputs = convert(case, "inputs", dtype)
        functional.update(RouterOptions(**case["options"]), **inputs, **case["numbers"])
        agrees(case, inputs, "outputs", dtype)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("case", REPORT)
def test_report(case: Case, dtype: str) -> None:
    for convert in (arrays_of, tensors_of):
        inputs = convert(case, "inputs", dtype)
        inputs["index"] = inputs.pop("top_k_index")
        found = functional.report(RouterOptions(**case["options"]), **inputs)
        for name, want in case["numbers"].items():
            assert getattr(found, name) == pytest.approx(
                want, abs=TOLERANCES[dtype], rel=TOLERANCES[dtype]
            ), name


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("case", CLANS)
def test_clans(case: Case, dtype: str) -> None:
    for convert in (arrays_of, tensors_of):
        inputs = convert(case, "inputs", dtype)
        if case["operation"] == "descend":
            found = functional.descend(**inputs, **case["options"])
            inputs = dict(zip(("slot_index", "slot_counts"), found, strict=True))
        else:
            functional.observe(**inputs, **case["options"])
        assert set(case["outputs"]) <= set(inputs)
        agrees(case, inputs, "outputs", dtype)


CALLS = {
    "router": functional.route,
    "experts": functional.experts,
    "quantize": functional.quantize,
    "update": functional.update,
    "report": functional.report,
    "descend": functional.descend,
    "observe": functional.observe,
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: Case) -> None:
    for convert in (arrays_of, tensors_of):
        inputs: dict[str, Any] = convert(case, "inputs", "float32")
        options = case["options"]
        if case["operation"] == "experts":
            inputs = {"hidden_states": None, **inputs, **options}
        elif case["operation"] == "router":
            inputs = {"centroids": None, **inputs, "options": RouterOptions(**options)}
        elif case["operation"] in ("descend", "observe", "quantize"):
            inputs = {**inputs, **options}
            if case["operation"] == "descend":
                inputs = {"root": None, **inputs}
        else:
            inputs = {**inputs, **case.get("numbers", {}), "options": RouterOptions(**options)}
            if case["operation"] == "report":
                inputs["index"] = inputs.pop("top_k_index")
        with pytest.raises(gm.GenesisMoeError) as caught:
            CALLS[case["operation"]](**inputs)
        assert type(caught.value) is gm.errors.BY_STATUS[STATUS[case["status"]]]
        assert case["names"] in str(caught.value)


STATUS = {"INVALID_ARGUMENT": 1, "UNSUPPORTED": 3}
