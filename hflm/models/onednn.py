"""fp32 matrix products through oneDNN, on CPUs whose AVX-512 units torch's own library leaves unused.

torch gives fp32 products to MKL, which uses no AVX-512 on CPUs that are not Intel's; oneDNN, which is part of torch,
does: 490 against 225 GFLOP/s on 2 cores of an AMD Zen 5. torch has no setting for it, so `aten::mm`, `addmm` and
`addmm_` are registered anew for the CPU, by torch.library. The product itself is `mkldnn::_linear_pointwise`, a private
operator of torch (2.15): tests/models/test_onednn.py fails when it changes.

The pipeline calls `use_where_faster` once, at its start. The environment variable HFLM_ONEDNN=0 turns it off.
"""

import functools
import os
import time
import warnings
from collections.abc import Callable

import torch

aten = torch.ops.aten
SWITCH = "HFLM_ONEDNN"
GAIN = 1.25  # oneDNN is used where its product is so many times as fast
LEAST = 1 << 20  # multiplications; below it MKL is as fast, as it is for a single row
ROWS = 1024  # of a sum at a time: what is added stays small, and near to the core


def measure_gain() -> float:
    """Seconds of a product by torch over those by oneDNN; takes some 20 ms."""
    left, right = torch.ones(512, 768), torch.ones(768, 512)
    return _seconds(lambda: aten.mm(left, right)) / _seconds(lambda: _onednn(left, right))


def use_where_faster(measure: Callable[[], float] = measure_gain) -> str | None:
    """Give this process' fp32 products to oneDNN if the CPU has AVX-512 and a timed product is faster there.

    A product then differs from MKL's in the last bits, and is the same each time. Other devices, dtypes and small
    products are computed as before. Returns a line for the log, or None where nothing was changed.
    """
    if os.environ.get(SWITCH) == "0" or not torch.backends.mkldnn.is_available():
        return None
    if not torch.cpu.get_capabilities().get("avx512_f"):
        return None
    ratio = measure()
    if ratio < GAIN:
        return None
    register()
    return f"fp32 products by oneDNN, {ratio:.1f} times as fast as MKL's here ({SWITCH}=0 turns it off)"


def _seconds(product: Callable[[], torch.Tensor]) -> float:
    best = float("inf")
    for _ in range(6):
        started = time.perf_counter()
        product()
        best = min(best, time.perf_counter() - started)
    return best


@functools.cache
def register() -> torch.library.Library:
    """Register the kernels; they are used for as long as the Library that is returned lives."""
    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"(?s).*Overriding a previously registered kernel")
        for name, kernel in (("mm", _mm), ("addmm", _addmm), ("addmm_", _addmm_)):
            library.impl(name, kernel, "CPU")
    return library


def _mm(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    if _fit(left, right):
        # A weight's gradient has a transposed left matrix, which oneDNN copies: of the two, the smaller.
        if not left.is_contiguous() and left.shape[0] > right.shape[1]:
            return _onednn(right.t(), left.t()).t().contiguous()
        return _onednn(left, right)
    return aten.mm.out(left, right, out=left.new_empty(0))


def _addmm(
    bias: torch.Tensor, left: torch.Tensor, right: torch.Tensor, *, beta: float = 1, alpha: float = 1
) -> torch.Tensor:
    if _fit(left, right) and beta == alpha == 1 and bias.dtype is torch.float32 and bias.shape == right.shape[1:]:
        return _onednn(left, right, bias.contiguous())  # it takes any bias for that
    return aten.addmm.out(bias, left, right, beta=beta, alpha=alpha, out=left.new_empty(0))


def _addmm_(
    total: torch.Tensor, left: torch.Tensor, right: torch.Tensor, *, beta: float = 1, alpha: float = 1
) -> torch.Tensor:
    size = [*left.shape[:1], *right.shape[1:]]
    if left.ndim == right.ndim == 2 and list(total.shape) != size:  # as `out` it would be resized
        raise RuntimeError(f"Bad in-place call: tensor of size {list(total.shape)} and product of size {size}")
    if _fit(left, right) and total.dtype is torch.float32 and beta == alpha == 1:
        for some, of_left in zip(total.split(ROWS), left.split(ROWS), strict=True):
            some += _onednn(of_left, right)  # into a tensor of its own
        return total
    return aten.addmm.out(total, left, right, beta=beta, alpha=alpha, out=total)


def _fit(left: torch.Tensor, right: torch.Tensor) -> bool:
    return (
        left.ndim == right.ndim == 2
        and left.dtype is right.dtype is torch.float32
        and left.shape[1] == right.shape[0]
        and left.shape[0] > 1
        and left.numel() * right.shape[1] >= LEAST
    )


def _onednn(left: torch.Tensor, right: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    # Hundreds of times slower where the rows of the right matrix have gaps between them.
    if not (right.is_contiguous() or right.t().is_contiguous()):
        right = right.contiguous()
    return torch.ops.mkldnn._linear_pointwise(left, right.t(), bias, "none", [], "")
