"""Devices: named accelerators with their data sheets, the one at hand, its memory. torch is imported when it is asked."""

import ctypes
import platform
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from hflm.core import arithmetic

GPU_SHARE = 0.4  # of the dense peak: what well-tuned GPT-2 training is reported to reach on one GPU; an assumption
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
LIBRARIES_BYTES = 1.0e9  # a process of torch and transformers before any model, on the host or as a GPU's context


@dataclass(frozen=True)
class Device:
    """One device: memory in bytes, dense peaks in FLOP/s (None: not known).

    `share` of the peak is what training is taken to reach. `format` is the fastest number format of its products:
    "bf16", "fp16" or "fp32".
    """

    name: str
    memory_bytes: float
    bf16_flops: float | None
    fp32_flops: float | None
    share: float
    gpu: bool = True
    format: str = "bf16"


# Peaks without sparsity; fp32 without TF32. From the makers' data sheets and architecture papers.
DEVICES = {
    "t4": (16e9, 65e12, 8.1e12),  # NVIDIA T4 data sheet; fp16, it has no bf16
    "v100": (32e9, 125e12, 15.7e12),  # V100 data sheet, SXM2 32 GB; fp16, it has no bf16
    "a10": (24e9, 125e12, 31.2e12),  # A10 data sheet
    "a40": (48e9, 149.7e12, 37.4e12),  # A40 data sheet
    "a100-40gb": (40e9, 312e12, 19.5e12),  # A100 data sheet
    "a100": (80e9, 312e12, 19.5e12),
    "l4": (24e9, 121e12, 30.3e12),  # L4 data sheet: 242 with sparsity
    "l40s": (48e9, 362e12, 91.6e12),  # L40S data sheet: 733 with sparsity
    "rtx3090": (24e9, 71e12, 35.6e12),  # GA102 architecture paper, fp32 accumulation
    "rtx4090": (24e9, 165.2e12, 82.6e12),  # Ada architecture paper, fp32 accumulation
    "h100": (80e9, 989.4e12, 66.9e12),  # H100 data sheet, SXM: 1979 with sparsity
    "h100pcie": (80e9, 756e12, 51.2e12),  # H100 data sheet, PCIe
    "h200": (141e9, 989.4e12, 66.9e12),  # H200 data sheet, SXM
    "gh200": (96e9, 989.4e12, 66.9e12),  # GH200 data sheet
    "b200": (180e9, 2250e12, 75e12),  # HGX B200 data sheet, an eighth
    "mi300x": (192e9, 1307.4e12, 163.4e12),  # AMD MI300X data sheet
}
WITHOUT_BF16 = ("t4", "v100")  # the first figure is of fp16


# Watts at full load. A GPU's is the board power in its maker's data sheet, by a part of its name.
CORE_WATTS = 10
OTHER_GPU_WATTS = 300
GPU_WATTS = {
    "B200": 1000,
    "H200": 700,
    "H100": 700,
    "MI300X": 750,
    "A100": 400,
    "A10": 150,
    "V100": 300,
    "L40": 300,
    "L4": 72,
    "T4": 70,
    "RTX 5090": 575,
    "RTX 4090": 450,
    "RTX 3090": 350,
}


def named(name: str) -> Device | None:
    """The Device of that name, or None.

    >>> named("A100").memory_bytes
    80000000000.0
    """
    key = name.lower().replace(" ", "")
    if key not in DEVICES:
        return None
    return Device(key, *DEVICES[key], GPU_SHARE, format="fp16" if key in WITHOUT_BF16 else "bf16")


def key_of(name: str) -> str | None:
    """The key in DEVICES of what a driver calls a device, or None.

    >>> key_of("NVIDIA A100-SXM4-80GB"), key_of("NVIDIA GeForce RTX 4090"), key_of("NVIDIA RTX A4000")
    ('a100', 'rtx4090', None)
    """
    words = re.findall("[a-z0-9]+", name.lower().replace("rtx ", "rtx").replace("h100 pcie", "h100pcie"))
    return next((key for key in DEVICES if key in words), None)


def here() -> Device:
    """The accelerator that torch finds, with its data sheet where that is known, else the CPU, whose peak is not."""
    device = arithmetic.at_hand()
    fastest, _ = arithmetic.fastest_format(device.type)
    if device.type == "cpu":
        return Device("this CPU", _memory(), None, None, 1.0, gpu=False, format=fastest)
    import torch

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    memory = float(torch.cuda.mem_get_info(device)[1]) if device.type == "cuda" else _memory()
    _, fast, fp32 = DEVICES.get(key_of(name) or "", (None, None, None))
    return Device(name, memory, fast, fp32, GPU_SHARE, format=fastest)


def cpu_name() -> str:
    """What this machine's CPU is called: 'AMD EPYC 9B45'."""
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _memory() -> float:
    """Bytes that this machine has free, or that a container may still take."""
    import psutil

    free = psutil.virtual_memory().available
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and limit.read_text().strip().isdigit():
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return float(free)


def tune_malloc(spare: bool) -> None:
    """What glibc does with the memory that a training step frees: keeps it for the next step, or gives it back at once.

    By default it gives some back, and gets it again page by page: 4 % of a step of gpt2-mini on 2 cores. Kept, the peak
    is the same. `spare`: blocks of 128 kB and more go back at once, so that the process holds what torch holds, at up to
    a quarter more time; with checkpoints in place of activations it held 2.4 times as much before. Other C libraries
    are left alone.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, 128 << 10 if spare else 32 << 20)  # 32 MB: as large as it grows by itself
        libc.mallopt(M_TRIM_THRESHOLD, 128 << 10 if spare else (1 << 31) - 1)


def peak_memory_bytes() -> int:
    """The most that this process held so far: on a GPU by torch's allocator, else its resident memory."""
    import torch

    if arithmetic.at_hand().type == "cuda":
        return torch.cuda.max_memory_allocated()
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
