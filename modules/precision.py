"""Types in which a model's matrix products are computed; parameters and sums stay float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

Precision = Literal["float32", "tf32", "bf16"]


@contextmanager
def matrix_precision(precision: Precision) -> Iterator[None]:
    """Compute float32 matrix products within in tf32, if that is `precision`; on a GPU only.

    For the forward and the backward pass: a product looks it up when it is computed.
    """
    before = torch.get_float32_matmul_precision()
    if precision == "tf32":
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """Compute matrix products within in bf16, if that is `precision`.

    For the forward pass: the backward pass takes its types from there.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def apply_in_float32(function: type[torch.autograd.Function], *args: Any) -> Any:
    """`function.apply(*args)` outside of autocast, floating point tensors as float32.

    For functions with a backward of their own, which autocast does not see: both of their passes
    then compute alike.
    """
    device = next(arg.device for arg in args if isinstance(arg, Tensor))
    # Tensors of the device meta have a shape alone, and it has no autocast.
    if device.type == "meta" or not torch.is_autocast_enabled(device.type):
        return function.apply(*args)
    with torch.autocast(device.type, enabled=False):
        return function.apply(
            *(
                arg.float() if isinstance(arg, Tensor) and arg.is_floating_point() else arg
                for arg in args
            )
        )
