"""The library on a CUDA device that is none: run by test_fake_driver.py in a process of its own.

The driver is cuda/testdata/fakecuda, which keeps device memory out of the host's reach and runs
the kernels as they were compiled for the host. torch has no tensors there, so NumPy arrays are
copied to and fro; everything below Python's operators is what runs on a GPU: the ABI, the
workspace, the session in Go, packing, launches and the kernels' source.

    python fake_gpu.py CHECK    runs the function of that name and prints what it says
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from genesis_moe import (
    GenesisMoeError,
    InvalidArgumentError,
    RouterOptions,
    UnsupportedError,
    _abi,
    _call,
    _numpy_ops,
)
from genesis_moe._engine import engine
from genesis_moe._report import compute
from genesis_moe.energy.layers import _work_of
from genesis_moe.options import experts_scalars, experts_struct, router_struct

BF16 = np.dtype(ml_dtypes.bfloat16)
F32 = np.dtype(np.float32)
TOLERANCE = {F32: 1e-9, BF16: 1e-5}  # of 1 - 2<a,b>/(|a|^2 + |b|^2)


class Memory:
    """Bytes on a device, which are NaN until they are written."""

    def __init__(self, device: int, size: int) -> None:
        self.device, self.size = device, size
        self.address = ctypes.c_uint64()
        if size:
            self._call("cuMemAlloc_v2", ctypes.byref(self.address), ctypes.c_size_t(size))

    def _call(self, function: str, *arguments: Any) -> None:
        """In the device's primary context, as every user of a device works."""
        context = ctypes.c_void_p()
        driver = ctypes.CDLL("libcuda.so.1")
        assert driver.cuInit(0) == 0
        assert driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), self.device) == 0
        assert driver.cuCtxPushCurrent_v2(context) == 0
        mode = ctypes.c_int(2)  # relaxed, as torch's allocator works while a stream is captured
        assert driver.cuThreadExchangeStreamCaptureMode(ctypes.byref(mode)) == 0
        status = getattr(driver, function)(*arguments)
        assert driver.cuThreadExchangeStreamCaptureMode(ctypes.byref(mode)) == 0
        assert driver.cuCtxPopCurrent_v2(ctypes.byref(context)) == 0
        assert status == 0, f"{function} returned {status}"

    def write(self, data: np.ndarray) -> None:
        if self.size:
            self._call(
                "cuMemcpyHtoD_v2",
                self.address,
                data.ctypes.data_as(ctypes.c_void_p),
                ctypes.c_size_t(self.size),
            )

    def read(self, data: np.ndarray) -> None:
        if self.size:
            self._call(
                "cuMemcpyDtoH_v2",
                data.ctypes.data_as(ctypes.c_void_p),
                self.address,
                ctypes.c_size_t(self.size),
            )

    def free(self) -> None:
        """Fails if something was written beside it."""
        if self.size:
            self._call("cuMemFree_v2", self.address)


class Array:
    """A tensor on a device, with the shape, dtype and strides of a NumPy array."""

    def __init__(self, value: np.ndarray, device: int = 0) -> None:
        self.device = device
        base = value if value.base is None else np.asarray(value.base)
        while isinstance(base.base, np.ndarray):
            base = base.base
        self.host = np.ascontiguousarray(base)
        self.offset = value.ctypes.data - base.ctypes.data
        self.view = value
        self.memory = Memory(device, self.host.nbytes)
        self.memory.write(self.host)

    def get(self) -> np.ndarray:
        out = np.empty_like(self.host)
        self.memory.read(out)
        assert self.view.base is None
        return out


def view_of(name: str, array: Array) -> _call.View:
    _, _, _, code, bits, shape, strides = _numpy_ops.view_of(name, array.view)
    address = array.memory.address.value + array.offset
    return address, _abi.CUDA, array.device, code, bits, shape, strides


def queue_of(device: int) -> _call.Queue:
    def allocate(size: int) -> tuple[int, Memory]:
        memory = Memory(device, size)
        lent.append(memory)
        return memory.address.value, memory

    return _call.Queue(0, allocate)


lent: list[Memory] = []  # the workspaces, to look for damage around them


def wide(value: Any) -> Any:
    """A floating array in float64, for the reference."""
    floating = isinstance(value, np.ndarray) and value.dtype in (F32, BF16)
    return value.astype(np.float64) if floating else value


def difference(got: np.ndarray, want: np.ndarray) -> float:
    a, b = got.astype(np.float64).ravel(), want.astype(np.float64).ravel()
    norm = float(a @ a + b @ b)
    return 1 - 2 * float(a @ b) / norm if norm > 0 else 0.0


def compare(
    function: _call.Function,
    options: ctypes.Structure,
    inputs: Sequence[Any],
    outputs: Sequence[np.ndarray | None],
    device: int = 0,
) -> list[np.ndarray | None]:
    """Runs a function on the device, and on the CPU in float64; their outputs must agree. Returns the CPU's."""
    # Both begin with the same numbers: what is to be left alone is then equal too.
    expected = [None if o is None else np.full(o.shape, -1, wide(o[:0]).dtype) for o in outputs]
    function(engine(_abi.CPU, 0, 1), options, (*map(wide, inputs), *expected), _numpy_ops.view_of)

    there = [Array(v, device) if isinstance(v, np.ndarray) else v for v in inputs]
    results = [None if o is None else Array(np.full(o.shape, -1, o.dtype), device) for o in outputs]
    function(engine(_abi.CUDA, device, 0), options, (*there, *results), view_of, queue_of(device))
    for position, (result, want) in enumerate(zip(results, expected, strict=True)):
        if result is None or want is None:
            continue
        got = result.get()
        if got.dtype.kind == "i":
            assert np.array_equal(got, want), f"{function.name}: output {position}"
        else:
            limit = max(
                TOLERANCE[a.dtype] for a in (*inputs, *outputs) if getattr(a, "dtype", None) in TOLERANCE
            )
            value = difference(got, want)
            assert value <= limit, f"{function.name}: output {position} differs by {value:.2e}"
    for array in (*there, *results):
        if isinstance(array, Array):
            array.memory.free()
    for memory in lent:
        memory.free()
    lent.clear()
    return expected


def random(generator: np.random.Generator, dtype: np.dtype, *shape: int) -> np.ndarray:
    return generator.standard_normal(shape).astype(dtype)


def inference(
    dtype: np.dtype,
    tokens: int = 20,
    hidden: int = 40,
    intermediate: int = 24,
    num_experts: int = 5,
    slots: int = 2,
    *,
    bias: bool = False,
) -> None:
    g = np.random.default_rng(11)
    x = random(g, dtype, tokens, hidden)
    index = g.integers(0, num_experts + 1, (tokens, slots))  # E: absent
    up = random(g, dtype, num_experts, 2 * intermediate, hidden)
    down = random(g, dtype, num_experts, hidden, intermediate)
    up_bias = random(g, dtype, num_experts, 2 * intermediate) if bias else None
    down_bias = random(g, dtype, num_experts, hidden) if bias else None
    struct = experts_struct(*experts_scalars("silu", True, False, 1.702, 7.0))
    inputs = x, index, random(g, F32, tokens, slots), up, up_bias, down, down_bias
    compare(_call.experts_forward, struct, inputs, (np.empty((tokens, hidden), dtype), None))


def experts(
    dtype: np.dtype,
    tokens: int = 37,
    hidden: int = 40,
    intermediate: int = 24,
    num_experts: int = 5,
    slots: int = 2,
    *,
    bias: bool = False,
    transposed: bool = False,
    device: int = 0,
    activation: str = "silu",
    gated: bool = True,
    interleaved: bool = False,
) -> None:
    g = np.random.default_rng(7)
    rows = 2 * intermediate if gated else intermediate
    struct = experts_struct(*experts_scalars(activation, gated, interleaved, 1.702, 7.0))
    x, dy = random(g, dtype, tokens, hidden), random(g, dtype, tokens, hidden)
    index = g.integers(0, num_experts + 1, (tokens, slots))  # E: absent
    index[index == 1] = 0  # an expert without a token
    weights = random(g, F32, tokens, slots)
    up, down = (
        random(g, dtype, num_experts, rows, hidden),
        random(g, dtype, num_experts, hidden, intermediate),
    )
    if transposed:
        up = np.ascontiguousarray(up.transpose(0, 2, 1)).transpose(0, 2, 1)
        down = np.ascontiguousarray(down.transpose(0, 2, 1)).transpose(0, 2, 1)
    up_bias = random(g, dtype, num_experts, rows) if bias else None
    down_bias = random(g, dtype, num_experts, hidden) if bias else None
    inputs = x, index, weights, up, up_bias, down, down_bias
    outputs = np.empty((tokens, hidden), dtype), np.empty((tokens * slots, rows), dtype)
    compare(_call.experts_forward, struct, inputs, (outputs[0], None), device)
    _, z = compare(_call.experts_forward, struct, inputs, outputs, device)
    assert z is not None
    z = z.astype(dtype)
    gradients = [
        np.empty(a.shape, a.dtype) if a is not None else None
        for a in (x, weights, up, up_bias, down, down_bias)
    ]
    compare(
        _call.experts_backward, struct, (dy, x, index, weights, up, down, down_bias, z), gradients, device
    )


def check_experts_float32() -> str:
    experts(F32)
    experts(F32, tokens=0)
    experts(F32, tokens=1, hidden=17, intermediate=9, bias=True, interleaved=True, activation="gelu")
    experts(F32, bias=True, gated=False, activation="relu_squared", device=1)
    return "agree"


def check_experts_bfloat16() -> str:
    experts(BF16, bias=True)
    experts(BF16, hidden=33, intermediate=7)
    experts(BF16, transposed=True, bias=True, interleaved=True, activation="clipped_swiglu")
    return "agree"


def check_experts_inference() -> str:
    """Forward passes without gradients: of few tokens, of many small experts."""
    for dtype in (F32, BF16):
        inference(dtype, bias=True)
        inference(dtype, tokens=1, hidden=72, intermediate=136, num_experts=3)
        inference(dtype, tokens=70, intermediate=12, num_experts=12, slots=5)
    return "agree"


def on_device(function: _call.Function, options: Any, tensors: Sequence[Any]) -> list[Any]:
    """Runs a function on copies of these arrays; what they hold then."""
    there = [Array(value) if isinstance(value, np.ndarray) else None for value in tensors]
    function(engine(_abi.CUDA, 0, 0), options, tuple(there), view_of, queue_of(0))
    results = [None if array is None else array.get() for array in there]
    for memory in (*(array.memory for array in there if array is not None), *lent):
        memory.free()
    lent.clear()
    return results


def quantized(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A weight in float8_e4m3fn and its scales, from the device; the CPU's must be the same."""
    experts, rows, columns = weight.shape
    scales = np.full((experts, -(-rows // 128), -(-columns // 128)), -1, np.float32)
    _, q, s = on_device(_call.experts_quantize, None, (weight, np.zeros(weight.shape, np.uint8), scales))
    want, want_scales = _numpy_ops.quantize(weight)
    assert np.array_equal(q, want) and np.array_equal(s, want_scales)
    return q, s


def check_experts_e4m3() -> str:
    """Weights in float8_e4m3fn: few tokens, tiles of odd sizes, and where they suit the kernels for Hopper."""
    struct = experts_struct(*experts_scalars("silu", True, False, 1.702, 7.0))
    for dtype in (F32, BF16):
        for tokens, hidden, intermediate in ((0, 16, 16), (5, 144, 32), (70, 67, 133), (70, 128, 256)):
            g = np.random.default_rng(5)
            x, index = random(g, dtype, tokens, hidden), g.integers(0, 4, (tokens, 2))  # 3 is absent
            up, up_scale = quantized(random(g, dtype, 3, 2 * intermediate, hidden))
            down, down_scale = quantized(random(g, dtype, 3, hidden, intermediate))
            biases = random(g, dtype, 3, 2 * intermediate), random(g, dtype, 3, hidden)
            weights = random(g, F32, tokens, 2)
            call = [x, index, weights, up, biases[0], down, biases[1], np.full_like(x, -1), None]
            got = on_device(_call.experts_forward, struct, [*call, up_scale, down_scale])[7]
            want = [*map(wide, call), up_scale, down_scale]
            _call.experts_forward(engine(_abi.CPU, 0, 1), struct, tuple(want), _numpy_ops.view_of)
            assert difference(got, want[7]) <= TOLERANCE[BF16]
    return "agree"


def check_ledger() -> str:
    """The device's sums of each expert's work are those of the CPU for the same calls."""
    options = _abi.ExpertsOptions.from_buffer_copy(
        experts_struct(*experts_scalars("silu", True, False, 1.702, 7.0))
    )
    options.layer = 7
    g = np.random.default_rng(1)
    index = g.integers(0, 4, (37, 2)) * 2  # of 6 experts, half have no token; 6 is absent
    weights, up, down = random(g, F32, 37, 2), random(g, F32, 6, 48, 40), random(g, F32, 6, 40, 24)
    x, z = random(g, F32, 37, 40), np.zeros((74, 48), np.float32)
    forward = [x, index, weights, up, None, down, None, x.copy(), z]
    gradients = [x.copy(), weights.copy(), up.copy(), None, None, None]
    backward = [x, x, index, weights, up, down, None, z, *gradients]
    calls = [
        (_call.experts_forward, forward),
        (_call.experts_forward, forward),
        (_call.experts_backward, backward),
    ]
    cpu, gpu = engine(_abi.CPU, 0, 1), engine(_abi.CUDA, 0, 0)
    for function, arguments in calls:
        function(cpu, options, tuple(arguments), _numpy_ops.view_of)
        there = [Array(value) if isinstance(value, np.ndarray) else None for value in arguments]
        function(gpu, options, tuple(there), view_of, queue_of(0))
        for array in there:
            if array is not None:
                array.memory.free()
    want, found = _work_of(cpu, 7), _work_of(gpu, 7)
    assert want[::2].min() > 0 and want[1::2].max() == 0
    if len(found) == 0:
        return "not counted"
    assert np.array_equal(found, want), f"{found} on the device, {want} on the CPU"
    return "agree"


def check_experts_refusals() -> str:
    options = experts_struct(*experts_scalars("silu", True, False, 1.702, 7.0))
    x = np.zeros((2, 8))
    tensors = [
        x,
        np.zeros((2, 1), np.int64),
        np.zeros((2, 1)),
        np.zeros((3, 8, 8)),
        None,
        np.zeros((3, 8, 4)),
        None,
        x.copy(),
        None,
    ]
    double = tuple(None if t is None else Array(t) for t in tensors)
    with pytest.raises(UnsupportedError, match="float64"):
        _call.experts_forward(engine(_abi.CUDA, 0, 0), options, double, view_of, queue_of(0))
    single = [None if t is None else Array(t.astype(F32) if t.dtype.kind == "f" else t) for t in tensors]
    other = list(single)
    other[3] = Array(np.zeros((3, 8, 8), F32), 1)

    def message(values: list[Any], allocate: Any) -> str:
        with pytest.raises(InvalidArgumentError) as caught:
            _call.experts_forward(
                engine(_abi.CUDA, 0, 0), options, tuple(values), view_of, _call.Queue(0, allocate)
            )
        return str(caught.value)

    lines = [message(other, queue_of(0).allocate), message(single, lambda size: (0, None))]
    lines.append(_with_too_little(lambda: message(single, lambda size: (4096, None))))
    return "\n".join(lines)


def _with_too_little(call: Callable[[], str]) -> str:
    """Calls with a workspace that is said to be one byte smaller than is needed."""
    right = _call._WORKSPACE

    class Less:
        size = right.size

        @staticmethod
        def pack_into(memory: Any, offset: int, address: int, size: int) -> None:
            right.pack_into(memory, offset, address, size - 1)

    _call._WORKSPACE = Less  # type: ignore[assignment]
    try:
        return call()
    finally:
        _call._WORKSPACE = right


ROUTERS = {
    "cosine": RouterOptions(top_k=2),
    "budgeted": RouterOptions(top_k=3, budgeted=True),
    "dot": RouterOptions(binding="dot"),
    "batch": RouterOptions(solver="batch"),
    "mixtral": RouterOptions(mode="mixtral"),
    "deepseek": RouterOptions(mode="deepseek", num_groups=4, top_k_groups=2, scaling_factor=1.5),
}


def router(options: RouterOptions, dtype: np.dtype, tokens: int, device: int = 0) -> None:
    g = np.random.default_rng(11)
    hidden, width, num_experts = 40, 16, 8
    hamiltonian = options.mode == "hamiltonian"
    struct = router_struct(*options.scalars())
    x = random(g, dtype, tokens, hidden)
    projection = random(g, dtype, width, hidden) if hamiltonian else None
    centroids = random(g, dtype, num_experts, width if hamiltonian else hidden)
    bias = random(g, F32, num_experts) if options.binding == "dot" or options.mode == "mixtral" else None
    price = random(g, F32, num_experts) * F32.type(0.1) if options.mode != "mixtral" else None
    temperature = np.full(1, 0.4, F32) if hamiltonian else None
    gap = np.full(1, 0.3, F32) if options.budgeted else None
    slots = options.top_k
    outputs = [
        np.empty((tokens, slots), np.int64),
        np.empty((tokens, slots), F32),
        np.empty((tokens, num_experts), F32),
        np.empty(num_experts, np.int64),
        np.empty(num_experts, F32) if options.solver == "batch" else None,
    ]
    index, _, logits, counts, _ = compare(
        _call.router_forward,
        struct,
        (x, projection, centroids, bias, price, temperature, gap),
        outputs,
        device,
    )
    assert index is not None and logits is not None and counts is not None
    logits = logits.astype(F32)
    d_weights, d_logits = random(g, F32, tokens, slots), random(g, F32, tokens, num_experts)
    parameters = (x, projection, centroids, bias, temperature)
    compare(
        _call.router_backward,
        struct,
        (x, projection, centroids, bias, temperature, logits, index, d_weights, d_logits),
        [None if p is None else np.empty(p.shape, p.dtype) for p in parameters],
        device,
    )
    here = compute(engine(_abi.CPU, 0, 1), options, (logits, index, price, None), _numpy_ops.view_of)
    there = tuple(None if a is None else Array(a, device) for a in (logits, index, price, None))
    got = compute(engine(_abi.CUDA, device, 0), options, there, view_of, queue_of(device))
    for name, want in vars(here).items():
        if want is None:  # of layers whose experts split
            assert getattr(got, name) is None, f"report: {name}"
            continue
        assert np.isclose(getattr(got, name), want, rtol=1e-4, atol=1e-5), (
            f"report: {name} is {getattr(got, name)}, want {want}"
        )
    if price is not None:
        update(options, counts, tokens, price, gap, device)


def update(
    options: RouterOptions,
    counts: np.ndarray,
    tokens: int,
    price: np.ndarray,
    gap: np.ndarray | None,
    device: int,
) -> None:
    numbers = tokens, 0.02, 0.02, 1.25 if options.budgeted else 0.0, 0.01
    struct = router_struct(*options.scalars())
    here = [price.copy(), None if gap is None else gap.copy()]
    _call.router_update(engine(_abi.CPU, 0, 1), struct, (counts, *numbers, *here), _numpy_ops.view_of)
    there = [Array(price, device), None if gap is None else Array(gap, device)]
    _call.router_update(
        engine(_abi.CUDA, device, 0),
        struct,
        (Array(counts, device), *numbers, *there),
        view_of,
        queue_of(device),
    )
    for want, got in zip(here, there, strict=True):
        if want is not None and got is not None:
            assert np.allclose(got.get(), want, rtol=1e-6, atol=1e-7)


def check_router_float32() -> str:
    for options in ROUTERS.values():
        router(options, F32, 29)
    router(ROUTERS["cosine"], F32, 0)
    router(ROUTERS["budgeted"], F32, 3, device=1)
    return "agree"


def check_router_bfloat16() -> str:
    for options in ROUTERS.values():
        router(options, BF16, 13)
    return "agree"


def check_open() -> str:
    """What comes of an engine on each device; the settings of the driver say what fails."""
    return "\n".join(attempt(lambda device=device: engine(_abi.CUDA, device, 0)) for device in range(3))


def check_one_forward() -> str:
    """Small forward and backward passes; the settings of the driver say what fails."""
    return attempt(lambda: experts(F32, tokens=3, hidden=8, intermediate=4))


def attempt(call: Callable[[], Any]) -> str:
    try:
        call()
    except GenesisMoeError as error:
        return f"{type(error).__name__}: {error}"
    return "fine"


if __name__ == "__main__":
    print(globals()[f"check_{sys.argv[1]}"]())
