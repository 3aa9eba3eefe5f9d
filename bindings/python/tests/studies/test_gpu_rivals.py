"""The rival in Triton, in Triton's interpreter, against the loop over experts."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")
pytest.importorskip("transformers")

# Tokens, H, I, E, k; blocks that end within a tile, tiles with tails, experts with no token and with all.
CASES = [(97, 72, 40, 5, 2), (1, 64, 32, 4, 2), (300, 24, 136, 3, 1), (150, 130, 24, 2, 2), (9, 16, 8, 8, 8)]
SCRIPT = """
import json, sys
import torch
from genesis_moe.studies.gpu import rivals, scatter
from genesis_moe.studies.layer import Shape, difference

def run(case, name):
    output = rivals.forward(name, case)()
    return [output, *torch.autograd.grad(output, case.leaves(), case.grad_output)]

found = {}
for dtype in (torch.float32, torch.bfloat16):
    for tokens, *shape in json.loads(sys.argv[1]):
        for routing in ("random", "one"):
            case = rivals.make_case(Shape(*shape), tokens)
            case.experts.to(dtype)
            case.hidden_states = case.hidden_states.detach().to(dtype).requires_grad_()
            case.grad_output = case.grad_output.to(dtype)
            if routing == "one":
                case.top_k_index = torch.zeros_like(case.top_k_index)
            eager = run(case, "eager")
            aligned = all(size % 8 == 0 for size in shape[:2])  # torch's grouped product asks for 16 bytes
            for name in ("scatter", "torch_grouped_mm") if aligned else ("scatter",):
                far = max(difference(a, b) for a, b in zip(run(case, name), eager, strict=True))
                found[f"{name} {dtype} {tokens} {shape} {routing}"] = far
print(json.dumps({"found": found, "rows": sorted({key[-1] for key in scatter._fastest if len(key) == 7})}))
"""


def test_scatter_agrees_with_the_loop_over_experts() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "GMOE_GPU_STUDY_DEVICE": "cpu"}
    command = [sys.executable, "-c", SCRIPT, json.dumps(CASES)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["rows"] == [16, 64, 128], "a size of blocks was not run"
    for what, far in result["found"].items():
        # One token has two gradients of routing weights, each rounded to bfloat16; a wrong row would be at 1.
        assert far < (1e-9 if "float32" in what else 1e-3), what
    assert len(result["found"]) == 2 * 2 * (2 * len(CASES) - 1)


COMPILE = """
import json
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from genesis_moe.studies.gpu import scatter

def compiled(kernel, tile, flags, types):
    names = [n for n in kernel.arg_names if not n.isupper()]
    signature = dict(zip(names, types + ["i32"] * len(names)))
    aligned = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if n != "blocks"}
    constants = flags | {"ROWS": tile.rows, "COLUMNS": tile.columns, "DEPTH": tile.depth}
    if "depth_stride" in signature:
        constants["depth_stride"] = 1
    signature |= dict.fromkeys(constants, "constexpr")
    source = ASTSource(kernel, signature, constexprs=constants, attrs=aligned)
    options = {"num_warps": tile.warps, "num_stages": tile.stages}
    ptx = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"]
    return ["wgmma" in ptx, "cp.async" in ptx]

half, number = "*bf16", "*i32"
forward = [half, number, half, half, number, number, number, number]
up = {"GATHER": True, "SCATTER": False, "WHOLE": True}
found = [compiled(scatter._rows_by_weights, tile, up, forward) for tile in scatter.TILES[128]]
backward = [half, number, half, number, half, number]
flags = {"GATHER_A": False, "GATHER_B": True}
found += [compiled(scatter._rows_by_rows, tile, flags, backward) for tile in scatter.GRADIENT_TILES]
print(json.dumps(found))
"""


def test_scatter_is_a_fair_rival_on_hopper() -> None:
    """Compiled for it, its products are those of warpgroups, fed by asynchronous copies."""
    done = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [[True, True]] * 4
