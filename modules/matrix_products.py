"""Matrix products of float32 on CPUs that torch's own library does not use in full.

torch multiplies by MKL, which takes its AVX-512 kernels on Intel's processors alone: on AMD's it
reaches less than half of what oneDNN, the other library that torch brings, reaches there.
"""

from __future__ import annotations

import warnings
from functools import cache

import torch
from torch import Tensor

# Below these a call of oneDNN costs more than it gains.
MIN_SIDE = 8  # inner and last side of a product
MIN_MULTIPLY_ADDS = 2**21
# A left matrix that is stored by columns is copied first, which many columns must make up for and
# which long columns make slow.
MIN_COLUMNS_FOR_COPY, MAX_COPIED_COLUMN = 128, 2**14


def use_fast_matrix_products() -> None:
    """Let this process multiply large float32 matrices by oneDNN, if MKL is slow on its processor.

    For `mm` and `addmm` on the CPU, and so for every Linear and its gradients, whatever the model.
    The same numbers but for rounding, every time the same. Compiled models multiply as before.
    """
    capabilities = torch.cpu.get_capabilities()
    slow = "AMD" in capabilities.get("cpu_name", "") and capabilities.get("avx512_f", False)
    if slow and torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available():
        replace_matrix_products()


@cache
def replace_matrix_products() -> torch.library.Library:
    """Put `_mm` and `_addmm` in the place of torch's, for as long as the process lives."""
    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that kernels are replaced
        library.impl("mm", _mm, "CPU", allow_override=True)
        library.impl("addmm", _addmm, "CPU", allow_override=True)
    return library


def _mm(left: Tensor, right: Tensor) -> Tensor:
    """left @ right."""
    if _gains(left, right):
        return _by_onednn(left, right, None)
    # The kernel that writes into a tensor is still torch's own.
    return torch.mm(left, right, out=left.new_empty(0))


def _addmm(bias: Tensor, left: Tensor, right: Tensor, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta * bias + alpha * left @ right."""
    of_columns = bias.shape == right.shape[1:] and bias.dtype == left.dtype
    if beta == alpha == 1 and of_columns and _gains(left, right):
        return _by_onednn(left, right, bias)
    return torch.addmm(bias, left, right, beta=beta, alpha=alpha, out=left.new_empty(0))


def _gains(left: Tensor, right: Tensor) -> bool:
    """Whether these are matrices that oneDNN multiplies faster; not where torch would refuse."""
    if not (left.dim() == right.dim() == 2 and left.dtype == right.dtype == torch.float32):
        return False
    rows, inner = left.shape
    columns = right.shape[1]
    by_rows = left.is_contiguous()
    # Of parts of wider matrices oneDNN has kernels a hundred times slower.
    whole = (by_rows or left.t().is_contiguous()) and (
        right.is_contiguous() or right.t().is_contiguous()
    )
    return (
        whole
        and len(right) == inner
        and min(inner, columns) >= MIN_SIDE
        and rows * inner * columns >= MIN_MULTIPLY_ADDS
        and (by_rows or (columns >= MIN_COLUMNS_FOR_COPY and inner <= MAX_COPIED_COLUMN))
    )


def _by_onednn(left: Tensor, right: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(left, right.t(), bias, "none", [], "")
    return product
