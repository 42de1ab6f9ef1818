"""The device at hand: what a GPU is called by its driver, which of several is meant, and a GPU that is left unused."""

import pytest
import torch

from hflm.core import arithmetic, hardware
from hflm.training.metrics_log import peak


@pytest.fixture
def gpus(monkeypatch):
    """A function that gives this machine GPUs of some names, the current one by its number."""
    arithmetic.fastest_format.cache_clear()

    def install(*names, current=0):
        def number(device=None):
            index = torch.device(device).index if device is not None else None
            return current if index is None else index

        monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: torch.device("cuda"))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(names))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: names[number(device)])
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (1, 1000 * (1 + number(device))))
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)

    yield install
    arithmetic.fastest_format.cache_clear()


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("AMD Instinct MI300X", "mi300x"),
        ("AMD Instinct MI300X VF", "mi300x"),
        ("AMD Radeon RX 7900 XTX", None),
    ],
)
def test_the_peaks_of_the_gpu_at_hand(gpus, name, key):
    gpus(name)
    found = hardware.here()
    data_sheet = hardware.named(key) if key else hardware.Device(name, 0, None, None, hardware.GPU_SHARE)
    assert (found.name, found.gpu, found.memory_bytes, found.format) == (name, True, 1000, "bf16")
    assert (found.bf16_flops, found.fp32_flops) == (data_sheet.bf16_flops, data_sheet.fp32_flops)
    known = peak(torch.device("cuda"), autocast=True)
    assert (known and known.flops_per_second) == data_sheet.bf16_flops


def test_of_several_gpus_the_current_one_is_meant(gpus):
    """torch numbers those that CUDA_VISIBLE_DEVICES leaves, and a process of several takes its own."""
    gpus("NVIDIA A100-SXM4-80GB", "NVIDIA H200", current=1)
    found = hardware.here()
    assert (found.name, found.memory_bytes, found.bf16_flops) == ("NVIDIA H200", 2000, 989.4e12)


@pytest.mark.parametrize(("value", "expected"), [("true", "cpu"), ("1", "cpu"), ("false", "cuda"), (None, "cuda")])
def test_a_gpu_can_be_left_unused(gpus, monkeypatch, value, expected):
    gpus("NVIDIA H200")
    if value is not None:
        monkeypatch.setenv("ACCELERATE_USE_CPU", value)
    assert arithmetic.at_hand().type == expected
    assert hardware.here().gpu == (expected == "cuda")
