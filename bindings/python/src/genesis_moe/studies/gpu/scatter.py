"""A rival in Triton: experts in the manner of ScatterMoE (arXiv 2403.08245), written for this study.

Pairs of token and slot are sorted by expert, and cut into blocks of rows that are one expert's. The gather of
tokens is fused in the load of the first product and the way back to pairs in the store of the second, so no
sorted copy of the tokens exists; nor is anything padded, as a block ends where its expert does. The activation and the
sum over a token's slots are torch's. Shapes and dtypes as ``functional.experts``; every slot must name an expert.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn.functional import silu


def _mend_interpreter() -> None:
    """Triton's interpreter, which tests use, multiplies bfloat16 as the integers of its bits, and takes int() of an
    array of one element where a loop ends, which NumPy 2.4 refuses."""
    from triton.runtime import interpreter

    builder = interpreter.InterpreterBuilder
    patch, dot = interpreter._patch_lang_tensor, builder.create_dot

    def patched(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    def wide_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        a, b = (self.cast_impl(x, tl.float32) if x.dtype.scalar == tl.bfloat16 else x for x in (a, b))
        return dot(self, a, b, *rest)

    interpreter._patch_lang_tensor, builder.create_dot = patched, wide_dot


if triton.knobs.runtime.interpret:
    _mend_interpreter()


@triton.jit(do_not_specialize=["blocks"])
def _rows_by_weights(
    a, a_index, weights, c, c_index, block_expert, block_first, block_end, blocks, columns, depth,
    a_stride, expert_stride, column_stride, depth_stride, c_stride,
    GATHER: tl.constexpr, SCATTER: tl.constexpr, WHOLE: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """c[s(r), n] = sum over d of a[g(r), d] weights[e, n, d], for the rows r of a block, which are of expert e.

    g is a_index with GATHER, s is c_index with SCATTER, else r itself. WHOLE: depth is a multiple of DEPTH.
    """
    # Eight blocks of rows pass by a tile of weights before the next one does: both stay in the L2 cache.
    program = tl.program_id(0)
    tiles = tl.cdiv(columns, COLUMNS)
    group = program // (8 * tiles)
    here = tl.minimum(blocks - 8 * group, 8)
    block = 8 * group + program % (8 * tiles) % here
    tile = program % (8 * tiles) // here
    expert = tl.load(block_expert + block)
    if expert < 0:
        return
    rows = tl.load(block_first + block) + tl.arange(0, ROWS)
    live = rows < tl.load(block_end + block)
    a_rows = tl.load(a_index + rows, mask=live, other=0) if GATHER else rows
    n = tile * COLUMNS + tl.arange(0, COLUMNS)
    inside = n < columns
    d = tl.arange(0, DEPTH)
    left = a + a_rows.to(tl.int64)[:, None] * a_stride + d[None, :]
    right = (
        weights
        + expert.to(tl.int64) * expert_stride
        + n[None, :].to(tl.int64) * column_stride
        + d[:, None].to(tl.int64) * depth_stride
    )
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for start in range(0, depth, DEPTH):
        if WHOLE:
            x = tl.load(left, mask=live[:, None], other=0.0)
            w = tl.load(right, mask=inside[None, :], other=0.0)
        else:
            x = tl.load(left, mask=live[:, None] & (start + d < depth)[None, :], other=0.0)
            w = tl.load(right, mask=inside[None, :] & (start + d < depth)[:, None], other=0.0)
        total = tl.dot(x, w, total, input_precision="ieee")
        left += DEPTH
        right += DEPTH * depth_stride
    c_rows = tl.load(c_index + rows, mask=live, other=0) if SCATTER else rows
    out = c + c_rows.to(tl.int64)[:, None] * c_stride + n[None, :]
    tl.store(out, total.to(c.dtype.element_ty), mask=live[:, None] & inside[None, :])


@triton.jit
def _rows_by_rows(
    a, a_index, b, b_index, c, offsets, rows, columns, a_stride, b_stride, expert_stride,
    GATHER_A: tl.constexpr, GATHER_B: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """c[e, m, n] = sum over the sorted rows r of expert e of a[g(r), m] b[h(r), n]: the gradient of weights."""
    program = tl.program_id(0)
    across = tl.cdiv(columns, COLUMNS)
    tiles = tl.cdiv(rows, ROWS) * across
    expert = program // tiles
    m = program % tiles // across * ROWS + tl.arange(0, ROWS)
    n = program % tiles % across * COLUMNS + tl.arange(0, COLUMNS)
    first, end = tl.load(offsets + expert), tl.load(offsets + expert + 1)
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for start in range(first, end, DEPTH):
        r = start + tl.arange(0, DEPTH)
        live = r < end
        a_rows = tl.load(a_index + r, mask=live, other=0) if GATHER_A else r
        b_rows = tl.load(b_index + r, mask=live, other=0) if GATHER_B else r
        x = tl.load(
            a + a_rows.to(tl.int64)[None, :] * a_stride + m[:, None],
            mask=live[None, :] & (m < rows)[:, None],
            other=0.0,
        )
        y = tl.load(
            b + b_rows.to(tl.int64)[:, None] * b_stride + n[None, :],
            mask=live[:, None] & (n < columns)[None, :],
            other=0.0,
        )
        total = tl.dot(x, y, total, input_precision="ieee")
    out = c + expert.to(tl.int64) * expert_stride + m[:, None].to(tl.int64) * columns + n[None, :]
    tl.store(out, total.to(c.dtype.element_ty), mask=(m < rows)[:, None] & (n < columns)[None, :])


@dataclass(frozen=True)
class Tile:
    """How a kernel is cut; stages and warps are the compiler's."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int

    def constants(self) -> dict[str, int]:
        return {
            "ROWS": self.rows, "COLUMNS": self.columns, "DEPTH": self.depth,
            "num_warps": self.warps, "num_stages": self.stages,
        }  # fmt: skip


# By the rows of a block: what is tried, the fastest is kept.
TILES = {
    16: (Tile(16, 128, 128, 4, 4),),
    64: (Tile(64, 128, 64, 4, 4), Tile(64, 256, 64, 8, 3)),
    128: (Tile(128, 256, 64, 8, 3), Tile(128, 128, 64, 8, 4)),
}
GRADIENT_TILES = (Tile(128, 256, 64, 8, 3), Tile(128, 128, 64, 8, 4))


@dataclass(frozen=True)
class Plan:
    """Where the rows of each expert are, found on the device without waiting for it."""

    order: Tensor  # [P] int32: the pair of each sorted row
    token: Tensor  # [P] int32: its token
    offsets: Tensor  # [E + 1] int32: the first sorted row of each expert
    block_expert: Tensor  # [B] int32; -1: no block
    block_first: Tensor
    block_end: Tensor
    block_rows: int

    @classmethod
    def of(cls, index: Tensor, experts: int) -> Plan:
        """The plan of top_k_index [T, K] over so many experts."""
        pairs = index.numel()
        mean = pairs / experts
        block_rows = next((rows for rows in TILES if mean <= rows), max(TILES))
        ranked, order = index.flatten().sort(stable=True)
        offsets = torch.searchsorted(ranked, torch.arange(experts + 1, device=index.device))
        blocks = (offsets.diff() + block_rows - 1) // block_rows
        ends = blocks.cumsum(0)
        block = torch.arange(pairs // block_rows + min(pairs, experts), device=index.device)
        expert = torch.searchsorted(ends, block, right=True)
        known = expert.clamp(max=experts - 1)
        first = offsets[known] + (block - (ends - blocks)[known]) * block_rows

        def short(tensor: Tensor) -> Tensor:
            return tensor.to(torch.int32)

        return cls(
            order=short(order),
            token=short(order // index.shape[1]),
            offsets=short(offsets),
            block_expert=short(expert.where(expert < experts, -1)),
            block_first=short(first),
            block_end=short(offsets[known + 1]),
            block_rows=block_rows,
        )


_fastest: dict[tuple[Any, ...], Tile] = {}


def _launch(key: tuple[Any, ...], tiles: tuple[Tile, ...], call: Callable[[Tile], None]) -> None:
    """Calls with the fastest tile of those that the device can run, which the first call of a kind finds out."""
    tile = _fastest.get(key)
    if tile is None and (len(tiles) == 1 or not torch.cuda.is_available()):
        tile = _fastest[key] = tiles[0]
    if tile is None:
        tile = _fastest[key] = min(tiles, key=lambda tile: _milliseconds(lambda: call(tile)))
    call(tile)


def _milliseconds(call: Callable[[], None]) -> float:
    from genesis_moe.studies.gpu.timing import elapsed

    try:
        call()
        return elapsed(call, 3)
    except triton.runtime.errors.OutOfResources:
        return float("inf")


def _product(
    a: Tensor, a_index: Tensor | None, weights: Tensor, c_index: Tensor | None, plan: Plan
) -> Tensor:
    """Rows by the weights [E, N, D] of their experts, which may lie either way: [P, N]."""
    pairs, columns, depth = plan.order.numel(), weights.shape[1], weights.shape[2]
    c = torch.empty(pairs, columns, dtype=a.dtype, device=a.device)
    blocks = plan.block_expert.numel()

    def call(tile: Tile) -> None:
        grid = (blocks * triton.cdiv(columns, tile.columns),)
        _rows_by_weights[grid](
            a, plan.order if a_index is None else a_index, weights, c, plan.order if c_index is None else c_index,
            plan.block_expert, plan.block_first, plan.block_end, blocks, columns, depth,
            a.stride(0), *weights.stride(), c.stride(0),
            GATHER=a_index is not None, SCATTER=c_index is not None, WHOLE=depth % tile.depth == 0, **tile.constants(),
        )  # fmt: skip

    key = a.dtype, columns, depth, weights.stride(2) == 1, a_index is None, c_index is None, plan.block_rows
    _launch(key, TILES[plan.block_rows], call)
    return c


def _gradient(
    a: Tensor, a_index: Tensor | None, b: Tensor, b_index: Tensor | None, shape: torch.Size, plan: Plan
) -> Tensor:
    """The gradient of weights of a shape: [E, N, D]."""
    experts, rows, columns = shape
    c = torch.empty(shape, dtype=a.dtype, device=a.device)

    def call(tile: Tile) -> None:
        grid = (experts * triton.cdiv(rows, tile.rows) * triton.cdiv(columns, tile.columns),)
        _rows_by_rows[grid](
            a, plan.order if a_index is None else a_index, b, plan.order if b_index is None else b_index, c,
            plan.offsets, rows, columns, a.stride(0), b.stride(0), c.stride(0),
            GATHER_A=a_index is not None, GATHER_B=b_index is not None, **tile.constants(),
        )  # fmt: skip

    _launch((a.dtype, shape, a_index is None, plan.block_rows), GRADIENT_TILES, call)
    return c


class _Up(torch.autograd.Function):
    """Tokens [T, D] by the weights [E, N, D]: sorted rows [P, N]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor, plan: Plan) -> Tensor:
        ctx.save_for_backward(x, weights)
        ctx.plan = plan
        return _product(x, plan.token, weights, None, plan)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        (x, weights), plan = ctx.saved_tensors, ctx.plan
        grad = grad.contiguous()
        of_pairs = _product(grad, None, weights.transpose(1, 2), plan.order, plan)
        grad_x = of_pairs.view(x.shape[0], -1, x.shape[1]).sum(1)
        return grad_x, _gradient(grad, None, x, plan.token, weights.shape, plan), None


class _Down(torch.autograd.Function):
    """Sorted rows [P, D] by the weights [E, N, D]: a row for each pair [P, N]."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, weights: Tensor, plan: Plan) -> Tensor:
        ctx.save_for_backward(h, weights)
        ctx.plan = plan
        return _product(h, None, weights, plan.order, plan)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        (h, weights), plan = ctx.saved_tensors, ctx.plan
        grad = grad.contiguous()
        grad_h = _product(grad, plan.order, weights.transpose(1, 2), None, plan)
        return grad_h, _gradient(grad, plan.order, h, None, weights.shape, plan), None


def experts(
    hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor, gate_up_proj: Tensor, down_proj: Tensor
) -> Tensor:
    """The layer: [T, H]."""
    tokens, slots = top_k_index.shape
    plan = Plan.of(top_k_index, gate_up_proj.shape[0])
    z: Tensor = _Up.apply(hidden_states, gate_up_proj, plan)  # type: ignore[no-untyped-call]
    gate, up = z.chunk(2, dim=-1)
    rows: Tensor = _Down.apply(silu(gate) * up, down_proj, plan)  # type: ignore[no-untyped-call]
    weights = top_k_weights.to(rows.dtype).unsqueeze(1)
    output: Tensor = torch.bmm(weights, rows.view(tokens, slots, -1)).squeeze(1)
    return output
