"""Texts that the library writes into a buffer of the caller."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from genesis_moe._library import check


def text_of(function: Callable[..., int], *arguments: Any) -> str:
    """The text of ``function(*arguments, buffer, capacity, needed)``."""
    needed = ctypes.c_size_t()
    # The text may grow between two calls (a counter more digits), so ask until it fits.
    capacity = 4096
    while True:
        buffer = ctypes.create_string_buffer(capacity)
        status = function(*arguments, buffer, capacity, ctypes.byref(needed))
        if needed.value <= capacity:
            check(status)
            return buffer.value.decode()
        capacity = needed.value
