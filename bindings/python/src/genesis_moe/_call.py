"""Calls a function of the library that takes an argument struct.

An operation on a handful of tokens must not drown in Python: a struct, its tensor
views, shapes and strides lie in one block of memory, laid out once and used again.
A call packs numbers into a free block; every pointer between its parts stays.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from genesis_moe import _abi
from genesis_moe._library import error_of, library
from genesis_moe.errors import InvalidArgumentError

MAX_DIMENSIONS = 8

# data, device type and id, dtype code and bits, shape, strides in elements
View = tuple[int, int, int, int, int, "tuple[int, ...]", "tuple[int, ...]"]
ViewOf = Callable[[str, Any], View]


class Queue(NamedTuple):
    """Where a call runs on a GPU: a CUstream, and what allocates memory in its order."""

    stream: int
    allocate: Callable[[int], tuple[int, Any]]
    """Bytes to an address and what keeps it; to be let go when the call has returned."""


_VIEW_BYTES = ctypes.sizeof(_abi.DLTensor)
_SLOT_BYTES = _VIEW_BYTES + 2 * 8 * MAX_DIMENSIONS
# A DLTensor, then its shape, then its strides, by the number of dimensions.
_PACK = [struct.Struct(f"@QiiiBBHQQQ{n}q{n}q").pack_into for n in range(MAX_DIMENSIONS + 1)]
_ADDRESS = struct.Struct("@Q")  # the first field of a DLTensor
_WORKSPACE = struct.Struct("@QQ")  # its address and size

_FORMATS: dict[Any, str] = {
    ctypes.c_int64: "q",
    ctypes.c_double: "d",
    ctypes.c_uint32: "I",
}
# What a call fills in itself.
_HEAD = ("struct_size", "reserved", "options")
_TAIL = ("stream", "workspace", "workspace_size")


class Function:
    """A function ``gmoe_*(engine, args, ...)``.

    The values of a call are the fields of the struct but for size, options, stream and workspace, in
    its order: a tensor or None where the struct has a pointer, else a number. Those that lie
    behind the workspace, since they came later, may be left out.
    """

    def __init__(self, name: str, arguments: type[ctypes.Structure]) -> None:
        self.name = name
        self.workspace_size = name.removesuffix("_compute") + "_workspace_size"
        self.arguments = arguments
        fields = [(field[0], field[1]) for field in arguments._fields_]
        values = [field for field in fields if field[0] not in _HEAD + _TAIL]
        # The name of each tensor field; None for a number.
        self.names = [name if kind not in _FORMATS else None for name, kind in values]
        self.head = struct.Struct("@" + "".join(_FORMATS.get(kind, "Q") for _, kind in fields))
        self.size = ctypes.sizeof(arguments)
        assert self.head.size == self.size
        self.first = [name for name, _ in fields].index("stream")  # fields before it
        self.required = self.first - len([name for name, _ in fields if name in _HEAD])
        self.none = (0,) * (len(values) - self.required)
        self.workspace = arguments.workspace.offset
        self.call: Any = None
        self.free: list[_Block] = []

    def __call__(
        self,
        engine: int,
        options: ctypes.Structure | None,
        values: tuple[Any, ...],
        view_of: ViewOf,
        queue: Queue | None = None,
        *more: Any,
    ) -> None:
        call = self.function()
        # Popping and appending are atomic, and the block is ours in between: other
        # threads, which run while ctypes has let go of the GIL, take other blocks.
        try:
            block = self.free.pop()
        except IndexError:
            block = _Block(self)
        try:
            self.write(block, options, values, view_of, queue)
            scratch = None if queue is None else self._lend(queue, engine, block)
            status = call(engine, block.pointer, *more)
            del scratch
        finally:
            self.free.append(block)
        if status:
            raise error_of(status)

    def function(self) -> Any:
        """The function of the library."""
        call = self.call
        if call is None:
            call = self.call = getattr(library(), self.name)
        return call

    def write(
        self,
        block: _Block,
        options: ctypes.Structure | None,
        values: tuple[Any, ...],
        view_of: ViewOf,
        queue: Queue | None,
    ) -> None:
        """Packs the arguments of a call into a block."""
        memory = block.memory
        head = [self.size, 0] if options is None else [self.size, 0, ctypes.addressof(options)]
        if not self.required <= len(values) <= len(block.slots):
            raise TypeError(f"{self.name}: {len(values)} values, want {self.required} to {len(block.slots)}")
        for (name, offset, here, sizes), value in zip(block.slots, values, strict=False):
            if name is None:
                head.append(value)
            elif value is None:
                head.append(0)
            else:
                data, device_type, device_id, code, bits, shape, strides = view_of(name, value)
                dimensions = len(shape)
                if dimensions > MAX_DIMENSIONS:
                    raise InvalidArgumentError(f"{name}: {dimensions} dimensions, want at most 3")
                _PACK[dimensions](
                    memory,
                    offset,
                    data,
                    device_type,
                    device_id,
                    dimensions,
                    code,
                    bits,
                    1,
                    sizes,
                    sizes + 8 * dimensions,
                    0,
                    *shape,
                    *strides,
                )
                head.append(here)
        stream = 0 if queue is None else queue.stream
        head[self.first : self.first] = stream, 0, 0
        head += self.none[len(values) - self.required :]
        self.head.pack_into(memory, 0, *head)

    def _lend(self, queue: Queue, engine: int, block: _Block) -> Any:
        """Puts the workspace that a call needs into its struct; returns what keeps it."""
        needed = ctypes.c_uint64()
        status = getattr(library(), self.workspace_size)(engine, block.pointer, ctypes.byref(needed))
        if status:
            raise error_of(status)
        if needed.value == 0:
            return None
        address, owner = queue.allocate(needed.value)
        _WORKSPACE.pack_into(block.memory, self.workspace, address, needed.value)
        return owner


class _Block:
    """Memory for one call in flight."""

    def __init__(self, function: Function) -> None:
        first = (function.size + 7) // 8 * 8
        self.memory = (ctypes.c_uint64 * ((first + len(function.names) * _SLOT_BYTES) // 8))()
        address = ctypes.addressof(self.memory)
        self.pointer = ctypes.pointer(function.arguments.from_buffer(self.memory))
        # For each field its name, and where its view lies in the memory, and the addresses
        # of the view and of the shape that follows it.
        offsets = range(first, first + len(function.names) * _SLOT_BYTES, _SLOT_BYTES)
        self.slots = [
            (name, offset, address + offset, address + offset + _VIEW_BYTES)
            for name, offset in zip(function.names, offsets, strict=True)
        ]


class Prepared:
    """A call on the CPU whose arguments stay, but for the addresses of some tensors; for one thread at a time.

    values: as those of :class:`Function`; they and the options are kept.
    """

    def __init__(
        self,
        function: Function,
        engine: int,
        options: ctypes.Structure,
        values: tuple[Any, ...],
        view_of: ViewOf,
    ) -> None:
        self._call, self._engine, self._block = function.function(), engine, _Block(function)
        self._kept = options, values
        self._offsets = {name: offset for name, offset, _, _ in self._block.slots if name is not None}
        function.write(self._block, options, values, view_of, None)

    def setter(self, name: str) -> Callable[[int], None]:
        """What sets the address of a tensor for the calls to come."""
        pack, memory, offset = _ADDRESS.pack_into, self._block.memory, self._offsets[name]
        return lambda address: pack(memory, offset, address)

    def __call__(self) -> None:
        status = self._call(self._engine, self._block.pointer)
        if status:
            raise error_of(status)


router_forward = Function("gmoe_router_forward", _abi.RouterForwardArgs)
router_backward = Function("gmoe_router_backward", _abi.RouterBackwardArgs)
router_update = Function("gmoe_router_update", _abi.RouterUpdateArgs)
router_report = Function("gmoe_router_report_compute", _abi.RouterReportArgs)
clans_descend = Function("gmoe_clans_descend", _abi.ClansDescendArgs)
clans_observe = Function("gmoe_clans_observe", _abi.ClansObserveArgs)
experts_forward = Function("gmoe_experts_forward", _abi.ExpertsForwardArgs)
experts_backward = Function("gmoe_experts_backward", _abi.ExpertsBackwardArgs)
experts_quantize = Function("gmoe_experts_quantize", _abi.ExpertsQuantizeArgs)
