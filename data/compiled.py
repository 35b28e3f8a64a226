"""What compiled loops over bytes share: how they are compiled, and words of memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

# Bytes that a compiled loop only reads.
BYTES = types.Array(types.uint8, 1, "C", readonly=True)


def compiled(*arguments: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compiled for arguments of these types, at once, else when called; kept on disk.

    Other threads run during a call.
    """
    decorator: Callable[..., Any] = njit([arguments] if arguments else None, nogil=True, cache=True)
    return decorator


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """Made part of its callers: a call from a hot loop would cost more than what it does."""
    made: Callable[..., Any] = njit(inline="always")(function)
    return made


def _typed_load(context: Any, address: Any) -> Any:
    """The eight bytes from an address on as a little-endian uint64; numba has no such load."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
        return builder.load(place, align=1)

    return types.uint64(types.intp), generate


def _typed_store(context: Any, address: Any, word: Any) -> Any:
    """Write a word as eight bytes, the lowest first, from an address on."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
        builder.store(arguments[1], place, align=1)
        return context.get_dummy_value()

    return types.void(types.intp, types.uint64), generate


load_word: Any = intrinsic(_typed_load)
store_word: Any = intrinsic(_typed_store)
