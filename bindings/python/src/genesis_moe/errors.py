"""The exceptions, one for each status of the C library.

Each also derives from the built-in exception that fits, so ``except ValueError``
catches a bad argument. The message is the library's: it names the argument, its
value and what was expected.
"""

from __future__ import annotations


class GenesisMoeError(Exception):
    """Anything that the library reports."""


class InvalidArgumentError(GenesisMoeError, ValueError):
    """A value, shape, dtype or pointer is wrong."""


class InvalidHandleError(GenesisMoeError, ValueError):
    """An engine handle is NULL, destroyed, or not one of ours."""


class UnsupportedError(GenesisMoeError, NotImplementedError):
    """Valid, but this build or device cannot do it."""


class OutOfMemoryError(GenesisMoeError, MemoryError):
    """Memory ran out."""


class NoDeviceError(GenesisMoeError, RuntimeError):
    """The device asked for is not there."""


class DriverError(GenesisMoeError, RuntimeError):
    """A driver or BLAS call failed."""


class AbiMismatchError(GenesisMoeError, RuntimeError):
    """The shared library speaks another version of the ABI than this package."""


class ForkedError(GenesisMoeError, RuntimeError):
    """Called in a forked child of a process that had used the library."""


class InternalError(GenesisMoeError, RuntimeError):
    """A bug of ours; the message carries the cause."""


class LibraryNotFoundError(GenesisMoeError, OSError):
    """The shared library was not found; the message lists each place tried."""


class DistributedError(GenesisMoeError, RuntimeError):
    """The ranks of a process group could not work together: one died, stalls, or differs from the others."""


# By gmoe_status.
BY_STATUS: dict[int, type[GenesisMoeError]] = {
    1: InvalidArgumentError,
    2: InvalidHandleError,
    3: UnsupportedError,
    4: OutOfMemoryError,
    5: NoDeviceError,
    6: DriverError,
    7: AbiMismatchError,
    8: ForkedError,
    9: InternalError,
}
