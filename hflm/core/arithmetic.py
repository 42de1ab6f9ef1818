"""The number formats that a run computes in, decided from the device at hand.

Without a bf16 unit torch's bf16 product on a CPU is 5 to 100 times slower than its fp32 product, and GPUs before Ampere
emulate bf16; so the device is asked, and timed where it does not answer. torch is imported when a function is called.
"""

import functools
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from hflm.core.errors import UserError

if TYPE_CHECKING:
    import torch

FORMATS = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
GAIN = 1.2  # a timed format is taken in place of fp32 when its product is so many times as fast
LANES = 64  # GPU kernels are fastest where a matrix' sides are multiples of this
Timed = Callable[[str, str], tuple[str, str]]  # as `_timed_format`
ISA_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")  # oneDNN's documented limits on the instructions it uses


@dataclass(frozen=True)
class Arithmetic:
    """How one stage computes. `autocast` and `orthogonalization` are "bf16", "fp16" or "fp32".

    autocast: of the forward and backward pass; "fp32" is no autocast. orthogonalization: of Muon's matrix products.
    tf32: whether a GPU's fp32 products may round their inputs to TF32. vocabulary_multiple: what the loss pads the
    vocabulary's side of its products to. reason: what the choice rests on.
    """

    autocast: str
    orthogonalization: str
    tf32: bool
    vocabulary_multiple: int
    reason: str

    def __str__(self) -> str:
        parts = [f"{self.autocast} ({self.reason})"]
        if self.orthogonalization != self.autocast:
            parts.append(f"Muon's products in {self.orthogonalization}")
        if self.tf32:
            parts.append("TF32 in fp32 products")
        return "; ".join(parts)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def at_hand() -> "torch.device":
    """The accelerator that torch finds, else the CPU, which ACCELERATE_USE_CPU=true takes in any case."""
    import torch

    if "ACCELERATE_USE_CPU" in os.environ:
        from accelerate.utils import parse_flag_from_env

        if parse_flag_from_env("ACCELERATE_USE_CPU"):
            return torch.device("cpu")
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def choose(
    device: "torch.device", args: Mapping[str, Any], fp16: bool = True, known: tuple[str, str] | None = None
) -> Arithmetic:
    """The Arithmetic of training on `device` with TrainingArguments' keys `args`.

    `args`' own bf16, fp16 and tf32 are kept, and so is the mixed precision of an accelerate configuration; the rest
    follows from the device. fp16: whether fp16, whose scaler leaves out steps, may be chosen. known: what
    `fastest_format` says of the device, where that is known.
    Raises UserError when `args` ask for bf16 and fp16 together.
    """
    fastest, reason = known or fastest_format(device.type)
    asked = [name for name in ("bf16", "fp16") if args.get(name)]
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION")
    if len(asked) > 1:
        raise UserError("args: at most one of fp16 and bf16 can be true")
    if asked:
        autocast, why = asked[0], f"args.{asked[0]}"
    elif args.get("bf16") is False and fastest == "bf16":
        autocast, why = "fp32", "args.bf16: false"
    elif args.get("fp16") is False and fastest == "fp16":
        autocast, why = "fp32", "args.fp16: false"
    elif launched in ("bf16", "fp16"):
        autocast, why = launched, "mixed_precision of accelerate's configuration"
    elif fastest == "fp16" and not fp16:
        autocast, why = "fp32", "fp16's scaler leaves out steps, which on_spike: rollback does not allow"
    else:
        autocast, why = fastest, reason
    return Arithmetic(
        autocast=autocast,
        orthogonalization=fastest,
        tf32=bool(args.get("tf32", _has_tf32(device.type))),
        vocabulary_multiple=vocabulary_multiple(device.type),
        reason=why,
    )


def inference_dtype(device: "torch.device", asked: str | None, known: tuple[str, str] | None = None) -> tuple[str, str]:
    """(dtype, reason) of a model that is asked and not trained: float32 unless `asked` names another one.

    "auto" is the fastest format of the device. It is not the default: in a narrower format than float32 a likelihood
    depends, in its last digits, on the other rows of its batch.

    >>> inference_dtype(torch.device("cpu"), None)
    ('float32', 'scores do not depend on the batch')
    """
    if asked is None:
        return "float32", "scores do not depend on the batch"
    if asked != "auto":
        return asked, "asked for"
    fastest, reason = known or fastest_format(device.type)
    return FORMATS[fastest], reason


def slow_setting(chosen: Arithmetic, device: "torch.device", known: tuple[str, str] | None = None) -> str | None:
    """What to say of a number format that was asked for and is slow on `device`, or None.

    >>> slow_setting(Arithmetic("fp32", "fp32", False, 1, ""), torch.device("cpu"))
    """
    fastest, reason = known or fastest_format(device.type)
    if chosen.autocast in ("fp32", fastest) or (device.type != "cpu" and fastest != "fp32"):
        return None
    return f"{chosen.autocast} is slow here, {fastest} is faster: {reason}. Leave out args.{chosen.autocast}"


def vocabulary_multiple(device_type: str) -> int:
    """What the vocabulary's side of the loss' matrix products is padded to."""
    return 1 if device_type == "cpu" else LANES


def dtype_of(name: str) -> "torch.dtype":
    """The torch dtype of a format's name.

    >>> dtype_of("bf16")
    torch.bfloat16
    """
    import torch

    return getattr(torch, FORMATS[name])


@contextmanager
def restored_fp32_precision() -> Iterator[None]:
    """Undo at the end what TrainingArguments sets for the whole process: TF32 in the fp32 products of a GPU."""
    import torch

    backends: Any = torch.backends  # it sets this attribute dynamically
    before = backends.fp32_precision
    try:
        yield
    finally:
        backends.fp32_precision = before


@functools.cache
def fastest_format(device_type: str) -> tuple[str, str]:
    """(format, reason) of the fastest matrix products on a device type such as "cpu" or "cuda"."""
    if device_type == "cpu":
        return _cpu_format()
    if device_type == "cuda":
        return _cuda_format()
    return _timed_format(device_type, "bf16")


def _cpu_format(timed: Timed | None = None) -> tuple[str, str]:
    import torch

    capabilities = torch.cpu.get_capabilities()
    # get_capabilities reports what the CPU has. A limit on oneDNN may hide it, and on other CPUs than x86 a unit says
    # little about torch's kernels: there both products are timed.
    if capabilities["architecture"] != "x86_64" or any(name in os.environ for name in ISA_LIMITS):
        return (timed or _timed_format)("cpu", "bf16")
    units = [unit for unit in ("amx_bf16", "avx512_bf16") if capabilities[unit]]
    if units:
        return "bf16", f"this CPU has {units[0].upper().replace('_', '-')}"
    return "fp32", f"this CPU has no bf16 unit, {torch.backends.cpu.get_cpu_capability()}"


def _cuda_format(timed: Timed | None = None) -> tuple[str, str]:
    import torch

    name = torch.cuda.get_device_name()
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return "bf16", f"{name} computes in bf16"
    if torch.cuda.get_device_capability() >= (7, 0):
        return "fp16", f"{name} emulates bf16 and has fp16 tensor cores"
    return (timed or _timed_format)("cuda", "fp16")


def _timed_format(
    device_type: str, other: str, product_seconds: Callable[[str, str], float] | None = None
) -> tuple[str, str]:
    """`other` where its product is faster than fp32's on this machine, else "fp32"; takes some 50 ms.

    product_seconds: (device type, format) -> seconds of a product; measured by default.
    """
    try:
        seconds = {name: (product_seconds or _product_seconds)(device_type, name) for name in ("fp32", other)}
    except RuntimeError as error:  # the device does not know the format
        return "fp32", f"{device_type} refuses {other} products: {str(error).splitlines()[0][:80]}"
    ratio = seconds["fp32"] / seconds[other]
    if ratio >= GAIN:
        return other, f"timed: a product in {other} is {ratio:.1f} times as fast as in fp32"
    return "fp32", f"timed: a product in {other} takes {1 / ratio:.1f} times as long as in fp32"


def _product_seconds(device_type: str, name: str) -> float:
    import torch

    left, right = (torch.ones(size, device=device_type, dtype=dtype_of(name)) for size in ((128, 512), (512, 512)))
    synchronize = torch.accelerator.synchronize if device_type != "cpu" else lambda: None
    best = float("inf")
    for _ in range(4):  # the first one loads the kernels
        synchronize()
        started = time.perf_counter()
        left @ right
        synchronize()
        best = min(best, time.perf_counter() - started)
    return best


def _has_tf32(device_type: str) -> bool:
    import torch

    if device_type != "cuda" or torch.version.hip is not None:
        return False
    return torch.cuda.get_device_capability() >= (8, 0)
