"""The number formats that a run computes in, for devices that are described and for the one at hand."""

import os
import subprocess
import sys

import pytest
import torch

from hflm.core import arithmetic
from hflm.core.errors import UserError

CPU = torch.device("cpu")
FASTEST = {"bf16": ("bf16", "it has a unit"), "fp16": ("fp16", "tensor cores"), "fp32": ("fp32", "no unit")}


@pytest.mark.parametrize(
    ("fastest", "args", "launcher", "rollback", "autocast", "orthogonalization"),
    [
        ("fp32", {}, None, False, "fp32", "fp32"),
        ("bf16", {}, None, False, "bf16", "bf16"),
        ("fp16", {}, None, False, "fp16", "fp16"),
        ("fp16", {}, None, True, "fp32", "fp16"),
        ("fp32", {"bf16": True}, None, False, "bf16", "fp32"),
        ("bf16", {"bf16": False}, None, False, "fp32", "bf16"),
        ("bf16", {"fp16": True}, None, False, "fp16", "bf16"),
        ("fp16", {"fp16": False}, None, False, "fp32", "fp16"),
        ("fp32", {}, "bf16", False, "bf16", "fp32"),
        ("bf16", {}, "no", False, "bf16", "bf16"),
        ("bf16", {"bf16": False}, "bf16", False, "fp32", "bf16"),
    ],
)
def test_what_is_chosen(monkeypatch, fastest, args, launcher, rollback, autocast, orthogonalization):
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    if launcher:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launcher)
    chosen = arithmetic.choose(CPU, args, fp16=not rollback, known=FASTEST[fastest])
    assert (chosen.autocast, chosen.orthogonalization) == (autocast, orthogonalization)


def test_two_formats_at_once_are_refused():
    with pytest.raises(UserError, match="at most one of fp16 and bf16"):
        arithmetic.choose(CPU, {"bf16": True, "fp16": True})


@pytest.mark.parametrize(
    ("fastest", "args", "warned"),
    [
        ("fp32", {"bf16": True}, "bf16 is slow here, fp32 is faster: no unit. Leave out args.bf16"),
        ("fp32", {}, None),
        ("bf16", {"bf16": True}, None),
        ("bf16", {"bf16": False}, None),
    ],
)
def test_a_slow_format_is_warned_of(fastest, args, warned):
    known = FASTEST[fastest]
    assert arithmetic.slow_setting(arithmetic.choose(CPU, args, known=known), CPU, known) == warned


@pytest.mark.parametrize(
    ("capabilities", "limit", "expected"),
    [
        ({"architecture": "x86_64", "amx_bf16": False, "avx512_bf16": True}, None, "bf16"),
        ({"architecture": "x86_64", "amx_bf16": True, "avx512_bf16": True}, None, "bf16"),
        ({"architecture": "x86_64", "amx_bf16": False, "avx512_bf16": False}, None, "fp32"),
        ({"architecture": "x86_64", "amx_bf16": True, "avx512_bf16": True}, "AVX2", "timed"),
        ({"architecture": "aarch64"}, None, "timed"),
    ],
)
def test_a_cpus_capabilities_decide_and_where_they_do_not_products_are_timed(
    monkeypatch, capabilities, limit, expected
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    for name in arithmetic.ISA_LIMITS:
        monkeypatch.delenv(name, raising=False)
    if limit:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert arithmetic._cpu_format(lambda device_type, other: ("timed", ""))[0] == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [({"fp32": 1.0, "bf16": 0.6}, "bf16"), ({"fp32": 1.0, "bf16": 0.9}, "fp32"), ({"fp32": 1.0, "bf16": 50.0}, "fp32")],
)
def test_a_timed_format_must_be_clearly_faster(seconds, expected):
    assert arithmetic._timed_format("cpu", "bf16", lambda device_type, name: seconds[name])[0] == expected


@pytest.mark.parametrize(
    ("native_bf16", "capability", "expected"),
    [(True, (9, 0), "bf16"), (False, (7, 5), "fp16"), (False, (7, 0), "fp16"), (False, (6, 1), "timed")],
    ids=["H100", "T4", "V100", "GTX 1080"],
)
def test_a_gpu_before_ampere_computes_in_fp16(monkeypatch, native_bf16, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native_bf16 or including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert arithmetic._cuda_format(lambda device_type, other: ("timed", ""))[0] == expected


@pytest.mark.skipif(torch.cpu.get_capabilities()["architecture"] != "x86_64", reason="the limit is oneDNN's for x86")
def test_a_cpu_whose_wide_registers_are_hidden_computes_in_fp32():
    """Measured here: without a bf16 unit torch's bf16 products are many times slower than fp32's."""
    code = "from hflm.core import arithmetic; print(*arithmetic.fastest_format('cpu'))"
    hidden = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    printed = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **hidden}, capture_output=True, text=True, check=True
    ).stdout
    assert printed.startswith("fp32 timed: a product in bf16 takes")


@pytest.mark.parametrize(
    ("fastest", "asked", "dtype"),
    [
        ("bf16", None, "float32"),
        ("bf16", "auto", "bfloat16"),
        ("fp16", "auto", "float16"),
        ("fp32", "auto", "float32"),
        ("fp32", "bfloat16", "bfloat16"),
    ],
)
def test_a_model_is_asked_in_float32_unless_something_else_is_named(fastest, asked, dtype):
    assert arithmetic.inference_dtype(CPU, asked, FASTEST[fastest])[0] == dtype
