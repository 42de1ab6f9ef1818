"""What a machine can do: named accelerators, the GPU or CPU at hand, and a quick measurement of the latter.

torch is imported only where it is there already, to ask what a run has taken.
"""

import ctypes
import platform
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

# Shares of the peak that training reaches; assumptions, and named as such wherever they are used.
GPU_SHARE = 0.4  # of the dense bf16 peak: what well-tuned GPT-2 training is reported to reach on one GPU
CPU_SHARE = 0.6  # of numpy's own matrix product, measured beside it
ONEDNN_ON_ZEN_5 = 1.85  # times numpy's speed in fp32, whose library takes half as wide registers; measured on 2 cores
BF16_ON_CPU = 1.6  # times fp32's speed where the CPU has such products: 1.5 on a Zen 5, 1.7 on an earlier AMD EPYC
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
LIBRARIES_BYTES = 1.0e9  # a process of torch and transformers before any model, on the host or as a GPU's context


@dataclass(frozen=True)
class Device:
    """One device: dense peaks in FLOP/s, memory in bytes. `share` of the peak is what training is taken to reach."""

    name: str
    memory_bytes: float
    bf16_flops: float | None
    fp32_flops: float | None
    share: float
    gpu: bool = True

    @property
    def bf16(self):
        """Whether a GPU computes in bf16: all but NVIDIA's before Ampere do."""
        return not any(old in self.name.lower() for old in ("t4", "v100", "p100"))


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


# Watts at full load. A GPU's is the board power in its maker's data sheet, by a part of its name.
CORE_WATTS = 10
OTHER_GPU_WATTS = 300
GPU_WATTS = {
    "B200": 1000,
    "H200": 700,
    "H100": 700,
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


def named(name):
    """The Device of that name, or None.

    >>> named("A100").memory_bytes
    80000000000.0
    """
    key = name.lower().replace(" ", "")
    return Device(key, *DEVICES[key], GPU_SHARE) if key in DEVICES else None


def key_of(name):
    """The key in DEVICES of what a driver calls a device, or None.

    >>> key_of("NVIDIA A100-SXM4-80GB"), key_of("NVIDIA GeForce RTX 4090"), key_of("NVIDIA RTX A4000")
    ('a100', 'rtx4090', None)
    """
    words = re.findall("[a-z0-9]+", name.lower().replace("rtx ", "rtx").replace("h100 pcie", "h100pcie"))
    return next((key for key in DEVICES if key in words), None)


def here():
    """The first GPU that nvidia-smi lists, else the CPU, measured for half a second."""
    return _gpu() or _cpu()


def _gpu():
    if shutil.which("nvidia-smi") is None:
        return None
    asked = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    listed = subprocess.run(asked, capture_output=True, text=True, check=False)
    if listed.returncode or not listed.stdout.strip():
        return None
    name, megabytes = listed.stdout.splitlines()[0].rsplit(",", 1)
    _, bf16, fp32 = DEVICES.get(key_of(name), (None, None, None))
    return Device(name.strip(), float(megabytes) * 2**20, bf16, fp32, GPU_SHARE)


def _cpu():
    told = _cpuinfo()
    # Zen 5 (family 26) is the first of AMD's that computes 512 bits at once.
    zen_5 = amd_avx512() and "cpu family\t: 26" in told
    rate = matmul_rate() * (ONEDNN_ON_ZEN_5 if zen_5 else 1)
    quick = {"amx_bf16", "avx512_bf16"} & set(told.split())
    return Device("this CPU", _memory(), rate * (BF16_ON_CPU if quick else 1), rate, CPU_SHARE, gpu=False)


def cpu_name():
    """What this machine's CPU is called: 'AMD EPYC 9B45'."""
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def amd_avx512():
    """Whether the CPU is AMD's and has AVX-512; False where /proc does not say."""
    told = _cpuinfo()
    return "AuthenticAMD" in told and "avx512f" in told


def _cpuinfo():
    return Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""


def matmul_rate(size=768, seconds=0.4):
    """FLOP/s of numpy's fp32 matrix product on this machine now: the best of the products that fit in `seconds`."""
    import numpy as np

    left, right = np.ones((size, size), np.float32), np.ones((size, size), np.float32)
    out, best = np.empty_like(left), float("inf")
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        started = time.perf_counter()
        np.matmul(left, right, out=out)
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def _memory():
    """Bytes that this machine has free, or that a container may still take."""
    import psutil

    free = psutil.virtual_memory().available
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and limit.read_text().strip().isdigit():
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return float(free)


def tune_malloc(spare):
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


def peak_memory_bytes():
    """The most that this process held so far: on a GPU by torch's allocator, else its resident memory."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
