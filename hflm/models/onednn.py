"""fp32 matrix products on AMD's CPUs with AVX-512, up to twice as fast.

torch gives them to MKL, which leaves AVX-512 unused on CPUs that are not Intel's. oneDNN, which torch brings too, uses
it: 490 against 225 GFLOP/s on 2 cores of a Zen 5, 218 against 197 on an earlier AMD EPYC. torch has no switch for it, so
`aten::mm`, `addmm` and `addmm_` are registered anew, as torch.library lets one.
"""

import functools
import warnings

import torch

from hflm.core import hardware

aten = torch.ops.aten
LEAST = 1 << 20  # multiplications; below it MKL is as fast, as it is for a single row
ROWS = 1024  # of a sum at a time: what is added stays small, and near to the core


def speed_up(compiled=False):
    """Give this process' fp32 products to oneDNN where that is faster, and with `compiled` those of torch.compile.

    A product then differs from MKL's in the last bits, and is the same each time. Other devices, dtypes and small
    products are computed as before, some 3 microseconds later.
    """
    if hardware.amd_avx512() and torch.backends.mkldnn.is_available():
        register()
        if compiled:
            register_compiled()


@functools.cache
def register():
    """The kernels, for as long as the Library that is returned lives."""
    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"(?s).*Overriding a previously registered kernel")
        for name, kernel in (("mm", _mm), ("addmm", _addmm), ("addmm_", _addmm_)):
            library.impl(name, kernel, "CPU")
    return library


def register_compiled():
    """Let what torch.compile builds call `aten::mm` and `addmm` as they are registered, where it would call MKL."""
    from torch._inductor.lowering import make_fallback

    torch.compiler.config.cache_key_tag = "hflm.models.onednn"  # graphs kept on disk without it call MKL
    for product in (aten.mm.default, aten.addmm.default):
        make_fallback(product, warn=False, override_decomp=True)


def _mm(left, right):
    if _fit(left, right):
        # A weight's gradient has a transposed left matrix, which oneDNN copies: of the two, the smaller.
        if not left.is_contiguous() and left.shape[0] > right.shape[1]:
            return _onednn(right.t(), left.t()).t().contiguous()
        return _onednn(left, right)
    return aten.mm.out(left, right, out=left.new_empty(0))


def _addmm(bias, left, right, *, beta=1, alpha=1):
    if _fit(left, right) and beta == alpha == 1 and bias.dtype is torch.float32 and bias.shape == right.shape[1:]:
        return _onednn(left, right, bias.contiguous())  # it takes any bias for that
    return aten.addmm.out(bias, left, right, beta=beta, alpha=alpha, out=left.new_empty(0))


def _addmm_(total, left, right, *, beta=1, alpha=1):
    size = [*left.shape[:1], *right.shape[1:]]
    if left.ndim == right.ndim == 2 and list(total.shape) != size:  # as `out` it would be resized
        raise RuntimeError(f"Bad in-place call: tensor of size {list(total.shape)} and product of size {size}")
    if _fit(left, right) and total.dtype is torch.float32 and beta == alpha == 1:
        for some, of_left in zip(total.split(ROWS), left.split(ROWS), strict=True):
            some += _onednn(of_left, right)  # into a tensor of its own
        return total
    return aten.addmm.out(total, left, right, beta=beta, alpha=alpha, out=total)


def _fit(left, right):
    return (
        left.ndim == right.ndim == 2
        and left.dtype is right.dtype is torch.float32
        and left.shape[1] == right.shape[0]
        and left.shape[0] > 1
        and left.numel() * right.shape[1] >= LEAST
    )


def _onednn(left, right, bias=None):
    # Hundreds of times slower where the rows of the right matrix have gaps between them.
    if not (right.is_contiguous() or right.t().is_contiguous()):
        right = right.contiguous()
    return torch.ops.mkldnn._linear_pointwise(left, right.t(), bias, "none", [], "")
